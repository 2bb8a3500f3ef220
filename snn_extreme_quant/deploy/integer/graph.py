"""``integer_graph``: a recorded graph in float, rewritten to one that computes with integers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from snn_extreme_quant.deploy.integer.neurons import NeuronCalls, NeuronValues
from snn_extreme_quant.deploy.integer.options import IntegerOptions
from snn_extreme_quant.deploy.integer.rewriting import Rewriter
from snn_extreme_quant.deploy.integer.shapes import shapes_of
from snn_extreme_quant.deploy.integer.values import Term
from snn_extreme_quant.neurons.fixed_point import FixedPointNeuron

__all__ = ["IntegerGraph", "integer_graph"]


@dataclass(frozen=True)
class IntegerGraph:
    """A graph of integer operators.

    Args:
        graph: takes what the recorded graph takes and gives what it gives, decoded.
        neurons: by name, each neuron layer in fixed point.
        inputs: by quantised layer, the integers that it reads ("" stands for poolings).
        calls: by call of a neuron layer in the recorded graph, what it reads and gives in this one.
        fed: by neuron layer, what feeds it in all calls, for which it is proved.
        rounding: by how much rows of embeddings are rounded, relative to the largest value that there can be.
    """

    graph: fx.GraphModule
    neurons: Mapping[str, FixedPointNeuron]
    inputs: Mapping[str, Term]
    calls: Mapping[fx.Node, NeuronValues]
    fed: Mapping[str, NeuronCalls]
    rounding: float


def integer_graph(
    module: fx.GraphModule,
    sample: Tensor,
    axes: Mapping[int, str],
    *,
    spikes: bool,
    options: IntegerOptions | None = None,
) -> IntegerGraph:
    """Rewrite a recorded graph to integers.

    Args:
        module: the recorded graph, folded over time or not.
        sample: the input it was recorded with.
        axes: names of the input's open axes.
        spikes: whether the input is promised to be 0 and 1.
        options: what may be chosen.

    Raises:
        UnsupportedModelError: a layer reads what has no form in integers, or does not fit 32 bits.
        UnsupportedNeuronError: a neuron has no fixed-point form.
    """
    options = options or IntegerOptions()
    shapes = shapes_of(module, sample, axes)
    steps = options.max_steps
    survey = Rewriter(module, shapes, spikes=spikes, max_steps=steps)
    survey.run()
    folded = {name: calls.folded(name, options.decay_bits, steps) for name, calls in survey.calls.items()}
    writer = Rewriter(module, shapes, spikes=spikes, max_steps=steps, folded=folded)
    graph = writer.run()
    return IntegerGraph(graph, folded, writer.inputs, writer.neurons, survey.calls, writer.rounding)
