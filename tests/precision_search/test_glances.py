"""Levels on the way down are glanced at; what is found is what decisions of each level would find."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

import snn_extreme_quant as sxq
from tests.precision_search.networks import bits_of, chain

LIMIT = 2.0
#: Examples of 1600 that a layer of so many bits loses, of which 32 are the limit.
LOST = {8: 0, 5: 0, 4: 1, 3: 2, 2: 100, 1: 700}
#: Six layers at 3 bit lose 3 %.
NEAR = {8: 0, 3: 8, 2: 12}


class Table:
    """Accuracy by the bits alone: a candidate loses the first examples."""

    metric = "accuracy"
    examples = 1600

    def __init__(self, lost: dict[int, int]) -> None:
        self.lost, self.whole = lost, 0

    def scores(self, model: nn.Module, rows: np.ndarray) -> np.ndarray:
        lost = sum(self.lost.get(bits, 0) for bits in bits_of(model).values())
        return (rows >= lost).astype(np.float64)

    def reduce(self, scores: np.ndarray) -> float:
        return 100.0 * float(scores.mean())

    def fingerprint(self) -> str:
        return str(self.lost)


def search(seed: int, lost: dict[int, int] = LOST, **options: object) -> sxq.SearchResult:
    given = {"max_drop": LIMIT, "levels": [8, 5, 4, 3, 2, 1], "alpha": 100.0, "sensitivity": 0.0, "seed": seed}
    return sxq.search(chain(), Table(lost), **{**given, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_glances_find_what_decisions_find(seed: int) -> None:
    quick, thorough = search(seed), search(seed, confidence=None)
    assert quick.plan == thorough.plan
    assert quick.chosen is not None
    assert quick.chosen.exact
    assert quick.examples_evaluated < thorough.examples_evaluated / 2
    kept = [(step.group, step.level) for step in thorough.path if step.kept]
    assert [(step.group, step.level) for step in quick.path if step.kept] == kept
    glanced = [quick.candidates[step.candidate] for step in quick.path]
    assert any(candidate.status == "open" and 0 < candidate.examples < 1600 for candidate in glanced)
    # What was but glanced at is neither chosen nor on the front.
    assert all(candidate.status != "open" for candidate in quick.front)
    settled = search(seed, exact="front")
    assert all(candidate.exact for candidate in settled.front)
    assert len(settled.front) >= len(quick.front)


def test_a_glance_that_was_too_kind_is_taken_back() -> None:
    """Everything at 3 bit loses 3 %: some orders show no more than 2 % of it in the first round."""
    found = [search(seed, NEAR, tiers=["global"], levels=[8, 3, 2], survey=1) for seed in range(8)]
    for result in found:
        assert set(result.chosen.levels.values()) == {8.0}  # type: ignore[union-attr]
        assert [step.kept for step in result.path] == [True] + [False] * (len(result.path) - 1)
    # Those of which the next level was tried had been glanced at too kindly.
    assert 0 < sum(len(result.path) == 3 for result in found) < 8


def test_estimates_that_were_too_kind_are_taken_back() -> None:
    """Where a tier ends is evaluated in full: what led beyond the limit is gone through again."""
    again = 0
    for seed in range(8):
        result = search(seed, NEAR, levels=[8, 3, 2], tiers=["global", "block"], survey=0.0625)
        assert result.chosen is not None
        assert result.chosen.exact
        assert 0.0 < result.chosen.drop <= LIMIT
        tried = [(step.tier, step.group, step.level) for step in result.path]
        again += len(tried) > len(set(tried))
        kept = [step for step in result.path if step.kept]
        end = result.candidates[kept[-1].candidate]
        assert end.exact
        assert end.status == "ok"
    assert again > 0
