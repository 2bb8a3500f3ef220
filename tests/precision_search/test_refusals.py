"""Evaluations and options that a search refuses, or stops for, and what it says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import ConfigError, SearchError
from snn_extreme_quant.precision_search import Classification, SearchResult
from tests.precision_search.networks import bits_of, chain, trained


@pytest.mark.parametrize("whole", [True, False])
def test_random_evaluations_are_refused(whole: bool) -> None:
    draw = np.random.default_rng(0)
    net, evaluator = trained(8, 64)

    class Random(Classification):
        def scores(self, model: nn.Module, rows: np.ndarray) -> np.ndarray:
            return (draw.random(len(rows)) < 0.5).astype(np.float64)

    def percent(_: nn.Module) -> float:
        return 50.0 + draw.random()

    evaluate = percent if whole else Random(evaluator.logits, evaluator.labels)
    with pytest.raises(SearchError, match="when it is called again"):
        sxq.search(net, evaluate, max_drop=5.0)


def test_evaluations_that_differ_in_last_bits_are_taken() -> None:
    draw = np.random.default_rng(0)
    result = sxq.search(chain(), lambda _: 50.0 + 1e-6 * draw.random(), max_drop=5.0, levels=[8])
    assert result.feasible


LEVELS = [8, 4, 2]


def without_two(model: nn.Module) -> float:
    """Return a score that no model with a matrix of 2 bit has."""
    return math.nan if 2 in bits_of(model).values() else 90.0 - 0.1 * sum(b == 4 for b in bits_of(model).values())


def test_one_unusable_level_is_named_and_what_was_found_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    options = {"max_drop": 5.0, "sensitivity": 0.0, "log": log}
    with pytest.raises(SearchError, match=r"3 candidates in a row failed, all at 2 bit.*Leave the level out") as caught:
        sxq.search(chain(), without_two, levels=LEVELS, **options)  # type: ignore[arg-type]
    assert "delete" not in str(caught.value)
    found = caught.value.result
    assert isinstance(found, SearchResult)
    assert found.chosen is not None
    assert set(found.chosen.levels.values()) == {4.0}
    assert found.chosen.quality == pytest.approx(89.4)
    assert [c.status for c in found.candidates].count("failed") == 3
    # The advice works, with the same log.
    again = sxq.search(chain(), without_two, levels=[8, 4], **options)  # type: ignore[arg-type]
    assert again.plan == found.plan


def test_failures_of_several_levels_blame_none() -> None:
    def broken(model: nn.Module) -> float:
        if min(bits_of(model).values()) < 32:
            raise RuntimeError("out of cheese")
        return 90.0

    with pytest.raises(SearchError, match="3 candidates in a row failed, the last with: RuntimeError: out of cheese"):
        sxq.search(chain(), broken, max_drop=5.0, levels=LEVELS, sensitivity=1.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reuse": "50%"}, r"search\(reuse='50%'\)"),
        ({"reuse": "x"}, r"search\(reuse='x'\): use bytes"),
        ({"reuse": -1}, r"search\(reuse=-1\)"),
        ({"cache": "nonsense"}, r"search\(cache='nonsense'\)"),
        ({"max_memory": "nonsense"}, r"^max_memory='nonsense'"),
        ({"max_memory": 0}, "more than no memory"),
        ({"levels": 8}, r"search\(levels=8\): use numbers of bits"),
        ({"levels": "8,4"}, r"search\(levels='8,4'\)"),
        ({"configs": [1]}, r"search\(configs=\[1\]\): use a dictionary"),
        ({"report": 3}, r"search\(report=3\): use a function"),
        ({"log": 3}, r"search\(log=3\): use the path"),
        ({"skip": 3}, r"search\(skip=3\)"),
        ({"tiers": 3}, r"search\(tiers=3\)"),
        ({"address": 3}, r"search\(address=3\)"),
    ],
)
def test_options_are_blamed_by_their_names(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sxq.search(chain(), lambda _: 90.0, **{"max_drop": 1.0, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("reuse", [0, "0", None])
def test_reuse_of_nothing(reuse: object) -> None:
    net, evaluator = trained(8, 64)
    options = {"max_drop": 5.0, "levels": iter([8, 2]), "tiers": iter(["global"]), "reuse": reuse, "cache": 0}
    result = sxq.search(net, evaluator, **options)  # type: ignore[arg-type]
    assert result.cost is not None
    assert result.cost["reused"] == 0.0
    assert result.settings["survey"] == 0.25
    assert [step.level for step in result.path][:1] == [8.0]
