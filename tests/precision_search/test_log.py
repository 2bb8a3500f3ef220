"""What a log of a search is refused for: another model or other data, even where tensors and answers are the same."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import DataError, SearchError
from snn_extreme_quant.precision_search import Classification
from snn_extreme_quant.precision_search.fingerprints import model_hash
from tests.precision_search.networks import trained
from tests.precision_search.test_reuse import QUALIFIED, spikes

OPTIONS: dict[str, Any] = {"max_drop": 5.0, "levels": [4, 1], "tiers": ["global"]}


def jelly(threshold: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(layer.Linear(8, 12), neuron.LIFNode(v_threshold=threshold), layer.Linear(12, 3))
    functional.set_step_mode(net, "m")
    return net


def with_softplus(net: nn.Module) -> nn.Module:
    found = copy.deepcopy(net)
    found[1] = nn.Softplus(beta=20.0)  # type: ignore[operator]
    return found


CHANGED: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "a threshold": lambda: (jelly(0.3), jelly(0.301)),
    "an activation": lambda: (net := trained(8, 16)[0], with_softplus(net)),
    "a step mode": lambda: (net := jelly(), functional.set_step_mode(other := copy.deepcopy(net), "s") or other),
    "a kernel": lambda: (nn.MaxPool2d((2, 2)), nn.MaxPool2d((2, 3))),
}


@pytest.mark.parametrize("what", CHANGED)
def test_hashes_tell_models_of_equal_tensors_apart(what: str) -> None:
    one, other = CHANGED[what]()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert model_hash(one) == model_hash(copy.deepcopy(one))
    assert model_hash(one) != model_hash(other)


def test_hash_of_a_quantised_model() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    ternary, binary = copy.deepcopy(net), copy.deepcopy(net)
    sxq.quantize_(ternary, sxq.Ternary())
    sxq.quantize_(binary, sxq.Binary())
    assert model_hash(ternary) == model_hash(copy.deepcopy(ternary))
    assert len({model_hash(net), model_hash(ternary), model_hash(binary)}) == 3


@pytest.mark.parametrize("name", ["snntorch", "spikingjelly", "SpikingBert", "SpikeGPT of a framework"])
def test_hashes_do_not_follow_the_state(name: str) -> None:
    model, evaluator = QUALIFIED[name]()
    before = model_hash(model.eval())
    with torch.no_grad():
        evaluator.scores(model, np.arange(4))
    assert model_hash(model) == before
    assert model_hash(model.train()) == before


def test_a_log_of_another_threshold_is_refused(tmp_path: Path) -> None:
    given = spikes(4, 48, 8)
    evaluator = Classification(lambda model, rows: model(given[:, rows]).sum(0), np.arange(48) % 3)
    sxq.search(jelly(), evaluator, log=tmp_path / "log.jsonl", **OPTIONS)
    with pytest.raises(SearchError, match=r"the model is another one \(tensors, classes or settings"):
        sxq.search(jelly(0.301), evaluator, log=tmp_path / "log.jsonl", **OPTIONS)


def test_a_log_of_other_inputs_is_refused_where_all_answers_are_the_same(tmp_path: Path) -> None:
    net, evaluator = trained(8, 64)
    log = tmp_path / "log.jsonl"

    def scaled(factor: float) -> Classification:  # answers stay the same: the last layer has no bias
        return Classification(lambda model, rows: factor * evaluator.logits(model, rows), evaluator.labels)

    first = sxq.search(net, scaled(1.0), log=log, **OPTIONS)
    with pytest.raises(SearchError, match="other outputs than in the log"):
        sxq.search(net, scaled(1.01), log=log, **OPTIONS)
    again = sxq.search(net, scaled(1.00001), log=log, **OPTIONS)  # what machines differ by
    assert again.examples_evaluated == 0
    assert again.plan == first.plan


def test_a_killed_baseline_is_witnessed_as_far_as_it_came(tmp_path: Path) -> None:
    net, evaluator = trained(8, 64)
    log = tmp_path / "log.jsonl"
    sxq.search(net, evaluator, log=log, **OPTIONS)
    lines = log.read_text().splitlines(keepends=True)
    kept = [line for line in lines if (e := json.loads(line)).get("key") != "witness" or e.get("round") == 0]
    log.write_text("".join(kept))
    sxq.search(net, evaluator, log=log, **OPTIONS)
    held = [json.loads(line) for line in log.read_text().splitlines()]
    rounds = [entry["round"] for entry in held if entry.get("key") == "witness" and entry["kind"] == "outcome"]
    assert rounds == list(range(8))


def test_evaluators_without_a_witness_are_taken_as_before(tmp_path: Path) -> None:
    net, evaluator = trained(8, 64)

    class Own:
        metric, examples = "accuracy", 64

        def scores(self, model: nn.Module, rows: Any) -> Any:
            return evaluator.scores(model, rows)

        def reduce(self, scores: Any) -> float:
            return evaluator.reduce(scores)

        def fingerprint(self) -> str:
            return "own"

    first = sxq.search(net, Own(), log=tmp_path / "log.jsonl", **OPTIONS)
    again = sxq.search(net, Own(), log=tmp_path / "log.jsonl", **OPTIONS)
    assert again.examples_evaluated == 0
    assert again.plan == first.plan


def test_a_witness_that_fails_is_said(tmp_path: Path) -> None:
    net, evaluator = trained(8, 64)

    class Broken(Classification):
        def witness(self, model: nn.Module, rows: Any) -> Any:
            raise RuntimeError("out of cheese")

    with pytest.raises(SearchError, match=r"witness\(\) of the model as it was given cannot be had: .*out of cheese"):
        sxq.search(net, Broken(evaluator.logits, evaluator.labels), log=tmp_path / "log.jsonl", **OPTIONS)


def test_labels_that_are_no_class_have_a_witness() -> None:
    logits: Tensor = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    evaluator = Classification(lambda _, rows: logits[rows], [-1, 7])
    assert evaluator.witness(nn.Identity(), np.arange(2)).tolist() == pytest.approx([0.1269, 0.1269], abs=1e-3)


def _with(line: dict[str, Any], **changes: Any) -> str:
    return json.dumps({**line, **changes})


@pytest.mark.parametrize("scores", [["a", *[1] * 7], [1] * 7, [1] * 9, 3, "text", [float("nan")] * 8, [True] * 8])
def test_damaged_scores_are_said(tmp_path: Path, scores: object) -> None:
    net, evaluator = trained(8, 64)
    log = tmp_path / "log.jsonl"
    sxq.search(net, evaluator, log=log, **OPTIONS)
    lines = log.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] == "outcome")
    lines[number] = _with(json.loads(lines[number]), scores=scores)
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=f"Line {number + 1} of the log .* is damaged: take the line out"):
        sxq.search(net, evaluator, log=log, **OPTIONS)
    log.write_text("\n".join([*lines[:number], *lines[number + 1 :]]) + "\n")  # the advice
    assert sxq.search(net, evaluator, log=log, **OPTIONS).examples_evaluated == 8


@pytest.mark.parametrize("text", ["hello\n", "[1]\n", '{"a": 1}\n', "\x00\x01\n", '{"kind": "header", "version": 1}\n'])
def test_files_of_others_are_left_alone(tmp_path: Path, text: str) -> None:
    net, evaluator = trained(8, 16)
    log = tmp_path / "log.jsonl"
    log.write_text(text)
    with pytest.raises(DataError, match="name another file") as caught:
        sxq.search(net, evaluator, log=log, **OPTIONS)
    assert "delete" not in str(caught.value)
    assert log.read_text() == text
