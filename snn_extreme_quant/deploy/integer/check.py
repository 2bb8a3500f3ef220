"""Checks that an integer graph is the float graph that it was rewritten from.

Both run side by side. The float graph's neurons give what the integer graph's gave, so each stretch between neurons is
compared by itself: what a neuron receives in float, and what the integers stand for, agree to the rounding of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.integer.graph import IntegerGraph
from snn_extreme_quant.deploy.integer.values import Affine, broadcast, compressed
from snn_extreme_quant.deploy.recording.graphs import NEURONS
from snn_extreme_quant.deploy.recording.running import first_line
from snn_extreme_quant.errors import ExportError

__all__ = ["IntegerSpikes", "check_integer_graph", "check_integer_run"]

_OURS = torch.ops.snn_xq
_FIXED = (_OURS.fixed_neuron_step.default, _OURS.fixed_neuron_sequence.default)

#: Relative to the largest value. Units are exact to 53 bits; float32 sums are rounded in each term.
_TOLERANCE = 1e-4


class IntegerSpikes(fx.Interpreter):
    """Runs an integer graph and keeps what its neurons give, by layer and call."""

    def __init__(self, module: fx.GraphModule, *, everything: bool = False) -> None:
        super().__init__(module, garbage_collect_values=not everything)
        self.given: dict[str, list[Tensor]] = {}

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Carry out an operation, and keep a neuron's spikes."""
        result = super().call_function(target, args, kwargs)
        if target in _FIXED:
            self.given.setdefault(str(args[-1]), []).append(result[0])
        return result


class _Values(IntegerSpikes):
    """Runs the integer graph and keeps what it computes."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, everything=True)

    def decoded(self, value: Affine) -> Tensor | None:
        """Return what a value's integers stand for; None if they were not needed and not computed."""
        if any(term.node not in self.env for term in value.terms):
            return None
        total = compressed(value.offset)  # its axes of the same values may be longer here
        for term in value.terms:
            total = total + self.env[term.node].double() * compressed(term.unit)
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
            # Relative to the largest value that there can be, in the sample or not.
            rounding = self.integer.rounding * float(call.current.magnitude().max()) if ours.numel() else 0.0
            _compare(ours, self.env_of(n.args[0]), f"the current of neuron layer {layer!r}", rounding)
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
        integer: what :func:`~snn_extreme_quant.deploy.integer.graph.integer_graph` made of it.
        inputs: to run both on.

    Raises:
        ExportError: a neuron layer receives something else, or an output differs.
    """
    for batch in inputs:
        check_integer_run(module, integer, [batch], [batch])


def check_integer_run(
    module: fx.GraphModule,
    integer: IntegerGraph,
    inputs: Sequence[Tensor],
    float_inputs: Sequence[Tensor],
    decode: Sequence[Callable[[Tensor], Tensor]] = (),
) -> tuple[list[Tensor], Mapping[str, list[Tensor]]]:
    """Compare one run of an integer graph with one of the float graph.

    Args:
        module: as for :func:`check_integer_graph`.
        integer: likewise.
        inputs: the input and states of the integer graph.
        float_inputs: the same as real numbers.
        decode: of the last outputs, which are integers: what they stand for. The float graph may lack the last of them.

    Returns:
        What the integer graph gives, and by layer its spikes of each call.

    Raises:
        ExportError: as for :func:`check_integer_graph`.
    """
    with torch.no_grad():
        values = _Values(integer.graph)
        try:
            ours = list(values.run(*inputs))
        except RuntimeError as error:
            raise ExportError(
                f"The integer graph does not run on an input of shape {tuple(inputs[0].shape)}"
                f" ({first_line(error)}): this is an error of snn_extreme_quant, please report it with the model;"
                " export without integer=True."
            ) from error
        theirs = _SideBySide(module, integer, values).run(*float_inputs)
    real = [Tensor.double] * (len(ours) - len(decode))
    for index, (a, b, decoded) in enumerate(zip(ours, theirs, [*real, *decode], strict=False)):
        if isinstance(b, Tensor):
            if a.shape != b.shape:
                raise ExportError(
                    f"The integer graph gives output {index} of shape {tuple(a.shape)}: please report it."
                )
            _compare(decoded(a), b, f"output {index}")
    return ours, values.given
