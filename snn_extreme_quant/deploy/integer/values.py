r"""What integer files compute with: affine combinations of integer tensors, with the range of each.

A value of the float model is held as

.. math:: x = \sum_j n_j\,u_j + o

where :math:`n_j` are integer tensors of the integer graph, and units :math:`u_j` and offset :math:`o` are constants in
float64 that exist only while a graph is rewritten. Units, offsets and ranges are given for each element of a value
whose open axes (time, samples) have length 1, so what only moves elements moves them too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx

__all__ = [
    "INT32",
    "Affine",
    "Constant",
    "Real",
    "Size",
    "Term",
    "Value",
    "broadcast",
    "compressed",
    "rational_multiples",
    "smallest_type",
    "uniform",
]

#: Magnitudes that sums and integers on their way to a neuron stay below.
INT32 = 2**31
#: Two units are multiples of a common one if their ratio is a fraction of small numbers, to this relative precision.
_LARGEST_RATIO = 2**12
_PRECISION = 2.0**-40


@dataclass(frozen=True)
class Term:
    """One integer tensor in a value.

    Args:
        node: the tensor in the integer graph.
        unit: what one stands for, float64; 0 where the term does not count.
        low: the least that an integer can be.
        high: the largest.
        dtype: the integers' type.
    """

    node: fx.Node
    unit: Tensor
    low: Tensor
    high: Tensor
    dtype: torch.dtype

    def moved(self, node: fx.Node, move: Callable[[Tensor], Tensor]) -> Term:
        """Return the term after an operation that only moves elements."""
        return replace(self, node=node, unit=move(self.unit), low=move(self.low), high=move(self.high))

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest integer of all."""
        return float(self.low.min()), float(self.high.max())


@dataclass(frozen=True)
class Affine:
    """A value that is known as integers.

    Args:
        shape: its shape, open axes being 1.
        terms: its integers; with none, it is its offset.
        offset: a constant, float64, of that shape.
    """

    shape: tuple[int, ...]
    terms: tuple[Term, ...]
    offset: Tensor

    @property
    def has_offset(self) -> bool:
        """Whether anything is added to the terms."""
        return bool((self.offset != 0).any())

    def scaled(self, factor: Tensor | float) -> Affine:
        """Return the value times a constant (which may broadcast it to a larger shape)."""
        constant = torch.as_tensor(factor, dtype=torch.float64)
        shape = broadcast(self.shape, constant.shape)
        terms = tuple(
            replace(t, unit=(t.unit * constant).expand(shape), low=t.low.expand(shape), high=t.high.expand(shape))
            for t in self.terms
        )
        return Affine(shape, terms, (self.offset * constant).expand(shape))

    def magnitude(self) -> Tensor:
        """Return the largest magnitude that each element can have."""
        low = self.offset + sum(torch.minimum(t.low * t.unit, t.high * t.unit) for t in self.terms)
        high = self.offset + sum(torch.maximum(t.low * t.unit, t.high * t.unit) for t in self.terms)
        return torch.maximum(low.abs(), high.abs())


@dataclass(frozen=True)
class Constant:
    """A value that does not depend on the input; open axes are 1."""

    value: Tensor


@dataclass(frozen=True)
class Real:
    """A value that is computed in float: the input on its way to its encoding, or what is decoded.

    Args:
        node: the float tensor in the integer graph.
        reason: what it is, to say why nothing integer can be computed from it.
        encoding: only elementwise operations lie between the input and it.
    """

    node: fx.Node
    reason: str
    encoding: bool = False


@dataclass(frozen=True)
class Size:
    """A length, or something computed from lengths: its value where open axes are 1, and in the integer graph."""

    value: Any
    node: Any


Value = Affine | Constant | Real | Size | tuple[Any, ...]


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """Return the shape to which shapes broadcast."""
    return tuple(int(size) for size in torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def smallest_type(low: float, high: float) -> torch.dtype:
    """Return the type that integer operators take for integers of this range.

    Example:
        >>> smallest_type(0, 1), smallest_type(-1, 1), smallest_type(0, 256)
        (torch.uint8, torch.int8, torch.int32)
    """
    if low >= 0 and high <= 255:
        return torch.uint8
    return torch.int8 if low >= -128 and high <= 127 else torch.int32


def uniform(values: Tensor, axes: Sequence[int]) -> bool:
    """Whether the values do not change along axes."""
    return not axes or not values.numel() or bool((values.amax(tuple(axes)) == values.amin(tuple(axes))).all())


def compressed(values: Tensor) -> Tensor:
    """Return the values with every axis along which they do not change shortened to 1, and without leading ones.

    Example:
        >>> compressed(torch.ones(4, 1, 3, 5)).shape, compressed(torch.arange(3.0).view(1, 3, 1).expand(2, 3, 4)).shape
        (torch.Size([]), torch.Size([3, 1]))
    """
    for axis in range(values.dim()):
        if values.shape[axis] > 1 and uniform(values, [axis]):
            values = values.narrow(axis, 0, 1)
    while values.dim() and values.shape[0] == 1:
        values = values[0]
    return values.contiguous()


def rational_multiples(units: Tensor) -> tuple[float, Tensor] | None:
    """Return the largest unit of which all units are whole multiples, and the multiples; None if there is none.

    Zeros are multiples of any unit. Units that are not fractions of small numbers of each other have none in common.

    Example:
        >>> rational_multiples(torch.tensor([1.0, 0.25, 0.0, 1 / 3], dtype=torch.float64))
        (0.08333333333333333, tensor([12.,  3.,  0.,  4.], dtype=torch.float64))
    """
    distinct = units.unique()  # type: ignore[no-untyped-call]
    distinct = distinct[distinct != 0]
    if not distinct.numel():
        return 1.0, torch.zeros_like(units)
    if distinct.numel() > _LARGEST_RATIO:
        return None
    base = float(distinct.abs().max())
    divisor = 1
    for unit in distinct.tolist():
        fraction = Fraction(unit / base).limit_denominator(_LARGEST_RATIO)
        divisor = math.lcm(divisor, fraction.denominator)
        if divisor > _LARGEST_RATIO**2:
            return None
    multiples = units * (divisor / base)
    whole = multiples.round()
    if bool(((multiples - whole).abs() > _PRECISION * multiples.abs().clamp_min(1.0)).any()):
        return None
    return base / divisor, whole
