"""The sequential test is wrong no more often than it says, and certain where what is left cannot matter."""

import math

import numpy as np
import pytest

from snn_extreme_quant.precision_search.sequential import Bounds, decide


def answers(population: np.ndarray, limit: float, bounds: Bounds, delta: float, orders: int) -> list[str]:
    """Return the first answer of each random order, looked at after every tenth example."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(orders):
        order = generator.permutation(len(population))
        mixed = Bounds(bounds.least[order], bounds.most[order])
        looks = (decide(population[order[:n]], limit, mixed, delta) for n in range(10, len(population), 10))
        found.append(next((answer for answer in looks if answer != "open"), "open"))
    return found


def differences(n: int, worse: int, better: int) -> np.ndarray:
    return np.concatenate([np.ones(worse), -np.ones(better), np.zeros(n - worse - better)])


@pytest.mark.parametrize(("worse", "better"), [(12, 6), (30, 24), (6, 0)])
def test_a_candidate_at_the_limit_is_dropped_no_more_often_than_stated(worse: int, better: int) -> None:
    """At the limit the hypothesis is true and nearest to false."""
    n, delta, orders = 200, 0.1, 300
    population = differences(n, worse, better)
    bounds = Bounds(np.full(n, -1.0), np.full(n, 1.0))
    found = answers(population, population.mean(), bounds, delta, orders)
    most = delta + 3 * math.sqrt(delta * (1 - delta) / orders)
    assert found.count("beyond") / orders <= most


def test_a_candidate_beyond_the_limit_is_taken_no_more_often_than_stated() -> None:
    n, delta, orders = 200, 0.1, 300
    population = differences(n, 14, 4)
    bounds = Bounds(np.full(n, -1.0), np.full(n, 1.0))
    found = answers(population, population.mean() - 0.4 / n, bounds, delta, orders)
    assert found.count("within") / orders <= delta + 3 * math.sqrt(delta * (1 - delta) / orders)


def test_clear_candidates_are_decided_early_and_rightly() -> None:
    n = 800
    bounds = Bounds(np.full(n, -1.0), np.full(n, 1.0))
    generator = np.random.default_rng(1)
    bad, good = (generator.permutation(differences(n, worse, better)) for worse, better in ((300, 20), (2, 2)))
    assert decide(bad[:100], 0.02, bounds, 0.01) == "beyond"
    assert decide(good[:500], 0.05, bounds, 0.01) == "within"
    assert decide(good[:20], 0.05, bounds, 0.01) == "open"


def test_what_is_left_is_counted() -> None:
    """Certain whatever delta: three worse of four cannot be made up for."""
    bounds = Bounds(np.zeros(4), np.ones(4))
    assert decide(np.array([1.0, 1.0]), 0.25, bounds, 1e-12) == "beyond"
    assert decide(np.array([0.0, 0.0, 0.0]), 0.25, bounds, 1e-12) == "within"
    assert decide(np.array([1.0, 0.0]), 0.25, bounds, 1e-12) == "open"
    assert decide(np.zeros(0), 0.25, bounds, 1e-12) == "open"


def test_without_an_upper_bound_nothing_is_taken_early() -> None:
    """Nats: the last text may cost anything."""
    n = 500
    bounds = Bounds(np.full(n, -2.0), np.full(n, math.inf))
    assert decide(np.full(n - 1, -0.1), 0.5, bounds, 0.01) == "open"
    assert decide(np.full(100, 1.0), 0.1, bounds, 0.01) == "beyond"


def test_rare_large_losses_do_not_mislead() -> None:
    """One of a hundred texts costs 5 nats; the limit is just above the mean."""
    population = np.zeros(200)
    population[:2] = 5.0
    bounds = Bounds(np.full(200, -1.0), np.full(200, math.inf))
    found = answers(population, population.mean(), bounds, 0.1, 200)
    assert found.count("beyond") <= 0.1 * 200 + 3 * math.sqrt(18)


def test_any_limit() -> None:
    assert decide(np.array([0.5]), math.inf, Bounds(np.zeros(9), np.ones(9)), 0.01) == "within"
    assert decide(np.array([0.5]), -math.inf, Bounds(np.zeros(9), np.ones(9)), 0.01) == "beyond"
