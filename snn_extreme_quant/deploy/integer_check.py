"""Checks that an integer graph is the float graph that it was rewritten from.

Both run side by side. The float graph's neurons give what the integer graph's gave, so each stretch between neurons is
compared by itself: what a neuron receives in float, and what the integers stand for, agree to the rounding of float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from snn_extreme_quant.errors import ExportError

from .graphs import NEURONS
from .integer_graph import IntegerGraph
from .integer_values import Affine, broadcast

__all__ = ["check_integer_graph"]

#: Relative to the largest value. Units are exact to 53 bits; float32 sums are rounded in each term.
_TOLERANCE = 1e-4
#: Relative to the largest value that there can be, in the sample or not: rows of an embedding are rounded to a unit
#: that is so much smaller than the largest row.
_ROUNDING = 2.0**-22


class _Values(fx.Interpreter):
    """Runs the integer graph and keeps what it computes."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)

    def decoded(self, value: Affine) -> Tensor | None:
        """Return what a value's integers stand for; None if they were not needed and not computed."""
        if any(term.node not in self.env for term in value.terms):
            return None
        total = value.offset
        for term in value.terms:
            total = total + self.env[term.node].double() * term.unit
        return total


class _SideBySide(fx.Interpreter):
    """Runs the float graph with the spikes and states of the integer graph."""

    def __init__(self, module: fx.GraphModule, integer: IntegerGraph, values: _Values) -> None:
        super().__init__(module)
        self.integer = integer
        self.values = values

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.target not in NEURONS or n not in self.integer.calls:
            return result
        call, layer = self.integer.calls[n], str(n.args[-1])
        ours = self.values.decoded(call.current)
        if ours is not None:
            furthest = float(call.current.magnitude().max()) if ours.numel() else 0.0
            _compare(ours, self.env_of(n.args[0]), f"the current of neuron layer {layer!r}", _ROUNDING * furthest)
        outputs = [self.values.decoded(value) for value in call.outputs]
        return [r if o is None else o.to(r.dtype).expand(r.shape) for o, r in zip(outputs, result, strict=True)]

    def env_of(self, node: Any) -> Tensor:
        value: Tensor = self.env[node]
        return value


def _compare(ours: Tensor, theirs: Tensor, what: str, rounding: float = 0.0) -> None:
    theirs = theirs.double()
    scale = float(theirs.abs().max()) if theirs.numel() else 0.0
    fits = broadcast(ours.shape, theirs.shape) == theirs.shape
    if not fits or bool(((ours - theirs).abs() > _TOLERANCE * scale + rounding).any()):
        raise ExportError(
            f"The integer graph does not compute {what}: this is an error of snn_extreme_quant, please report it with"
            " the model; export without integer=True."
        )


def check_integer_graph(module: fx.GraphModule, integer: IntegerGraph, inputs: Sequence[Tensor]) -> None:
    """Compare an integer graph with the float graph that it was made from.

    Args:
        module: the float graph.
        integer: what :func:`~snn_extreme_quant.deploy.integer_graph.integer_graph` made of it.
        inputs: to run both on.

    Raises:
        ExportError: a neuron layer receives something else, or an output differs.
    """
    for batch in inputs:
        with torch.no_grad():
            values = _Values(integer.graph)
            ours = values.run(batch)
            theirs = _SideBySide(module, integer, values).run(batch)
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if isinstance(b, Tensor):
                if a.shape != b.shape:
                    raise ExportError(
                        f"The integer graph gives output {index} of shape {tuple(a.shape)}: please report it."
                    )
                _compare(a.double(), b, f"output {index}")
