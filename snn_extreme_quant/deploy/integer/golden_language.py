"""What integer files of language models compute with, for the golden model: Python's own whole numbers in arrays.

They have no width, so nothing wraps around unseen; what does not fit the type of a result is an error. The equations
stand in ``docs/operators.md``, *Integers of language models*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.errors import ModelFileError

__all__ = ["run_language"]

Array = npt.NDArray[Any]
_Attributes = Mapping[str, Any]
#: 2^14 times the powers of two of 0, 1/256, ..., rounded to the nearest: exact roots of whole numbers decide.
_OCTAVE, _UNIT = 256, 2**14


def run_language(operator: str, inputs: list[Array], attributes: _Attributes, where: str) -> list[Array]:
    """Carry out one node.

    Args:
        operator: its name.
        inputs: in their order.
        attributes: by name.
        where: what errors call it.

    Raises:
        ModelFileError: a number is beyond what the file was made for.
    """
    run, kinds = _OPERATORS[operator]
    exact = run([value.astype(object) for value in inputs], attributes)
    return [_fitting(value, kind, where) for value, kind in zip(exact, kinds, strict=True)]


def _fitting(exact: Array, kind: type[np.integer[Any]], where: str) -> Array:
    limits = np.iinfo(kind)
    if exact.size and not limits.min <= exact.min() <= exact.max() <= limits.max:
        raise ModelFileError(
            f"{where}: a number of {exact.min()} to {exact.max()} does not fit {np.dtype(kind)}, for which the file was"
            " not made."
        )
    return exact.astype(kind)


def _power(exponent: int) -> int:
    """Return 2^(14 + exponent / 256), rounded where it is looked up, for exponents from 0."""
    whole, fraction = divmod(exponent, _OCTAVE)
    return _nearest(fraction) << whole


def _nearest(fraction: int) -> int:
    """Return round(2^(14 + fraction / 256)): r where (2 r - 1)^256 < 2^(256 * 15 + fraction) < (2 r + 1)^256."""
    if fraction not in _known:
        wanted, low, high = 1 << (15 * _OCTAVE + fraction), _UNIT, 2 * _UNIT
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if (2 * middle + 1) ** _OCTAVE < wanted else (low, middle)
        _known[fraction] = low
    return _known[fraction]


_known: dict[int, int] = {}
_powers = np.vectorize(_power, otypes=[object])


def _rounded(x: Array, shift: int) -> Array:
    half = 2**shift // 2
    found: Array = (x + half) // 2**shift
    return found


def _limited(x: Array, least: int, most: int) -> Array:
    found: Array = np.minimum(np.maximum(x, least), most)
    return found


def _norm(inputs: list[Array], attributes: _Attributes) -> list[Array]:
    x, gain, offset = inputs
    channels = x.shape[-1]
    units = _limited(x, -(2**19 - 1), 2**19 - 1)
    centred = units - (2 * units.sum(-1, keepdims=True) + channels) // (2 * channels)
    factor = np.vectorize(lambda total: _factor(channels, total), otypes=[object])((centred**2).sum(-1, keepdims=True))
    most = attributes["most"]
    return [_limited((_rounded(centred * factor, 10) * gain + offset) // 2 ** attributes["shift"], -most, most)]


def _factor(channels: int, squares: int) -> int:
    """Return 2^24 m 2^-k, the m 2^-k that is nearest to sqrt(H / sum C^2); half way the larger one."""
    known, borders = _factors()
    return int(known[sum(squares * border**2 <= channels for border in borders)] * 2**24)


@cache
def _factors() -> tuple[list[Fraction], list[Fraction]]:
    """Return all m 2^-k in rising order, and what lies half way between each and the next."""
    known = [Fraction(parts, 16) / Fraction(2) ** k for k in range(20, -7, -1) for parts in range(16, 32)]
    return known, [(smaller + larger) / 2 for smaller, larger in pairwise(known)]


def _halves(inputs: list[Array], _attributes: _Attributes) -> list[Array]:
    (x,) = inputs
    return [x // 256, x % 256]


def _gated(inputs: list[Array], attributes: _Attributes) -> list[Array]:
    x, value = inputs
    power = _powers(_limited(x, -4096, 4095) + 4096)
    total = power + 2**30
    gate = (power * 2**15 + total // 2) // total
    most = attributes["most"]
    return [_limited(_rounded(gate * value, attributes["shift"]), -most, most)]


def _squared(inputs: list[Array], attributes: _Attributes) -> list[Array]:
    above = np.maximum(inputs[0], 0)
    return [np.minimum(_rounded(above * above, attributes["shift"]), attributes["most"])]


def _key_power(exponent: Array) -> Array:
    found: Array = _powers(_limited(exponent, -3839, 3839) + 3840) // 2**11
    return found


def _average(inputs: list[Array], _attributes: _Attributes) -> list[Array]:
    key, value, decay, bonus, a, b = inputs
    found = []
    for k, v in zip(key, value, strict=True):
        weight, now = _key_power(k), _key_power(k + bonus)
        above, total = a[0] + now * v, b[0] + now
        found.append((abs(above) + total // 2) // total * np.where(above < 0, -1, 1).astype(object))
        a, b = a * decay // 2**16 + weight * v, b * decay // 2**16 + weight
    return [np.array(found, object).reshape(key.shape), a, b]


_SUMS = (np.int32, np.int64, np.int64)
_Run = Callable[[list[Array], _Attributes], list[Array]]
#: By name: what is computed, and the types of the results.
_OPERATORS: dict[str, tuple[_Run, tuple[type[np.integer[Any]], ...]]] = {
    "IntTokenNorm": (_norm, (np.int32,)),
    "IntHalves": (_halves, (np.int8, np.uint8)),
    "IntGated": (_gated, (np.int32,)),
    "IntSquared": (_squared, (np.int32,)),
    "IntWeightedAverage": (_average, _SUMS),
    "StepIntWeightedAverage": (_average, _SUMS),
}
