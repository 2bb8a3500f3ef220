"""The search as a whole: against all candidates there are, at limits that cannot be met, with evaluations that fail."""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
from pathlib import Path

import pytest
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.accounting import weight_memory, weight_shapes
from snn_extreme_quant.errors import ConfigError, DataError, SearchError, UnsupportedModelError
from snn_extreme_quant.precision_search import Classification, SearchResult

from .networks import bits_of, chain, costs, trained

LEVELS = [8, 4, 2, 1]


def table_of(seed: int) -> dict[str, dict[int, float]]:
    """Return costs that grow as bits fall."""
    draw = random.Random(seed)
    return {
        name: dict(zip(LEVELS, itertools.accumulate(draw.choice([0.0, 0.5, 1.0]) for _ in LEVELS), strict=True))
        for name in ("0", "1.0", "1.2", "2.0", "2.2", "3")
    }


def everything(net: nn.Module, levels: list[float]) -> list[tuple[int, tuple[float, ...]]]:
    """Return memory and levels of every candidate by matrix."""
    names = list(bits_of(net))
    configs = sxq.precision_search.level_configs(levels)
    shapes = {shape.name: shape for shape in weight_shapes(net)}
    rest = weight_memory([shape for shape in shapes.values() if shape.kind == "Parameter"]).total
    sizes = {(n, b): weight_memory([shapes[n]], configs[b]).total for n in names for b in levels}
    return [
        (rest + sum(sizes[name, level] for name, level in zip(names, chosen, strict=True)), chosen)
        for chosen in itertools.product(levels, repeat=len(names))
    ]


@pytest.mark.parametrize("seed", range(4))
def test_oracle_matrix_by_matrix(seed: int) -> None:
    """Where the worst layer alone counts, the tiers find the best of all 4^6 candidates."""
    net, table = chain(), table_of(seed)
    names = list(bits_of(net))
    limit = 1.0
    result = sxq.search(
        net, costs(table), max_drop=limit, levels=LEVELS, alpha=1000.0, tiers=["global", "block", "module", "matrix"]
    )
    as_float = weight_memory(net).total
    best = max(
        90.0 - max(table[n][b] for n, b in zip(names, chosen, strict=True)) - 1000.0 * memory / as_float
        for memory, chosen in everything(net, LEVELS)
        if max(table[n][b] for n, b in zip(names, chosen, strict=True)) <= limit
    )
    assert result.chosen is not None
    assert result.chosen.score == pytest.approx(best)
    assert result.chosen.memory == weight_memory(net, result.plan).total


@pytest.mark.parametrize("seed", range(4))
def test_oracle_of_sums(seed: int) -> None:
    """Where costs add up, no candidate of blocks is better by more than tiers can miss; none is invented."""
    net, table = chain(), table_of(seed)
    names = list(bits_of(net))
    result = sxq.search(net, costs(table, sum), max_drop=3.0, max_memory="40%", levels=LEVELS, alpha=20.0)
    true = {chosen: memory for memory, chosen in everything(net, LEVELS)}
    feasible = [
        (sum(table[n][b] for n, b in zip(names, chosen, strict=True)), memory)
        for chosen, memory in true.items()
        if sum(table[n][b] for n, b in zip(names, chosen, strict=True)) <= 3.0
        and memory <= 0.4 * result.baseline.memory
    ]
    best = max((90.0 - cost - 20.0 * memory / result.baseline.memory for cost, memory in feasible), default=-math.inf)
    if not result.feasible:
        assert not feasible or result.least_memory is not None
        return
    chosen = result.chosen
    assert chosen is not None
    cost = sum(table[n][int(chosen.levels[n])] for n in names)
    assert chosen.quality == pytest.approx(90.0 - cost)
    assert chosen.drop <= 3.0
    assert chosen.memory == true[tuple(int(chosen.levels[n]) for n in names)] <= 0.4 * result.baseline.memory
    assert chosen.score <= best + 1e-9
    kept = [c for c in result.candidates if c.status == "ok" and c.exact and c.memory <= 0.4 * result.baseline.memory]
    assert chosen.score == max(c.score for c in kept if c.levels.keys() and max(c.levels.values()) < 32)


