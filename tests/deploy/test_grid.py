"""Arithmetic of grids: no value that an operation can give lies outside the grid that is claimed for it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from snn_extreme_quant.deploy.recording.grid import MANTISSA, SPIKES, Grid, joined, product, scaled, summed, times


@st.composite
def grids(draw: Any) -> Grid:
    fraction = draw(st.integers(0, 8))
    low, high = draw(st.integers(0, 4000)), draw(st.integers(0, 4000))
    return Grid(fraction, low * 2.0**-fraction, high * 2.0**-fraction)


def value_on(draw: Any, grid: Grid) -> Fraction:
    """A value of the grid, more often than not at an end."""
    unit = Fraction(1, 2**grid.fraction)
    low, high = -int(Fraction(grid.low) / unit), int(Fraction(grid.high) / unit)
    return unit * draw(st.one_of(st.sampled_from([low, high]), st.integers(low, high)))


def is_on(value: Fraction, grid: Grid) -> bool:
    return (value * 2**grid.fraction).denominator == 1 and -Fraction(grid.low) <= value <= Fraction(grid.high)


def assert_on(value: Fraction, grid: Grid | None) -> None:
    """On the grid, and a float32 without rounding."""
    assume(grid is not None)
    assert grid is not None
    assert is_on(value, grid), (value, grid)
    assert abs(value) * 2**grid.fraction < 2**MANTISSA


@given(st.data(), st.lists(grids(), min_size=1, max_size=4))
def test_joined(data: Any, several: list[Grid]) -> None:
    grid = joined(several)
    assert grid is not None
    chosen = data.draw(st.sampled_from(several))
    assert is_on(value_on(data.draw, chosen), grid)


@given(st.data(), st.lists(grids(), min_size=1, max_size=4))
def test_summed(data: Any, several: list[Grid]) -> None:
    assert_on(sum((value_on(data.draw, grid) for grid in several), Fraction(0)), summed(several))


@given(st.data(), grids(), st.integers(1, 20))
def test_times(data: Any, grid: Grid, count: int) -> None:
    assert_on(sum((value_on(data.draw, grid) for _ in range(count)), Fraction(0)), times(grid, count))


@given(st.data(), grids(), grids(), st.integers(1, 5))
def test_product(data: Any, a: Grid, b: Grid, count: int) -> None:
    terms = (value_on(data.draw, a) * value_on(data.draw, b) for _ in range(count))
    assert_on(sum(terms, Fraction(0)), product(a, b, count))


@given(st.data(), grids(), st.integers(-6, 6), st.sampled_from([1, -1]))
def test_scaled(data: Any, grid: Grid, shift: int, sign: int) -> None:
    factor = sign * 2.0**shift
    assert_on(value_on(data.draw, grid) * Fraction(factor), scaled(grid, factor))


@pytest.mark.parametrize("factor", [0.0, 3.0, -0.3, math.inf, math.nan])
def test_other_factors_leave_the_grid(factor: float) -> None:
    assert scaled(SPIKES, factor) is None


def test_what_needs_too_many_bits_is_on_no_grid() -> None:
    most = 2**MANTISSA - 1
    assert times(SPIKES, most) == Grid(0, 0.0, most)
    assert times(SPIKES, most + 1) is None
    assert product(Grid(0, 0, 4095), Grid(0, 0, 4096)) == Grid(0, 0, 4095 * 4096)
    assert product(Grid(0, 0, 4096), Grid(0, 0, 4096)) is None
    assert product(Grid(0, 0, 1), Grid(0, 0, 4096), 4096) is None
    assert summed([Grid(23, 0, 1), SPIKES]) is None
    assert joined([SPIKES, None]) is None
    assert joined([]) is None


def test_products_of_signs() -> None:
    """A product is most negative where one factor is: each end with the other's."""
    assert product(Grid(0, 2, 3), Grid(0, 5, 7)) == Grid(0, 15, 21)
    assert product(Grid(0, 3, 2), Grid(0, 0, 7)) == Grid(0, 21, 14)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (SPIKES, "spikes"),
        (Grid(0, 1.0, 1.0), "integers up to 1"),
        (Grid(4, 0.0, 0.9375), "multiples of 2^-4 up to 0.9375"),
    ],
)
def test_in_words(grid: Grid, words: str) -> None:
    assert str(grid) == words
