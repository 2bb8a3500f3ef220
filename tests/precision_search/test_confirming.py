"""No proof of reuse covers everything: full passes of what is handed on tell, and the search is done anew without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.precision_search import Classification, SearchResult
from snn_extreme_quant.precision_search.measuring import Rounds
from tests.precision_search.networks import trained

EXAMPLES, WIDTH = 240, 12
NOTE = "the search was done anew without."


class Gain(nn.Module):
    """A block that notes whether what it was given is strong; behind one that did, what the next one gives is cut."""

    def __init__(self, before: Gain | None) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.before, self.threshold, self.loud = [before], 1e9, False

    def forward(self, x: Tensor) -> Tensor:
        self.loud = bool(x.max() > self.threshold)
        h = torch.relu(self.two(torch.relu(self.one(x))))
        before = self.before[0]
        return h.clamp(max=0.5) if before is not None and before.loud else h


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Linear(6, WIDTH)
        blocks: list[Gain] = []
        for _ in range(3):
            blocks.append(Gain(blocks[-1] if blocks else None))
        self.blocks, self.last = nn.ModuleList(blocks), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for block in self.blocks:
            x = block(x)
        found: Tensor = self.last(x)
        return found


def gated() -> tuple[nn.Module, Classification]:
    """Return a network that is loud in half of the rounds, of which the trial of reuse sees two."""
    torch.manual_seed(0)
    inputs = torch.randn(EXAMPLES, 6)
    labels = (inputs @ torch.randn(6, 4)).argmax(-1)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(net(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    order = Rounds(EXAMPLES, 0)
    with torch.no_grad():
        highest = [float(net.first(inputs[order.rows(number)]).max()) for number in range(len(order))]
    for block in net.blocks:
        block.threshold = sorted(highest)[len(highest) // 2] - 0.01  # type: ignore[assignment]
    return net.eval(), Classification(lambda model, rows: model(inputs[rows]), labels)


def figures(result: SearchResult) -> list[object]:
    return [candidate.to_dict() for candidate in result.candidates]


@pytest.mark.parametrize(
    "options",
    [{}, {"confidence": None, "sensitivity": 1.0}, {"max_memory": "1%"}, {"exact": "front"}],
    ids=["default", "no test", "not feasible", "front"],
)
def test_what_no_trial_shows_is_found_and_the_search_done_anew(options: dict[str, Any], tmp_path: Path) -> None:
    net, evaluator = gated()
    given = {"levels": [8, 4, 3, 2, 1], "max_drop": 3.0, **options}
    plain = sxq.search(net, evaluator, reuse=None, **given)
    log = tmp_path / "log.jsonl"
    found = sxq.search(net, evaluator, log=log, **given)
    assert [note for note in found.notes if note.endswith(NOTE)]
    assert figures(found) == figures(plain)
    assert found.plan == plain.plan
    assert [c.to_dict() for c in found.front] == [c.to_dict() for c in plain.front]
    assert found.path == plain.path
    assert found.sensitivity == plain.sensitivity
    assert found.cost is not None
    assert found.cost["reused"] == 0.0
    assert found.cost["examples_checked"] > 0

    # The log knows: nothing that was reused counts, and nothing is reused again.
    kinds = [json.loads(line)["kind"] for line in log.read_text().splitlines()]
    assert kinds.count("refuted") == 1
    again = sxq.search(net, evaluator, log=log, **given)
    assert again.examples_evaluated == 0
    assert figures(again) == figures(plain)
    assert found.notes == again.notes


def test_what_is_handed_on_was_seen_by_full_passes(tmp_path: Path) -> None:
    """All rounds of the plan that is chosen are evaluated without reuse, once; of the others a few."""
    net, evaluator = trained()
    log = tmp_path / "log.jsonl"
    options = {"max_drop": 2.0, "max_memory": "20%", "levels": [8, 6, 4, 3, 2, 1], "log": log}
    result = sxq.search(net, evaluator, **options)  # type: ignore[arg-type]
    assert result.cost is not None
    assert result.cost["reused"] > 0.0
    assert result.cost["examples_checked"] >= evaluator.examples
    assert result.notes == ()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    precisions = {line["key"]: line["precisions"] for line in lines if line["kind"] == "candidate"}
    assert result.plan is not None
    chosen = next(key for key, given in precisions.items() if given == _plain(result))
    last = {(line["key"], line["round"]): line["reused"] for line in lines if line["kind"] == "outcome"}
    assert not any(reused for (key, _), reused in last.items() if key == chosen)
    assert any(last.values())
    again = sxq.search(net, evaluator, **options)  # type: ignore[arg-type]
    assert again.examples_evaluated == 0
    assert again.cost is not None
    assert again.cost["examples_checked"] == 2 * evaluator.examples  # the baseline, scores and witness


def _plain(result: SearchResult) -> dict[str, object]:
    assert result.plan is not None
    return {name: config.to_dict() for name, config in result.plan.rules}