def test_alpha_of_nothing_takes_the_best_quality() -> None:
    net, table = chain(), table_of(1)
    results = [sxq.search(net, costs(table, sum), max_drop=3.0, levels=LEVELS, alpha=a) for a in (0, 99)]
    first, second = (result.chosen for result in results)
    assert first is not None
    assert second is not None
    assert first.quality > second.quality
    assert first.memory > second.memory


def test_perplexity_is_to_be_small() -> None:
    net, table = chain(), table_of(2)
    cost = costs(table, sum)

    def perplexity(model: nn.Module) -> float:
        return 110.0 - cost(model)  # 20 for float

    result = sxq.search(net, perplexity, max_drop=2.0, levels=LEVELS, metric="perplexity", alpha=30.0)
    chosen = result.chosen
    assert chosen is not None
    assert 0.0 <= chosen.drop <= 2.0
    assert chosen.quality == 20.0 + chosen.drop
    assert chosen.score == pytest.approx(chosen.quality + 30.0 * chosen.memory / result.baseline.memory)
    assert chosen.score == min(c.score for c in result.candidates if c.status == "ok" and c.exact)


def test_a_real_network_with_and_without_the_sequential_test() -> None:
    net, evaluator = trained()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fast = sxq.search(net, evaluator, max_drop=2.0, max_memory="20%", levels=[8, 6, 4, 3, 2, 1], exact="front")
    plain = sxq.search(
        net, evaluator, max_drop=2.0, max_memory="20%", levels=[8, 6, 4, 3, 2, 1], confidence=None, sensitivity=1.0
    )
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    for result in (fast, plain):
        assert result.feasible
        assert result.plan is not None
        assert result.chosen is not None
        twin = copy.deepcopy(net)
        sxq.quantize_(twin, result.plan)
        with torch.no_grad():
            import numpy as np

            quality = evaluator.reduce(evaluator.scores(twin, np.arange(evaluator.examples)))
        assert quality == pytest.approx(result.chosen.quality)
        assert result.chosen.exact
        assert result.baseline.quality - quality <= 2.0 + 1e-9
        assert weight_memory(twin).total == result.chosen.memory <= 0.2 * result.baseline.memory
        assert all(candidate.exact for candidate in result.front)
        memories = [candidate.memory for candidate in result.front]
        qualities = [candidate.quality for candidate in result.front]
        assert memories == sorted(memories)
        assert qualities == sorted(qualities)
    assert fast.examples_evaluated < plain.examples_evaluated / 2
    assert fast.decided_early > 0 == plain.decided_early
    assert set(plain.sensitivity) == {"input", "2", "3", "output"}


def test_limits_that_cannot_be_met_name_the_nearest_points() -> None:
    net, table = chain(), table_of(3)
    for name in table:
        table[name][1] = 50.0
    result = sxq.search(net, costs(table, max), max_drop=2.0, max_memory="11%", levels=LEVELS)
    assert not result.feasible
    assert result.plan is None
    assert result.chosen is None
    limit = 0.11 * result.baseline.memory
    assert result.least_memory is not None
    assert result.least_memory.drop <= 2.0
    assert result.least_memory.memory > limit
    if result.least_drop is not None:
        assert result.least_drop.memory <= limit
        assert result.least_drop.drop > 2.0
    assert "No plan meets a drop of at most 2 points" in str(result)
    assert "least memory at the allowed drop" in str(result)


def test_memory_below_the_least_there_is() -> None:
    result = sxq.search(chain(), costs(table_of(0)), max_drop=9.0, max_memory=10, levels=LEVELS)
    assert not result.feasible
    assert result.least_drop is None
    assert result.least_memory is not None
    assert result.least_possible == min(memory for memory, _ in everything(chain(), LEVELS))
    assert "The lowest levels everywhere take" in str(result)


def test_float_where_no_level_will_do() -> None:
    table = {name: dict.fromkeys(LEVELS, 9.0) for name in table_of(0)}
    result = sxq.search(chain(), costs(table), max_drop=1.0, levels=LEVELS)
    assert result.plan == sxq.PrecisionPlan()
    assert result.chosen is not None
    assert result.chosen.saved == 0.0


