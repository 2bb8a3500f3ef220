"""What is chosen is the best of all that is known to be feasible, and candidates are what was evaluated."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import NothingToQuantizeError, UnmatchedNameError
from snn_extreme_quant.precision_search import Hierarchy, SearchResult
from tests.precision_search.networks import bits_of, chain


def percent(model: nn.Module) -> float:
    """Return a score that the last layer alone at 1 bit has the best of, and any other layer below 8 bit spoils."""
    bits = bits_of(model)
    if bits["3"] == 1 and all(each == 32 for name, each in bits.items() if name != "3"):
        return 95.0
    return 90.0 - 30.0 * sum(each < 8 for each in bits.values())


def test_a_candidate_of_the_sweep_can_be_chosen() -> None:
    result = sxq.search(chain(), percent, max_drop=1.0, alpha=0.0, levels=[8, 1], sensitivity=1.0)
    assert result.chosen is not None
    assert result.chosen.quality == 95.0
    assert {name for name, level in result.chosen.levels.items() if level < 32} == {"3"}
    best = max(c.score for c in result.candidates if c.status == "ok")
    assert result.chosen.score == best
    small = sxq.search(chain(), percent, max_drop=1.0, max_memory="60%", alpha=0.0, levels=[8, 1], sensitivity=1.0)
    assert small.chosen is not None
    assert small.chosen.quality == 90.0
    assert small.chosen.memory <= 0.6 * small.baseline.memory


@pytest.mark.parametrize("given", ["dictionary", "hierarchy"])
def test_skip_holds_with_a_hierarchy(given: str) -> None:
    net = chain()
    hierarchy = Hierarchy.of(net)
    options = {"max_drop": 99.0, "levels": [4], "hierarchy": hierarchy if given == "hierarchy" else hierarchy.to_dict()}
    result = sxq.search(net, lambda _: 90.0, skip=["1.*", "3"], **options)  # type: ignore[arg-type]
    assert result.chosen is not None
    assert set(result.chosen.levels) == {"0", "2.0", "2.2"}
    assert result.settings["hierarchy"]["float"] == ["1.0", "1.2", "3"]
    assert "output" not in result.roles
    with pytest.raises(UnmatchedNameError, match="skip"):
        sxq.search(net, lambda _: 90.0, skip=["7"], **options)  # type: ignore[arg-type]
    with pytest.raises(NothingToQuantizeError):
        sxq.search(net, lambda _: 90.0, skip=["*"], **options)  # type: ignore[arg-type]


def test_candidates_were_all_evaluated_and_results_compare(tmp_path: Path) -> None:
    """Below the least memory, and with candidates that fail."""

    def failing(model: nn.Module) -> float:
        return math.nan if bits_of(model)["1.0"] == 2 else 90.0

    for evaluate, memory in ((lambda _: 90.0, 10), (failing, "40%")):
        results = [
            sxq.search(chain(), evaluate, max_drop=9.0, max_memory=memory, levels=[8, 2], sensitivity=0.0)
            for _ in range(2)
        ]
        assert all(c.examples > 0 or c.status == "failed" for c in results[0].candidates)
        assert results[0].candidates == results[1].candidates
        results[0].save(tmp_path / "result.json")
        again = SearchResult.load(tmp_path / "result.json")
        assert again.candidates == results[0].candidates
        assert again == results[0]
    assert any(c.status == "failed" for c in results[0].candidates)
    assert results[0].candidates[0] != results[0].candidates[1]
