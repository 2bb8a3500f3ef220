"""The numbers of norm and softmax by shifts, which models compute with and files hold."""

from __future__ import annotations

import math
from functools import cache

__all__ = [
    "NORM_BITS",
    "NORM_FRACTION",
    "PROBABILITY_BITS",
    "RESIDUAL_FRACTION",
    "RESIDUAL_LIMIT",
    "norm_factors",
    "softmax_stairs",
    "whole_norm_factors",
]

#: Probabilities are multiples of 2^-15.
PROBABILITY_BITS = 15
#: What a norm reads is on the grid of 2^-10, below 2^9, as BERTs have outliers of hundreds, beside which the rest is
#: small: what it gives is on the grid of 2^-14.
RESIDUAL_FRACTION, RESIDUAL_LIMIT, NORM_FRACTION = 10, 2.0**19 - 1, 14
#: The norm's factors are multiples of 2^-8.
NORM_BITS = 8
#: The exponents of the norm's factor: 1.75 * 2^6 is enough for a variance of 1 unit, 2^-20 for the largest there is.
_LEAST_SHIFT, _MOST_SHIFT = -6, 20


@cache
def softmax_stairs() -> tuple[int, ...]:
    r"""Return from which sum of :math:`2^{15} p_j` on the sum is nearer, by its logarithm, to the next power of two.

    Example:
        >>> softmax_stairs()[:2]
        (46341, 92682)
    """
    # sqrt(2) 2^j is never whole, so the next whole number is the first beyond it.
    return tuple(math.isqrt(2 ** (2 * (PROBABILITY_BITS + i) + 1)) + 1 for i in range(PROBABILITY_BITS + 1))


@cache
def norm_factors(bits: int = 2) -> tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]]:
    r"""Return the factors of :class:`ShiftNorm` and where each ends.

    Args:
        bits: of a mantissa behind the leading one.

    Returns:
        :math:`m\,2^{14 - k}` in rising order, and of each border between two of them a numerator and a denominator:
        with H channels the factor is above the border if :math:`\sum C^2 \le \lfloor H\,a / b \rfloor`.
    """
    shifts = range(_MOST_SHIFT, _LEAST_SHIFT - 1, -1)
    parts = 2**bits
    factors = [m / parts * 2.0 ** (NORM_FRACTION - k) for k in shifts for m in range(parts, 2 * parts)]
    # Half way from m to m + 1 parts: sqrt(H / V) >= (2 m + 1) / (2 parts) * 2^-k.
    odds, places = range(2 * parts + 1, 4 * parts, 2), bits + 1
    borders = [(4 ** max(0, k + places), odd * odd * 4 ** max(0, -k - places)) for k in shifts for odd in odds]
    return tuple(factors), tuple(a for a, _ in borders[:-1]), tuple(b for _, b in borders[:-1])


def whole_norm_factors(bits: int = 2) -> tuple[int, ...]:
    """Return the factors of :func:`norm_factors` times 2^(6 + bits), which are whole numbers: 2^8 by default.

    Example:
        >>> whole_norm_factors()[:4]
        (4, 5, 6, 7)
    """
    return tuple(int(factor * 2 ** (NORM_BITS - 2 + bits)) for factor in norm_factors(bits)[0])