def test_ties_lower_blocks_together() -> None:
    net, table = chain(3), {**table_of(0), "3.0": {}, "3.2": {}, "4": {}}
    result = sxq.search(net, costs(table, sum), max_drop=4.0, levels=LEVELS, ties=["blocks", "modules"], skip=["4"])
    assert {step.group for step in result.path if step.tier == "block"} == {"input", "body"} - {"output"}
    chosen = result.chosen
    assert chosen is not None
    assert "4" not in chosen.levels
    assert all(chosen.levels["1.0"] == chosen.levels[f"{i}.0"] for i in (2, 3))


# Failures.


def test_failed_candidates_are_recorded_and_passed_over() -> None:
    table = table_of(0)
    cost = costs(table)

    def evaluate(model: nn.Module) -> float:
        bits = bits_of(model)
        if bits["1.0"] == 2:
            return math.nan
        if bits["2.0"] == 1:
            raise RuntimeError("out of cheese")
        return cost(model)

    result = sxq.search(chain(), evaluate, max_drop=50.0, levels=LEVELS, sensitivity=0.0)
    failed = [candidate for candidate in result.candidates if candidate.status == "failed"]
    assert failed
    assert result.feasible
    assert all(math.isnan(candidate.quality) and candidate.reason for candidate in failed)
    assert result.chosen is not None
    assert result.chosen.levels["1.0"] >= 4


def test_three_failures_in_a_row_end_the_search(tmp_path: Path) -> None:
    def evaluate(model: nn.Module) -> float:
        if min(bits_of(model).values()) < 8:
            raise RuntimeError("out of cheese")
        return 90.0

    with pytest.raises(SearchError, match=r"3 candidates in a row failed.*out of cheese"):
        sxq.search(chain(), evaluate, max_drop=5.0, levels=LEVELS, log=tmp_path / "log.jsonl")
    with pytest.raises(SearchError, match="in a row"):
        sxq.search(chain(), evaluate, max_drop=5.0, levels=LEVELS, log=tmp_path / "log.jsonl")


def test_a_baseline_that_fails_is_said_at_once() -> None:
    with pytest.raises(SearchError, match="as it was given cannot be evaluated: RuntimeError: no"):
        sxq.search(chain(), lambda _: (_ for _ in ()).throw(RuntimeError("no")), max_drop=5.0)


def test_fractions_are_refused() -> None:
    with pytest.raises(ConfigError, match="percent"):
        sxq.search(chain(), lambda _: 0.9, max_drop=0.05)


