"""``integer_graph``: a recorded graph in float, rewritten to one that computes with integers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.fixed_point import DECAY_BITS, MAX_STEPS, FixedPointNeuron

from .integer_neurons import NeuronCalls, NeuronValues
from .integer_rewriting import Rewriter
from .integer_shapes import shapes_of
from .integer_values import Term

__all__ = ["IntegerGraph", "IntegerOptions", "integer_graph", "integer_options"]

#: A decay of 1 in 31 bits.
MOST_DECAY_BITS = 30


@dataclass(frozen=True)
class IntegerOptions:
    """What may be chosen of an integer file.

    Args:
        decay_bits: bits behind the point of a leak, 1 to 30.
        max_steps: time steps for which overflow is excluded where it is not for any number of them.

    Raises:
        ConfigError: a number is out of range.

    Example:
        >>> IntegerOptions(decay_bits=8)
        IntegerOptions(decay_bits=8, max_steps=1024)
    """

    decay_bits: int = DECAY_BITS
    max_steps: int = MAX_STEPS

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if type(self.decay_bits) is not int or not 1 <= self.decay_bits <= MOST_DECAY_BITS:
            raise ConfigError(
                f"IntegerOptions(decay_bits={self.decay_bits!r}): use a number from 1 to {MOST_DECAY_BITS}."
            )
        if type(self.max_steps) is not int or self.max_steps < 1:
            raise ConfigError(f"IntegerOptions(max_steps={self.max_steps!r}): use a whole number from 1 on.")


@dataclass(frozen=True)
class IntegerGraph:
    """A graph of integer operators.

    Args:
        graph: takes what the recorded graph takes and gives what it gives, decoded.
        neurons: by name, each neuron layer in fixed point.
        inputs: by quantised layer, the integers that it reads ("" stands for poolings).
        calls: by call of a neuron layer in the recorded graph, what it reads and gives in this one.
        fed: by neuron layer, what feeds it in all calls, for which it is proved.
    """

    graph: fx.GraphModule
    neurons: Mapping[str, FixedPointNeuron]
    inputs: Mapping[str, Term]
    calls: Mapping[fx.Node, NeuronValues]
    fed: Mapping[str, NeuronCalls]


def integer_options(integer: object) -> IntegerOptions | None:
    """Return what ``export_onnx(integer=...)`` asks for; None for a file in float.

    Raises:
        ConfigError: it is neither a truth value nor options.
    """
    if isinstance(integer, IntegerOptions):
        return integer
    if not isinstance(integer, bool):
        raise ConfigError(f"export_onnx(integer={integer!r}): use True, False or sxq.deploy.IntegerOptions(...).")
    return IntegerOptions() if integer else None


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
    return IntegerGraph(graph, folded, writer.inputs, writer.neurons, survey.calls)
