"""What integer files of models of tokens compute with, for the golden model: numpy, written to be read.

The equations stand in ``docs/operators.md``, *Integers of SpikingBERT*. What leaves the ranges named there is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.errors import ModelFileError

__all__ = ["run_tokens"]

Array = npt.NDArray[Any]
_Attributes = Mapping[str, Any]


def run_tokens(operator: str, inputs: list[Array], attributes: _Attributes, where: str) -> Array:
    """Carry out one node.

    Args:
        operator: its name.
        inputs: in their order.
        attributes: by name.
        where: what errors call it.

    Raises:
        ModelFileError: a number is beyond what the file was made for.
    """
    kind = next((end for end in ("Signed", "Wide") if operator.endswith(end)), "")
    name = operator.removesuffix(kind)
    wide = [value.astype(np.int64) for value in inputs]
    try:
        exact = _OPERATORS[name](wide, attributes)
        return _fitting(exact, _TYPES[name, kind])
    except OverflowError as error:
        raise ModelFileError(f"{where}: {error}, for which the file was not made.") from error


#: By name and its ending, the type of the result.
_TYPES: dict[tuple[str, str], type[np.integer[Any]]] = {
    ("IntCounts", ""): np.uint8,
    ("IntCounts", "Signed"): np.int8,
    ("IntSpikes", ""): np.uint8,
    ("IntSpikes", "Signed"): np.int8,
    **{("IntProduct", end): np.int32 for end in ("", "Signed", "Wide")},
    **{(name, ""): np.int32 for name in ("IntScale", "IntResidual", "IntShiftNorm", "IntShiftSoftmax")},
    ("IntCounts", "Wide"): np.int32,
}


def _fitting(exact: Array, kind: type[np.integer[Any]]) -> Array:
    limits = np.iinfo(kind)
    if exact.size and not limits.min <= exact.min() <= exact.max() <= limits.max:
        raise OverflowError(f"a number of {exact.min()} to {exact.max()} does not fit {np.dtype(kind)}")
    return exact.astype(kind)


def _below(value: Array, bits: int) -> Array:
    if value.size and abs(value).max() >= 2**bits:
        raise OverflowError(f"a number of {abs(value).max()} is beyond 2^{bits}")
    return value


def _scaled(inputs: list[Array], attributes: _Attributes) -> Array:
    x, gain, offset, low, high = inputs
    result: Array = np.clip(_shifted([(x, gain)], offset, attributes), low, high)
    return result


def _shifted(products: list[tuple[Array, Array]], offset: Array, attributes: _Attributes) -> Array:
    """Return the sum of products and offset, shifted."""
    # In floating point first: a product beyond 64 bits would wrap around unseen.
    _below(sum((abs(a).max(initial=0) * abs(g.astype(np.float64)) for a, g in products), abs(offset)), 62)
    exact = sum((a * g for a, g in products), offset)
    return _below(_below(exact, 61) >> attributes["shift"], 30)


def _spikes(inputs: list[Array], attributes: _Attributes) -> Array:
    (x,) = inputs
    step = np.arange(attributes["steps"]).reshape(-1, *[1] * x.ndim)
    return (x > step).astype(np.int64) - (-x > step)


def _residual(inputs: list[Array], attributes: _Attributes) -> Array:
    x, counts, gain, carried, offset = inputs
    return _shifted([(x, gain), (counts, carried)], offset, attributes)


def _shift_norm(inputs: list[Array], _attributes: _Attributes) -> Array:
    (x,) = inputs
    channels = x.shape[-1]
    units = np.clip(x, -(2**19 - 1), 2**19 - 1)
    centred = units - (2 * units.sum(-1, keepdims=True) + channels) // (2 * channels)
    squares = (centred**2).sum(-1, keepdims=True)
    factor = np.vectorize(lambda total: _factor(channels, int(total)), otypes=[np.int64])(squares)
    result: Array = (centred * factor + 2**7) >> 8
    return result


def _factor(channels: int, squares: int) -> int:
    """Return 2^22 m 2^-k, the m 2^-k that is nearest to sqrt(H / sum C^2); half way the larger one."""
    known, borders = _factors()
    chosen = known[0]
    for larger, border in zip(known[1:], borders, strict=True):
        if squares * border**2 <= channels:
            chosen = larger
    return int(chosen * 2**22)


@cache
def _factors() -> tuple[list[Fraction], list[Fraction]]:
    """Return all m 2^-k in rising order, and what lies half way between each and the next."""
    known = [Fraction(quarters, 4) / Fraction(2) ** k for k in range(20, -7, -1) for quarters in (4, 5, 6, 7)]
    return known, [(smaller + larger) / 2 for smaller, larger in pairwise(known)]


def _shift_softmax(inputs: list[Array], attributes: _Attributes) -> Array:
    x, pads = inputs
    fraction = attributes["fraction"]
    r = ((_below(x, 29) + (2**fraction >> 1)) >> fraction) + pads
    exponent = r - r.max(-1, keepdims=True)
    power = np.where(exponent > -5000, 2 ** np.maximum(exponent + 15, 0), 0)
    total = power.sum(-1, keepdims=True)
    # p > sqrt(2) 2^j where p^2 > 2^(2 j + 1), compared in whole numbers.
    halvings = sum((total > math.isqrt(2 ** (2 * (15 + i) + 1))).astype(np.int64) for i in range(16))
    result: Array = power >> halvings
    return result


def _product(inputs: list[Array], attributes: _Attributes) -> Array:
    a, b = inputs
    shifted = a + 256 * attributes["zero_point"]
    if shifted.size and not 0 <= shifted.min() <= shifted.max() < 2**16:
        raise OverflowError(f"a factor of {a.min()} to {a.max()} does not fit two bytes")
    result: Array = a @ b
    return result


_OPERATORS: dict[str, Callable[[list[Array], _Attributes], Array]] = {
    "IntCounts": _scaled,
    "IntScale": _scaled,
    "IntSpikes": _spikes,
    "IntResidual": _residual,
    "IntShiftNorm": _shift_norm,
    "IntShiftSoftmax": _shift_softmax,
    "IntProduct": _product,
}