def test_training_in_evaluate_is_noticed() -> None:
    net = chain()

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            model[1][0].bias += 1.0  # type: ignore[index, union-attr, operator]
        return 90.0

    with pytest.raises(SearchError, match=r"The model changed between evaluations: '1.0.bias'"):
        sxq.search(net, evaluate, max_drop=5.0)

    def sly(model: nn.Module) -> float:
        model[3].weight.data[0, 0] += 1.0  # type: ignore[union-attr, operator]
        return 90.0

    with pytest.raises(SearchError, match=r"'3.weight'"):
        sxq.search(net, sly, max_drop=5.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": [3, 20]}, "Level 20"),
        ({"alpha": -1}, "alpha"),
        ({"confidence": 1.0}, "confidence"),
        ({"tiers": ["globe"]}, "global"),
        ({"ties": "block"}, "blocks"),
        ({"max_drops": 3}, "max_drop"),
        ({"metric": "f1"}, "metric"),
        ({"sensitivity": 2}, "sensitivity"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sxq.search(chain(), lambda _: 90.0, max_drop=1.0, **options)


def test_models_and_evaluations_that_are_none() -> None:
    with pytest.raises(UnsupportedModelError):
        sxq.search("net", lambda _: 90.0, max_drop=1.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="evaluate is a function"):
        sxq.search(chain(), 3, max_drop=1.0)
    with pytest.raises(ConfigError, match="measures 'accuracy'"):
        sxq.search(chain(), trained(8, 20)[1], max_drop=1.0, metric="perplexity")


# The log.


class _Stop(BaseException):
    """What a kill is to the search."""


def _searched(log: Path | None, stop_after: int = 10**9, **options: object) -> tuple[SearchResult, int]:
    net, evaluator = trained()
    calls = 0

    def logits(model: nn.Module, rows: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > stop_after:
            raise _Stop
        return evaluator.logits(model, rows)  # type: ignore[arg-type, no-any-return]

    given = {"levels": [8, 4, 2, 1], "max_memory": "20%", "max_drop": 2.0, **options}
    result = sxq.search(net, Classification(logits, evaluator.labels), log=log, **given)  # type: ignore[arg-type]
    return result, calls


def test_a_killed_search_goes_on_to_the_same_plan(tmp_path: Path) -> None:
    whole, calls = _searched(None)
    log = tmp_path / "log.jsonl"
    for stop in (5, calls // 2):
        with pytest.raises(_Stop):
            _searched(log, stop)
    with log.open("ab") as file:
        file.write(b'{"kind": "outcome", "key": "a line that was cut o')
    again, rest = _searched(log)
    assert again.plan == whole.plan
    assert [c.to_dict() for c in again.candidates] == [c.to_dict() for c in whole.candidates]
    assert rest < calls
    third, nothing = _searched(log)
    assert third.plan == whole.plan
    assert nothing == 32  # the baseline: scores and witness
    lines = log.read_text().splitlines()
    assert all(json.loads(line) for line in lines)
    other, _ = _searched(log, alpha=0.0, max_drop=4.0)
    assert other.candidates[0].quality == whole.candidates[0].quality


def test_a_log_of_another_search_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    net, evaluator = trained(8, 64)
    options = {"max_drop": 5.0, "levels": [4, 1], "log": log}
    sxq.search(net, evaluator, **options)  # type: ignore[arg-type]
    with pytest.raises(SearchError, match="the data are other ones"):
        sxq.search(net, Classification(evaluator.logits, (evaluator.labels + 1) % 4), **options)  # type: ignore[arg-type]
    with pytest.raises(SearchError, match=r"order of examples is another one \(seed\)"):
        sxq.search(net, evaluator, seed=1, **options)  # type: ignore[arg-type]
    with pytest.raises(
        SearchError, match="other scores than in the log"
    ):  # the labels are the same, the inputs are not
        sxq.search(net, Classification(lambda model, rows: -evaluator.logits(model, rows), evaluator.labels), **options)  # type: ignore[arg-type]
    with torch.no_grad():
        net[0].bias += 1e-3  # type: ignore[operator, union-attr]
    with pytest.raises(SearchError, match="the model is another one"):
        sxq.search(net, evaluator, **options)  # type: ignore[arg-type]


def test_files_that_are_no_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    net, evaluator = trained(8, 64)
    for text in ("hello\n", '{"format": "x"}\n', "half a line"):
        log.write_text(text)
        with pytest.raises(DataError, match="log"):
            sxq.search(net, evaluator, max_drop=5.0, log=log)
        assert log.read_text() == text
    log.unlink()
    sxq.search(net, evaluator, max_drop=5.0, levels=[4], log=log)
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], lines[1][:9], *lines[2:]]) + "\n")
    with pytest.raises(DataError, match="Line 2"):
        sxq.search(net, evaluator, max_drop=5.0, levels=[4], log=log)


# The result.


def test_results_go_to_json_and_back(tmp_path: Path) -> None:
    net, evaluator = trained(8, 64)
    for limit in ("40%", 10):
        result = sxq.search(net, evaluator, max_drop=5.0, max_memory=limit, levels=[8, 2, 1])
        result.save(tmp_path / "result.json")
        again = SearchResult.load(tmp_path / "result.json")
        assert again.to_dict() == result.to_dict()
        assert str(again) == str(result)
        assert again.plan == result.plan
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError):
        SearchResult.load(tmp_path / "other.json")
    with pytest.raises(DataError):
        SearchResult.load(tmp_path / "missing.json")
