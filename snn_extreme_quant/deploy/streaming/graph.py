"""The graph of one time step: what a streaming file is made from.

Its placeholders are the step's input and the states before the step; it gives the model's outputs and the states after
it. What is carried from step to step is listed as :class:`State`, with the value it has before the first step.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.recording.graphs import STEP
from snn_extreme_quant.neurons import NeuronSpec

__all__ = ["Output", "State", "StepGraph", "unrolled", "with_open_samples"]

aten = torch.ops.aten


@dataclass(frozen=True)
class State:
    """A value that is carried from step to step.

    Args:
        name: ``<layer>.<state>`` for a neuron's; else what the model or the file adds up.
        initial: its value before the first step: one for all elements; of integers also a tensor that broadcasts.
        shape: its shape; None for the axis of samples.
        dtype: its type.
    """

    name: str
    initial: float | Tensor
    shape: tuple[int | None, ...] = ()
    dtype: torch.dtype = torch.float32

    def start(self, samples: int) -> Tensor:
        """Return the value before the first step, for so many samples."""
        shape = [samples if n is None else n for n in self.shape]
        return torch.as_tensor(self.initial, dtype=self.dtype).expand(shape).contiguous()

    @property
    def facts(self) -> dict[str, Any]:
        """What the file says of it."""
        initial = self.initial.tolist() if isinstance(self.initial, Tensor) else self.initial
        kind = {} if self.dtype is torch.float32 else {"dtype": str(self.dtype).removeprefix("torch.")}
        return {"name": self.name, "shape": ["B" if n is None else n for n in self.shape], "initial": initial, **kind}


@dataclass(frozen=True)
class Output:
    """An output of the model.

    Args:
        name: its name.
        axis: where the sequence model's output has its time axis; a step gives the entry of that step. None if it has
            none: a step gives what the model gives for the steps so far.
    """

    name: str
    axis: int | None


@dataclass(frozen=True)
class StepGraph:
    """One time step of a model.

    Args:
        graph: takes the input and all states, gives the outputs and all states.
        states: what is carried, in the order of the placeholders.
        outputs: what the model gives.
        time_axis: the axis of the model's input that a step's input lacks; None if every step has the same input.
        steps: how many steps the model makes; None if any number.
    """

    graph: fx.GraphModule
    states: tuple[State, ...]
    outputs: tuple[Output, ...]
    time_axis: int | None
    steps: int | None

    def spiking_states(self) -> dict[str, NeuronSpec | None]:
        """Return, by the name of each state's placeholder, the neuron whose output it is, if it is 0 or 1 at first."""
        entries = [n for n in self.graph.graph.nodes if n.op == "placeholder"][1:]
        after = cast("Sequence[fx.Node]", self.graph.graph.output_node().args[0])[len(self.outputs) :]
        found: dict[str, NeuronSpec | None] = {}
        for entry, node, state in zip(entries, after, self.states, strict=True):
            source = node.args[0] if node.target is operator.getitem and node.args[1] == 0 else None
            spikes = isinstance(source, fx.Node) and source.target is STEP and state.initial in (0.0, 1.0)
            found[entry.name] = NeuronSpec.from_operator(str(source.args[-2])) if spikes else None  # type: ignore[union-attr]
        return found

    def input_of(self, inputs: Tensor, step: int) -> Tensor:
        """Return a step's input, of the model's input."""
        return inputs if self.time_axis is None else inputs.select(self.time_axis, step)

    def length(self, inputs: Tensor) -> int:
        """Return how many steps an input of the model has."""
        return inputs.shape[self.time_axis] if self.time_axis is not None else cast("int", self.steps)


def with_open_samples(two: StepGraph, three: StepGraph) -> StepGraph:
    """Return a step that takes any number of samples, given what it is for two numbers of them."""
    states = tuple(
        replace(a, shape=tuple(m if m == n else None for m, n in zip(a.shape, b.shape, strict=True)))
        for a, b in zip(two.states, three.states, strict=True)
    )
    return replace(two, states=states)


def unrolled(step: StepGraph, steps: int, samples: int) -> fx.GraphModule:
    """Return the sequence graph that makes so many steps: what streaming a whole input computes.

    Args:
        step: what a step is.
        steps: how many steps.
        samples: how many samples; the initial states are constants of the graph.
    """
    graph = fx.Graph()
    constants = torch.nn.Module()
    for name, value in _attributes(step.graph).items():
        constants.register_buffer(name, value)
    source = graph.placeholder("input")
    states: list[Any] = []
    for index, state in enumerate(step.states):
        constants.register_buffer(f"start_{index}", state.start(samples))
        states.append(graph.get_attr(f"start_{index}"))
    given: list[Sequence[Any]] = []
    for t in range(steps):
        x = source if step.time_axis is None else graph.call_function(aten.select.int, (source, step.time_axis, t))
        values = iter([x, *states])
        copies: dict[fx.Node, Any] = {}
        for node in step.graph.graph.nodes:
            if node.op == "placeholder":
                copies[node] = next(values)
            elif node.op == "get_attr":
                copies[node] = graph.get_attr(_flat(str(node.target)))
            elif node.op == "call_function":
                copies[node] = graph.node_copy(node, copies.__getitem__)
        results = cast("Sequence[Any]", fx.map_arg(step.graph.graph.output_node().args[0], copies.__getitem__))
        given.append(results[: len(step.outputs)])
        states = list(results[len(step.outputs) :])
    outputs = []
    for index, output in enumerate(step.outputs):
        each = [values[index] for values in given]
        stacked = output.axis is not None
        outputs.append(graph.call_function(aten.stack.default, (each, output.axis)) if stacked else each[-1])
    graph.output(tuple(outputs))
    return fx.GraphModule(constants, graph)


def _flat(name: str) -> str:
    return name.replace(".", "_of_")


def _attributes(module: fx.GraphModule) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value: Any = module
            for part in str(node.target).split("."):
                value = getattr(value, part)
            found[_flat(str(node.target))] = value.detach()
    return found
