"""From a recorded graph to an integer file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx
from torch import fx

from snn_extreme_quant.deploy.integer.check import check_integer_graph
from snn_extreme_quant.deploy.integer.graph import IntegerGraph, integer_graph
from snn_extreme_quant.deploy.integer.integers_only import check_integers_only
from snn_extreme_quant.deploy.integer.options import IntegerOptions
from snn_extreme_quant.deploy.lowering.model import lower
from snn_extreme_quant.deploy.recording.exactness import Exactness, LayerExactness, analyse
from snn_extreme_quant.deploy.recording.record import Recording, Request
from snn_extreme_quant.deploy.recording.structure import probing_inputs
from snn_extreme_quant.neurons.fixed_point import FixedPointNeuron
from snn_extreme_quant.neurons.fixed_point_spec import STATE_LIMIT

__all__ = ["FixedPointReport", "integer_exactness", "integer_facts", "layer_magnitudes", "lower_integer", "rewritten"]


#: Why a quantised layer is not exact in an integer file.
_READOUT = "decoding: sums real numbers, in an order that a runtime may choose"


@dataclass(frozen=True)
class FixedPointReport:
    """How one neuron layer is computed in an integer file.

    Args:
        name: the layer.
        fraction: F; a potential V stands for V * unit * 2^-F.
        decay_bits: bits behind the point of its leak.
        current: the largest magnitude that its current can have, in fixed point.
        potential: the largest that its potential can have.
        headroom: how many bits lie between them and 2^30.
        max_steps: for how many time steps that is proved; None for any number.
        coarse: how many channels that can fire have fewer than 8 bits behind the point, where the rounding of threshold
            and bias may be seen.
        over_steps: whether its current holds sums over all steps, which may leave 32 bits after more steps than that.
    """

    name: str
    fraction: int
    decay_bits: int
    current: float
    potential: float
    headroom: float
    max_steps: int | None
    coarse: int = 0
    over_steps: bool = False

    @classmethod
    def of(cls, name: str, neuron: FixedPointNeuron, over_steps: bool) -> FixedPointReport:
        """Read it from a layer."""
        return cls(
            name,
            neuron.fraction,
            neuron.shift,
            neuron.bounds.current,
            neuron.bounds.potential,
            round(neuron.headroom, 2),
            neuron.steps,
            neuron.coarse,
            over_steps,
        )

    def __str__(self) -> str:
        """Say it in a line."""
        coarse = f"; coarse: fewer than 8 bits behind the point in {self.coarse} channels" if self.coarse else ""
        steps = "any number of steps" if self.max_steps is None else f"{self.max_steps} steps"
        return (
            f"{self.name}: fixed point at 2^-{self.fraction} of its scale, leak of {self.decay_bits} bits; at most"
            f" {max(self.current, self.potential):.4g} of {STATE_LIMIT} ({self.headroom:g} bits free) for"
            f" {steps}{coarse}"
        )


def rewritten(graph: fx.GraphModule, recording: Recording, request: Request, options: IntegerOptions) -> IntegerGraph:
    """Return the integer graph of a recording, checked against it.

    Args:
        graph: the recording's graph, as its codes are to be packed.
        recording: what was recorded.
        request: what was asked for.
        options: what may be chosen.

    Raises:
        UnsupportedModelError: it has no integer form.
        UnsupportedNeuronError: a neuron has none.
    """
    sample = recording.recorded.sample
    integer = integer_graph(graph, sample, recording.axes, spikes=request.spikes, options=options)
    shapes = [
        [{"T": steps, "B": batch}[recording.axes[axis]] if axis in recording.axes else size for axis, size in shape]
        for steps, batch in ((4, 2), (1, 3))
        for shape in [list(enumerate(sample.shape))]
    ]
    check_integer_graph(graph, integer, probing_inputs(request.sample, shapes, request.spikes))
    return integer


def integer_facts(integer: IntegerGraph) -> list[dict[str, Any]]:
    """Return JSON-ready facts of each neuron layer."""
    return [
        asdict(FixedPointReport.of(name, neuron, integer.fed[name].over_steps))
        for name, neuron in integer.neurons.items()
    ]


def layer_magnitudes(integer: IntegerGraph) -> dict[str, int]:
    """Return, by quantised layer, the largest magnitude of what it reads."""
    return {name: int(max(-term.bounds[0], term.bounds[1])) for name, term in integer.inputs.items()}


def integer_exactness(integer: IntegerGraph) -> Exactness:
    """Return the verdicts on an integer graph: all that is computed in integers is exact.

    A quantised layer that is left is a readout of real numbers, behind the last neuron.
    """
    found = {
        name: replace(verdict, exact=False, reason=_READOUT) for name, verdict in analyse(integer.graph).layers.items()
    }
    layers = {
        name: LayerExactness(True, f"integer sums of {'bytes' if term.dtype.itemsize == 1 else 'integers'}")
        for name, term in integer.inputs.items()
        if name and name not in found
    }
    neurons = {
        name: LayerExactness(True, f"fixed point, F = {neuron.fraction}") for name, neuron in integer.neurons.items()
    }
    return Exactness({**found, **layers}, neurons)


def lower_integer(
    graph: fx.GraphModule,
    recording: Recording,
    request: Request,
    facts: Mapping[str, Any],
    options: IntegerOptions,
) -> onnx.ModelProto:
    """Return the integer file of a recording.

    Args:
        graph: as for :func:`rewritten`.
        recording: as for :func:`rewritten`.
        request: as for :func:`rewritten`.
        facts: of the file.
        options: as for :func:`rewritten`.

    Raises:
        UnsupportedModelError: it has no integer form.
        UnsupportedNeuronError: a neuron has none.
        ExportError: the file would compute in float between integers.
    """
    integer = rewritten(graph, recording, request, options)
    whole = {**facts, "integer": True, "fixed_point": integer_facts(integer), **asdict(options)}
    recorded = recording.recorded
    proto = lower(
        integer.graph,
        recorded.sample,
        integer_exactness(integer),
        recorded.names,
        recording.axes,
        whole,
        magnitudes=layer_magnitudes(integer),
    )
    check_integers_only(proto)
    return proto
