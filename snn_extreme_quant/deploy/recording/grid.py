"""Numbers on a grid: what sums, products and averages of multiples of a power of two are, exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BYTE", "MANTISSA", "SPIKES", "Grid", "joined", "product", "scaled", "summed", "times"]

#: Bits of a float32's mantissa: integers below ``2**MANTISSA`` add without rounding.
MANTISSA = 24
#: The largest unsigned byte.
BYTE = 255


@dataclass(frozen=True)
class Grid:
    """Multiples of ``2**-fraction`` in ``[-low, high]``."""

    fraction: int
    low: float
    high: float

    @property
    def units(self) -> float:
        """The largest magnitude in multiples of the grid."""
        return float(max(self.low, self.high) * 2.0**self.fraction)

    @property
    def fits(self) -> bool:
        """Whether every value on the grid is a float32."""
        return self.units < 2.0**MANTISSA

    def __str__(self) -> str:
        """Say it in words."""
        if self == SPIKES:
            return "spikes"
        kind = "integers" if self.fraction == 0 else f"multiples of 2^-{self.fraction}"
        return f"{kind} up to {max(self.low, self.high):g}"


#: The grid of 0 and 1.
SPIKES = Grid(0, 0.0, 1.0)


def _kept(grid: Grid) -> Grid | None:
    return grid if grid.fits else None


def joined(grids: Sequence[Grid | None]) -> Grid | None:
    """Return the grid of values of any of the grids."""
    known = [g for g in grids if g is not None]
    if len(known) != len(grids) or not known:
        return None
    return Grid(max(g.fraction for g in known), max(g.low for g in known), max(g.high for g in known))


def summed(grids: Sequence[Grid]) -> Grid | None:
    """Return the grid of a sum of one value of each grid."""
    return _kept(Grid(max(g.fraction for g in grids), sum(g.low for g in grids), sum(g.high for g in grids)))


def times(grid: Grid, count: int) -> Grid | None:
    """Return the grid of a sum of ``count`` values."""
    return _kept(Grid(grid.fraction, grid.low * count, grid.high * count))


def product(a: Grid, b: Grid, count: int = 1) -> Grid | None:
    """Return the grid of a sum of ``count`` products of values of two grids."""
    low = max(a.low * b.high, a.high * b.low) * count
    high = max(a.low * b.low, a.high * b.high) * count
    return _kept(Grid(a.fraction + b.fraction, low, high))


def scaled(grid: Grid, factor: float) -> Grid | None:
    """Return the grid of multiples by a power of two; by anything else there is none.

    Example:
        >>> scaled(SPIKES, 0.25)
        Grid(fraction=2, low=0.0, high=0.25)
    """
    if factor < 0:
        flipped = scaled(grid, -factor)
        return None if flipped is None else Grid(flipped.fraction, flipped.high, flipped.low)
    if factor == 0 or not math.isfinite(factor) or math.frexp(factor)[0] != 0.5:
        return None
    shift = math.frexp(factor)[1] - 1
    return _kept(Grid(max(0, grid.fraction - shift), grid.low * factor, grid.high * factor))
