r"""How float constants between integer sums become whole numbers: gain, offset and shift for each channel.

A layer of neurons behind integer sums :math:`s` gives a number of spikes :math:`n(s)`, computed by torch in float32
with every operation rounded. All of them are monotone, so :math:`n` is a staircase: for each count there is a least
sum that reaches it. A gain :math:`g` and an offset :math:`o` give the same counts by
:math:`\mathrm{clip}(\lfloor (s g + o) / 2^k \rfloor)` if and only if they have the same stairs, which is a linear
program in two whole numbers: for the sum :math:`s_n` on the stair of n

.. math:: g s_n + o \ge n 2^k, \qquad g (s_n - 1) + o \le n 2^k - 1
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.errors import UnsupportedModelError

__all__ = ["Line", "Residual", "Scale", "ScaleReport", "residual_scale", "scale_of", "stairs_scale"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
_PRODUCT_BITS = 60
#: What is shifted stays below 2^30.
_RESULT = 2.0**28
_MOST_SHIFT = 40


@dataclass(frozen=True)
class ScaleReport:
    """How the constants behind one sum are computed in an integer file of a model of tokens.

    Args:
        name: the layer of neurons, or what else is scaled.
        shift: bits behind the point.
        sums: the largest magnitude that the sums can have.
        product: the largest on the way.
        headroom: bits free up to the 2^61 of the operator.
        channels: how many constants.
        changed: for how many of them there is a sum of which torch gives another count.
    """

    name: str
    shift: int
    sums: int
    product: int
    headroom: float
    channels: int
    changed: int = 0

    def __str__(self) -> str:
        """Say it in a line."""
        changed = f"; {self.changed} channels round otherwise than torch" if self.changed else ""
        return (
            f"{self.name}: whole numbers at 2^-{self.shift} for {self.channels} channels; sums up to {self.sums}, at"
            f" most {self.product:.4g} on the way ({self.headroom:g} bits free){changed}"
        )


@dataclass(frozen=True)
class Line:
    """What is folded: clip(floor(slope s + term), low, high) for sums from ``least`` to ``most``; all ``(N,)``."""

    slope: Floats
    term: Floats
    least: Integers
    most: Integers
    low: int
    high: int


@dataclass(frozen=True)
class Scale:
    """Constants of ``IntScale`` and ``IntCounts``: gain, offset, low, high ``(N,)``, and the shift."""

    gain: Integers
    offset: Integers
    low: Integers
    high: Integers
    shift: int
    sums: int
    changed: int = 0

    def report(self, name: str) -> ScaleReport:
        """Return what is proved."""
        product = int((np.abs(self.gain) * self.sums + np.abs(self.offset)).max())
        free = _PRODUCT_BITS + 1 - float(np.log2(max(product, 1)))
        return ScaleReport(name, self.shift, self.sums, product, round(free, 2), self.gain.size, self.changed)


@dataclass(frozen=True)
class Residual:
    """Constants of ``IntResidual``: gain, carried and offset ``(N,)``, and the shift."""

    gain: Integers
    carried: Integers
    offset: Integers
    shift: int
    sums: int
    largest: int

    def report(self, name: str) -> ScaleReport:
        """Return what is proved."""
        free = _PRODUCT_BITS + 1 - float(np.log2(max(self.largest, 1)))
        return ScaleReport(name, self.shift, self.sums, self.largest, round(free, 2), self.gain.size)


def _shift_for(largest: float) -> int:
    """Return how many bits behind the point leave numbers of this size below 2^60, also when they are rounded."""
    return int(np.clip(_PRODUCT_BITS - 1 - np.ceil(np.log2(max(largest, 1.0))), 0, _MOST_SHIFT))


def scale_of(line: Line, name: str) -> Scale:
    """Round a line to whole numbers, as finely as 64 bits let.

    Args:
        line: what is folded.
        name: what errors call it.

    Raises:
        UnsupportedModelError: a constant is not finite.

    Example:
        >>> limits = (np.array([-9]), np.array([9]))
        >>> scale = scale_of(Line(np.array([0.75]), np.array([0.5]), *limits, -4, 4), "query")
        >>> [(int(s) * int(scale.gain[0]) + int(scale.offset[0])) >> scale.shift for s in (-2, 1, 2)]
        [-1, 1, 2]
    """
    slope, term = np.broadcast_arrays(line.slope.astype(np.float64), line.term.astype(np.float64))
    if not bool((np.isfinite(slope) & np.isfinite(term)).all()):
        raise UnsupportedModelError(f"{name!r} has a scale, bias or threshold that is not finite; load a good one.")
    sums = int(max(np.abs(line.least).max(), np.abs(line.most).max(), 1))
    width = line.high - line.low + 1
    # Steeper than this, the sum of one more jumps over all values; further away, no sum comes back within the limits.
    steepest = min(4.0 * width, _RESULT / sums)
    steep = np.minimum(1.0, steepest / np.maximum(np.abs(slope), 1e-300))
    slope, term = slope * steep, term * steep
    far = np.abs(slope) * sums + abs(line.low) + abs(line.high) + 2.0
    term = np.clip(term, -far, far)
    largest = float((np.abs(slope) * sums + np.abs(term)).max())
    shift = _shift_for(largest)
    gain, offset = (np.rint(value * 2.0**shift).astype(np.int64) for value in (slope, term))
    low, high = (np.full(gain.shape, limit, np.int64) for limit in (line.low, line.high))
    return Scale(gain, offset, low, high, shift, sums)


def stairs_scale(line: Line, counts: Callable[[Integers], Floats], name: str) -> Scale:
    """Round a line so that it has the very stairs of what torch computes, wherever a line has them.

    Args:
        line: about what torch computes.
        counts: what torch computes of sums ``(L, N)``: monotone in each channel, whole numbers.
        name: what errors call it.
    """
    start = scale_of(line, name)
    width = start.gain.size
    sign = np.where(start.gain < 0, -1, 1)
    least, most = (np.broadcast_to(limit, width).astype(np.int64) for limit in (line.least, line.most))
    first, last = np.where(sign > 0, least, -most), np.where(sign > 0, most, -least)
    low, high = (counts((sign * end)[None])[0].astype(np.int64) for end in (first, last))
    levels = np.arange(line.low + 1, line.high + 1)[:, None]
    stairs = _stairs(counts, sign, first, last, levels)
    there = (levels > low) & (levels <= high)
    gain = np.abs(start.gain)
    window = _window(gain, stairs, levels, there, start.shift)
    for channel in np.flatnonzero(window[0] > window[1]):
        found = _slope(stairs[there[:, channel], channel], levels[there[:, channel], 0], start.shift)
        if found is not None:
            gain[channel] = min(max(int(gain[channel]), found[0]), found[1])
    lowest, highest = _window(gain, stairs, levels, there, start.shift)
    offset = np.where(there.any(0), lowest + (highest - lowest) // 2, low << start.shift)
    # The stairs are proved; the product's size is, for a gain that was moved, looked at again.
    if bool((gain.astype(np.float64) * start.sums + np.abs(offset) >= 2.0 ** (_PRODUCT_BITS + 1)).any()):
        return Scale(start.gain, start.offset, low, high, start.shift, start.sums, width)
    changed = int((there.any(0) & (lowest > highest)).sum())
    return Scale(sign * gain, offset, low, high, start.shift, start.sums, changed)


def _stairs(
    counts: Callable[[Integers], Floats], sign: Integers, first: Integers, last: Integers, levels: Integers
) -> Integers:
    """Return the least ``u`` in ``[first, last + 1]`` for which ``counts(sign u)`` reaches each level, by bisection."""
    below, reached = (np.broadcast_to(end, (len(levels), len(sign))).copy() for end in (first, last + 1))
    while bool((below < reached).any()):
        middle = (below + reached) // 2
        enough = counts(sign * np.minimum(middle, last)) >= levels
        open_ = below < reached
        reached = np.where(open_ & enough, middle, reached)
        below = np.where(open_ & ~enough, middle + 1, below)
    return reached


def _window(
    gain: Integers, stairs: Integers, levels: Integers, there: npt.NDArray[np.bool_], shift: int
) -> tuple[Integers, Integers]:
    """Return the least and the largest offset that keep all stairs of a channel."""
    far = np.int64(2**61)
    wanted = levels.astype(np.int64) << shift
    lowest = np.where(there, wanted - gain * stairs, -far).max(0, initial=-far)
    highest = np.where(there, wanted - 1 - gain * (stairs - 1), far).min(0, initial=far)
    return lowest, highest


def _slope(stairs: Integers, levels: Integers, shift: int) -> tuple[int, int] | None:
    """Return the least and the largest gain for which there is an offset, from all pairs of stairs; None without."""
    rise = (levels[:, None] - levels[None, :]) * 2**shift
    run = stairs[:, None] - stairs[None, :] + 1
    if bool(((run == 0) & (rise + 1 > 0)).any()):
        return None
    forward, back = run > 0, run < 0
    least = int((-((-rise[forward] - 1) // run[forward])).max(initial=0))
    most = int(((-rise[back] - 1) // -run[back]).min(initial=2**60))
    return (least, most) if least <= most else None


def residual_scale(slope: Floats, carried: Floats, term: Floats, sums: Integers, counts: int, name: str) -> Residual:
    """Round slope s + carried n + term to whole numbers, as finely as 64 bits let.

    Args:
        slope: of sums, ``(N,)``.
        carried: of counts, ``(N,)`` or one.
        term: half a unit included, ``(N,)``.
        sums: the largest magnitude of each channel's sums.
        counts: that of counts.
        name: what errors call it.

    Raises:
        UnsupportedModelError: what is shifted does not fit 30 bits, or a constant is not finite.

    Example:
        >>> one = np.ones(1)
        >>> residual_scale(one * 2.5, one, one * 0.5, np.array([100]), 16, "output").shift
        40
    """
    slope, carried, term = np.broadcast_arrays(slope, carried, term)
    largest = float((np.abs(slope) * sums + np.abs(carried) * counts + np.abs(term)).max())
    if not np.isfinite(largest):
        raise UnsupportedModelError(f"{name!r} has a scale, bias or threshold that is not finite; load a good one.")
    if largest >= _RESULT:
        raise UnsupportedModelError(
            f"{name!r}: a residual sum of up to {largest:.3g} units of 2^-10 does not fit; its norm reads values up to"
            " 2^9, so scales or thresholds of this layer are far too large."
        )
    shift = _shift_for(largest)
    gain, of_counts, offset = (np.rint(v * 2.0**shift).astype(np.int64) for v in (slope, carried, term))
    reached = int((np.abs(gain) * sums + np.abs(of_counts) * counts + np.abs(offset)).max())
    return Residual(gain, of_counts, offset, shift, int(np.max(sums)), reached)
