r"""Folds scale, bias and threshold of a synchronous neuron into one product and one sum, exactly.

In a model on counts a neuron behind one quantised layer computes, from the integer sums :math:`s` of codes and counts,

.. math:: n(s) = \mathrm{clip}(\lfloor ((s \cdot \gamma / T + b) / \vartheta)\,T + \tfrac12 \rfloor, 0, T)

with every operation rounded. Each operation is monotone, rounded or not, so :math:`n(s)` is a staircase: for each count
:math:`k` there is a least sum that reaches it. A gain :math:`g` and an offset :math:`o` give the same counts by
:math:`\mathrm{trunc}(\mathrm{clip}(s g + o, 0, T))` if and only if they have the same stairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Fed", "fold"]

_Floats = npt.NDArray[np.float32]
_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fed:
    r"""A layer of N synchronous neurons and the sums that feed it.

    Args:
        scale: :math:`\gamma / T`, the scale of sums over counts, float32 ``(N,)``.
        bias: :math:`b`, float32 ``(N,)``; None without one.
        threshold: :math:`\vartheta`, positive; one, or one for each channel.
        steps: T.
        signed: whether counts go from -T to T.
        low: the least sum that each channel can have, ``(N,)``.
        high: the largest.
    """

    scale: _Floats
    bias: _Floats | None
    threshold: np.float32 | _Floats
    steps: int
    signed: bool
    low: _Integers
    high: _Integers

    @property
    def zero_point(self) -> int:
        """What is added to a count to make it a byte."""
        return self.steps if self.signed else 0

    def counts(self, sums: _Integers) -> _Floats:
        """Return the counts plus ``zero_point`` as the model computes them, for sums ``(..., N)``."""
        current = sums.astype(np.float32) * self.scale
        if self.bias is not None:
            current = current + self.bias
        steps = np.float32(self.steps)
        whole = np.floor(current / self.threshold * steps + np.float32(0.5))
        limited: _Floats = np.clip(whole, -steps if self.signed else np.float32(0), steps)
        return limited + np.float32(self.zero_point)


def _stairs(fed: Fed, sign: _Integers, low: _Integers, high: _Integers) -> _Integers:
    """Return the least ``u`` in ``[low, high + 1]`` for which ``counts(sign * u)`` reaches 1, 2, ..., by bisection."""
    top = fed.steps + fed.zero_point
    wanted = np.arange(1, top + 1, dtype=np.float32)[:, None]
    below, reached = (np.broadcast_to(limit, (top, len(sign))).copy() for limit in (low, high + 1))
    while bool((below < reached).any()):
        middle = (below + reached) // 2
        # Where the search is over, the middle may be beyond the largest sum.
        enough = fed.counts(sign * np.minimum(middle, high)) >= wanted
        open_ = below < reached
        reached = np.where(open_ & enough, middle, reached)
        below = np.where(open_ & ~enough, middle + 1, below)
    return reached


def fold(fed: Fed) -> tuple[_Floats, _Floats] | None:
    """Return gain and offset, float32 ``(N,)``, that give the counts of every possible sum; None if there are none.

    Example:
        >>> one = np.ones(1, np.float32)
        >>> fed = Fed(one / 4, None, np.float32(1), 4, False, np.array([-8]), np.array([8]))
        >>> gain, offset = fold(fed)
        >>> np.clip(np.arange(-8, 9) * gain + offset, 0, 4).astype(int).tolist()
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 4, 4]
    """
    with np.errstate(all="ignore"):
        own = fed.scale * np.float32(fed.steps) / fed.threshold
        gain = own.copy()
        if not bool(np.isfinite(gain).all()):
            return None
        sign = np.where(gain < 0, -1, 1).astype(np.int64)
        low, high = np.where(sign > 0, fed.low, -fed.high), np.where(sign > 0, fed.high, -fed.low)
        stairs = _stairs(fed, sign, low, high)
        offset, found = _fitted(gain, stairs, sign, low, high)
        for ulps in _NEIGHBOURS:
            (open_,) = np.nonzero(~found & (gain != 0))
            if not len(open_):
                break
            other = (own[open_].view(np.int32) + np.int32(ulps)).view(np.float32)
            of_open = (stairs[:, open_], sign[open_], low[open_], high[open_])
            gain[open_], (offset[open_], found[open_]) = other, _fitted(other, *of_open)
    return (gain, offset) if bool(found.all()) else None


#: By how many floats a gain may be off its own value: torch's roundings shift single stairs, which another slope meets.
_NEIGHBOURS = tuple(sign * distance for distance in range(1, 513) for sign in (1, -1))


def _fitted(
    gain: _Floats, stairs: _Integers, sign: _Integers, low: _Integers, high: _Integers
) -> tuple[_Floats, npt.NDArray[np.bool_]]:
    """Return the offset that fits a gain best, and for which channels the two give all stairs."""
    wanted = np.arange(1, len(stairs) + 1, dtype=np.float64)[:, None]
    slope = np.abs(gain).astype(np.float64)
    reachable, avoidable = stairs <= high, stairs > low
    # On the stair a count is reached, one sum before it is not.
    least = np.where(reachable, wanted - slope * stairs, -np.inf).max(0)
    most = np.where(avoidable, wanted - slope * (stairs - 1), np.inf).min(0)
    middle = np.where(np.isneginf(least), most - 0.5, np.where(np.isposinf(most), least + 0.5, (least + most) / 2))
    offset = middle.astype(np.float32)
    on, before = sign * np.minimum(stairs, high), sign * np.maximum(stairs - 1, low)
    fits = np.ones(gain.shape, np.bool_)
    for apart in (True, False):
        reached = _affine(on, gain, offset, apart=apart) >= wanted
        missed = _affine(before, gain, offset, apart=apart) < wanted
        fits &= (reached | ~reachable).all(0) & (missed | ~avoidable).all(0)
    return offset, fits


def _affine(sums: _Integers, gain: _Floats, offset: _Floats, *, apart: bool) -> npt.NDArray[np.floating]:
    """Return ``sums * gain + offset`` in float32, product and sum rounded apart or together."""
    if apart:
        return sums.astype(np.float32) * gain + offset
    return (sums.astype(np.float64) * gain.astype(np.float64) + offset.astype(np.float64)).astype(np.float32)
