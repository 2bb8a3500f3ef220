"""Building an integer graph: nodes, constants, and the few steps that many rules share.

What cannot be done in integers raises :class:`NotIntegerError`, whose message says why; the value is then real.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from snn_extreme_quant.deploy.integer import extras as integer_extras  # noqa: F401 - registers the operators
from snn_extreme_quant.deploy.integer import operators as integer_operators  # noqa: F401 - registers the operators
from snn_extreme_quant.deploy.integer.values import (
    INT32,
    Affine,
    Constant,
    Term,
    compressed,
    rational_multiples,
    smallest_type,
    uniform,
)

__all__ = ["Emitter", "NotIntegerError"]

aten = torch.ops.aten


class NotIntegerError(Exception):
    """A value has no form in integers; the message says why."""


class Emitter:
    """The integer graph as it grows."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()
        self._constants: dict[tuple[Any, ...], fx.Node] = {}
        self._decoded: dict[int, tuple[Affine, fx.Node]] = {}

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Add an operation."""
        return self.graph.call_function(target, args, kwargs)

    def constant(self, value: Tensor, owner: str = "") -> fx.Node:
        """Return a tensor of the file; equal ones of an owner (a layer and what it is of it) are kept once."""
        value = value.detach().contiguous()
        key = (owner, value.dtype, tuple(value.shape), value.numpy().tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self.root.register_buffer(name, value.clone())
            self._constants[key] = self.graph.get_attr(name)
        return self._constants[key]

    def whole(self, value: Tensor) -> fx.Node:
        """Return whole numbers as an int32 constant, no larger than needed to broadcast."""
        return self.constant(compressed(value).to(torch.int32))

    def cast(self, node: fx.Node, before: torch.dtype, after: torch.dtype) -> fx.Node:
        """Return a tensor in another type."""
        return node if before is after else self.call(aten.to.dtype, node, after)

    # Values ----------------------------------------------------------------------------------------------------------

    def typed(self, term: Term, dtype: torch.dtype) -> Term:
        """Return a term in another type."""
        return replace(term, node=self.cast(term.node, term.dtype, dtype), dtype=dtype)

    def fitting(self, term: Term) -> Term:
        """Return a term in the smallest type that integer operators take."""
        return self.typed(term, smallest_type(*term.bounds))

    def checked(self, term: Term, what: str = "its integers") -> Term:
        """Return a term whose integers fit 32 bits.

        Raises:
            NotIntegerError: they may not.
        """
        low, high = term.bounds
        if max(-low, high) >= INT32:
            raise NotIntegerError(f"{what} may reach {max(-low, high):.4g}, which does not fit 32 bits")
        return term

    def single(self, value: Affine, same: Sequence[int] = ()) -> Term:
        """Return a value as one integer tensor times a unit.

        Args:
            value: any.
            same: axes along which the unit must not change.

        Raises:
            NotIntegerError: its units have no common one, or its integers would not fit.
        """
        if len(value.terms) == 1 and not value.has_offset and uniform(value.terms[0].unit, same):
            return value.terms[0]
        found = rational_multiples(torch.stack([*(t.unit.expand(value.shape) for t in value.terms), value.offset]))
        if found is None:
            raise NotIntegerError("it adds or joins numbers that are not multiples of one unit")
        unit, multiples = found
        return self._merged(value, torch.tensor(unit, dtype=torch.float64).expand(value.shape), multiples)

    def _merged(self, value: Affine, unit: Tensor, multiples: Tensor) -> Term:
        """Return ``sum_j n_j * m_j + o`` as a term of this unit."""
        *factors, offset = multiples
        low, high = offset, offset
        total: fx.Node | None = None
        for term, factor in zip(value.terms, factors, strict=True):
            ends = term.low * factor, term.high * factor
            low, high = low + torch.minimum(*ends), high + torch.maximum(*ends)
            node = self.cast(term.node, term.dtype, torch.int32)
            if bool((factor != 1).any()):
                node = self.call(aten.mul.Tensor, node, self.whole(factor))
            total = node if total is None else self.call(aten.add.Tensor, total, node)
        if total is None:
            raise NotIntegerError(
                "it is a constant, in the first step at least, and not what the input or a neuron gives in every step"
            )
        if bool((offset != 0).any()):
            total = self.call(aten.add.Tensor, total, self.whole(offset))
        parts = sum(
            (t.low.abs().maximum(t.high.abs()) * f.abs()).max() for t, f in zip(value.terms, factors, strict=True)
        )
        if float(parts) + float(offset.abs().max()) >= INT32:
            raise NotIntegerError(f"its integers may reach {float(parts):.4g}, which does not fit 32 bits")
        return Term(total, unit, low, high, torch.int32)

    def decoded(self, value: Affine | Constant) -> fx.Node:
        """Return a value as float32."""
        if isinstance(value, Constant):
            return self.constant(value.value)
        known = self._decoded.get(id(value))
        if known is None:
            known = self._decoded[id(value)] = (value, self._decode(value))  # kept: an id is of one living object
        return known[1]

    def _decode(self, value: Affine) -> fx.Node:
        total: fx.Node | None = None
        for term in value.terms:
            node = self.call(aten.to.dtype, term.node, torch.float32)
            if bool((term.unit != 1).any()):
                node = self.call(aten.mul.Tensor, node, self.constant(compressed(term.unit).float()))
            total = node if total is None else self.call(aten.add.Tensor, total, node)
        if total is None:
            return self.constant(value.offset.float())
        if value.has_offset:
            total = self.call(aten.add.Tensor, total, self.constant(compressed(value.offset).float()))
        return total
