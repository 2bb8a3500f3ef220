r"""Tests that may be looked at after every example: is a candidate within a limit, or beyond it?

Betting for sampling without replacement (Waudby-Smith & Ramdas, arXiv 2010.09686): ``docs/search.md`` (Sequential
test) has the products and what they guarantee.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Answer", "Bounds", "decide"]

#: Of sums of differences.
_ROUNDING = 1e-9
Numbers = npt.NDArray[np.float64]
Answer = Literal["within", "beyond", "open"]
#: Parts of the largest factor that keeps a product from becoming negative, and the weights of their products' mean.
_PARTS = 2.0 ** -np.arange(10.0)
_WEIGHTS = 1.0 / ((np.arange(10.0) + 1.0) * (np.arange(10.0) + 2.0))
_WEIGHTS /= _WEIGHTS.sum()


@dataclass(frozen=True)
class Bounds:
    """How far each example's loss can be from the baseline's.

    Args:
        least: ``(N,)``: the least difference, in the order in which examples are drawn.
        most: ``(N,)``: the largest; infinite where there is none.
    """

    least: Numbers
    most: Numbers


def decide(differences: Numbers, limit: float, bounds: Bounds, delta: float) -> Answer:
    r"""Say whether the mean of all differences is within a limit, as far as the first of them tell.

    Args:
        differences: of the first n examples of a random order, ``(n,)``.
        limit: of the mean over all N.
        bounds: of all of them.
        delta: the probability of a wrong answer, however often this is asked.

    Returns:
        ``"open"`` while neither is certain enough.

    Example:
        >>> bounds = Bounds(np.full(1000, -1.0), np.full(1000, 1.0))
        >>> decide(np.full(60, 0.5), 0.02, bounds, 0.01), decide(np.zeros(60), 0.02, bounds, 0.01)
        ('beyond', 'open')
    """
    total, n = len(bounds.least), len(differences)
    if n == 0:
        return "open"
    if math.isinf(limit):
        return "within" if limit > 0 else "beyond"
    spent = float(differences.sum())
    budget = total * limit
    # What is left can change at most this much: certain, with rounding to spare.
    room = _ROUNDING * max(1.0, abs(budget))
    if spent + float(bounds.least[n:].sum()) > budget + room:
        return "beyond"
    if spent + float(bounds.most[n:].sum()) <= budget + room:
        return "within"
    if n == total:
        return "open"  # so near the limit that the sums' rounding counts: the metric itself decides
    before = np.concatenate([[0.0], np.cumsum(differences)[:-1]])
    left = total - np.arange(n)
    conditional = (budget - before) / left
    if _exceeds(differences - conditional, conditional - bounds.least.min(), delta):
        return "beyond"
    highest = float(bounds.most.max())
    if math.isfinite(highest) and _exceeds(conditional - differences, highest - conditional, delta):
        return "within"
    return "open"


def _exceeds(gains: Numbers, reach: Numbers, delta: float) -> bool:
    """Whether the weighted mean of the products of 1 + λ gain ever exceeds 1/delta, with λ up to 1/reach."""
    if (reach < -_ROUNDING).any():
        return True  # what is left cannot have the mean of the hypothesis
    factors = 1.0 + _PARTS[:, None] * (gains / np.maximum(reach, _ROUNDING))
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(factors, 0.0)).cumsum(1)
    highest = logs.max(0)
    with np.errstate(invalid="ignore"):
        sums = np.where(np.isfinite(highest), _WEIGHTS @ np.exp(logs - highest), 0.0)
        capital = np.where(sums > 0.0, highest + np.log(np.maximum(sums, 1e-300)), -np.inf)
    return bool((capital >= -math.log(delta)).any())
