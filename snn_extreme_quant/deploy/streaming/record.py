"""The graph of one step of a recorded model, from the graph of all its steps.

What multi-step neurons do in all steps is done in one, with their states before and after; sums over time become sums
so far, which are states too. Unrolled loops are :mod:`.step_loop`'s.

The result is compared with the model before it is used, so what is assumed here need not hold for every model.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.recording.fold_reasons import FoldError
from snn_extreme_quant.deploy.recording.graphs import SEQUENCE, STEP, ancestors
from snn_extreme_quant.deploy.streaming.graph import Output, State, StepGraph
from snn_extreme_quant.deploy.streaming.values import (
    LOOKUPS,
    Series,
    Shapes,
    keep_shape,
    moved_axis,
    one_step,
    reduced_axes,
)
from snn_extreme_quant.neurons import NeuronSpec

__all__ = ["StepRecorder"]

aten = torch.ops.aten
_SPREADS = (aten.repeat.default, aten.expand.default)
#: Element by element; and along the last axis.
_ELEMENTWISE = (
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.relu.default, aten.neg.default,
    aten.dropout.default, torch.ops.snn_xq.fixed_point.default,
)  # fmt: skip
_LAST_AXIS = (torch.ops.snn_xq.packed_linear.default, aten.linear.default, *LOOKUPS)
_SUMS = (aten.sum.dim_IntList, aten.mean.dim)


class StepRecorder:
    """Builds the graph of one step of a model that was recorded with all of them.

    Args:
        module: what was recorded, without repetition.
        inputs: an input that it takes.
        steps: how many steps the model makes on that input.
        time_axis: the axis of the input that has a step's input at each index; None if all steps have the same.
        mean_over_time: whether a sum that is divided by the number of steps is a mean, of the steps so far in a step.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        inputs: Tensor,
        steps: int,
        time_axis: int | None,
        mean_over_time: bool,
    ) -> None:
        self.module, self.steps, self.time_axis = module, steps, time_axis
        self.counts = time_axis is not None and mean_over_time
        self.inputs = inputs
        self.shapes = Shapes(module, inputs).of
        self.graph = fx.Graph()
        self.input = self.last = self.graph.placeholder("input")
        self.states: list[tuple[State, fx.Node]] = []
        self.examples: list[Tensor] = []
        self.after: dict[fx.Node, Any] = {}
        self.values: dict[fx.Node, Any] = {}
        self.count: fx.Node | None = None
        sequences = [n for n in module.graph.nodes if n.target in (SEQUENCE, STEP)]
        self.before_neurons = set().union(*(ancestors(n) for n in sequences)) if sequences else set()
        self.sequence_calls: dict[str, list[fx.Node]] = {}
        for node in sequences:
            if node.target is SEQUENCE:
                self.sequence_calls.setdefault(str(node.args[-1]), []).append(node)

    def run(self, names: Sequence[str]) -> StepGraph:
        """Return the graph; ``names`` are those of the outputs."""
        given = [self.value(node) for node in cast("Sequence[fx.Node]", self.module.graph.output_node().args[0])]
        outputs, results = [], []
        for name, value in zip(names, given, strict=True):
            if isinstance(value, Series) and value.merged:
                raise FoldError(f"output {name!r} holds all steps and samples in one axis")
            outputs.append(Output(name, value.axis if isinstance(value, Series) else None))
            results.append(value.as_step(self.graph) if isinstance(value, Series) else value)
        self.finish()
        self.graph.output(tuple(fx.map_arg((*results, *(self.after[node] for _, node in self.states)), lambda n: n)))
        graph = fx.GraphModule(self.module, self.graph)
        graph.graph.eliminate_dead_code()
        graph.graph.lint()
        graph.recompile()
        steps = None if self.time_axis is not None else self.steps
        step = StepGraph(graph, tuple(s for s, _ in self.states), tuple(outputs), self.time_axis, steps)
        with torch.no_grad():
            after = graph(step.input_of(self.inputs, 0), *self.examples)[len(outputs) :]
        shaped = [replace(state, shape=tuple(v.shape)) for state, v in zip(step.states, after, strict=True)]
        return replace(step, states=tuple(shaped))

    # Values of the record in one step -----------------------------------------------------------------------------

    def value(self, node: Any) -> Any:
        """Return what a recorded value is in one step: a node, a number, or a series."""
        if not isinstance(node, fx.Node):
            return node
        if node not in self.values:
            self.values[node] = self._value(node)
        return self.values[node]

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            keep_shape(self.input, node.meta.get("val"), self.time_axis)
            return self.input if self.time_axis is None else Series(self.time_axis, step=self.input)
        if node.op == "get_attr":
            return self.graph.node_copy(node)  # with its shape
        found = self.of_loop(node)
        if found is not None:
            return found
        if node.target is operator.getitem and isinstance(given := self.value(node.args[0]), tuple):
            return given[cast("int", node.args[1])]
        if node.target is STEP:
            raise FoldError(f"neuron {node.args[-1]!r} is used in a way that is not understood")
        if node.target is SEQUENCE:
            return self._sequence(node)
        spread = self._spread(node)
        if spread is not None:
            return spread
        return self._operation(node)

    def of_loop(self, _node: fx.Node) -> Any:
        """Return what a value computed from the steps of a loop is in one step; None if it is none."""
        return None

    def finish(self) -> None:
        """Make what states are after the step, where that was left open."""

    def _spread(self, node: fx.Node) -> Series | None:
        """A value repeated for all steps: where a model that makes a fixed number of them begins."""
        if self.time_axis is not None or node not in self.before_neurons:
            return None
        source = node.args[0]
        if node.target is aten.stack.default:
            items = cast("Sequence[fx.Node]", source)
            if len(items) != self.steps or any(i is not items[0] for i in items):
                return None
            axis = cast("int", (*node.args, 0)[1]) % len(self.shapes[node])
            return Series(axis, step=self.value(items[0]))
        if node.target not in _SPREADS or not isinstance(source, fx.Node):
            return None
        value = self.value(source)
        before, after = self.shapes[source], self.shapes[node]
        added = len(after) - len(before)
        wider = [a for a, n in enumerate(after) if n != (1, *before)[max(0, a - added + 1)] or a < added]
        if isinstance(value, Series) or len(wider) != 1 or after[wider[0]] != self.steps or added > 1:
            return None
        axis = wider[0]
        if added and axis:
            return None
        return Series(axis, step=value) if added else Series(axis, whole=value)

    def _operation(self, node: fx.Node) -> Any:
        """An operation on values of all steps, or on none."""
        length = self._length(node)
        if length is not None:
            return length
        series = [(n, v) for n in node.all_input_nodes if isinstance(v := self.value(n), Series)]
        if not series:
            return self._copied(node, [self._each(a) for a in node.args])
        source, value = max(series, key=lambda item: len(self.shapes[item[0]]))
        if node.target in (*_SUMS, aten.amax.default) and value.axis in reduced_axes(node, len(self.shapes[source])):
            return self._reduced(node, value)
        if node.target in (aten.select.int, aten.slice.Tensor):
            axis = cast("int", (*node.args, 0)[1]) % len(self.shapes[source])
            if axis == value.axis:
                return self._one_of(node, value)
        before, after = self.shapes[source], self.shapes[node]
        moved = moved_axis(node, before, value.axis, after, self.steps)
        if moved is None:
            raise FoldError(f"{node.name!r} works on all steps together")
        axis, merged = moved
        if axis == 0 and value.axis == 0 and value.merged != merged:
            # (T, B, ...) and (T * B, ...) are the same in one step, but for the other axes.
            rest = (before[2:], after[1:]) if merged else (before[1:], after[2:])
            if rest[0] == rest[1]:
                return Series(0, merged, step=value.as_step(self.graph))
        if self._pointwise(node, value, axis):
            args = [a.as_step(self.graph) if isinstance(a, Series) else a for a in map(self.value, node.args)]
            return Series(axis, merged, step=self._copied(node, args, axis))
        whole = [self._each(a, whole=True) for a in node.args]
        return Series(axis, merged, whole=self._copied(node, one_step(node, whole, axis, after, self.steps)))

    def _pointwise(self, node: fx.Node, value: Series, axis: int) -> bool:
        """Whether an operation on all steps is the same on one step without the time axis."""
        if value.merged or axis != value.axis or node.kwargs:
            return False
        rank = len(self.shapes[node])
        if node.target in _LAST_AXIS:
            return axis < rank - 1
        if node.target not in _ELEMENTWISE:
            return False
        for argument in node.all_input_nodes:
            given, shape = self.value(argument), self.shapes[argument]
            if isinstance(given, Series):
                if (given.axis, given.merged, len(shape)) != (axis, False, rank):
                    return False
            elif len(shape) >= rank - axis:  # it would be held against the time axis
                return False
        return not any(isinstance(a, (list, tuple)) for a in node.args)

    def _copied(self, node: fx.Node, args: Sequence[Any], without: int | None = None) -> fx.Node:
        """Do what the record does with other arguments; ``without`` that axis."""
        kwargs = {k: self._each(v, whole=True) for k, v in node.kwargs.items()}
        made = self.graph.create_node("call_function", cast("Any", node.target), tuple(args), kwargs)
        # The recorded shape is right but for the time axis, of which no length is read.
        keep_shape(made, node.meta.get("val"), without)
        return made

    def _each(self, argument: Any, *, whole: bool = False) -> Any:
        if isinstance(argument, (list, tuple)):
            return [self._each(a, whole=whole) for a in argument]
        value = self.value(argument)
        return value.as_whole(self.graph) if isinstance(value, Series) and whole else value

    def _length(self, node: fx.Node) -> Any:
        """A size of a series. The number of steps is 1 where it is a size, and the number so far where it divides."""
        if node.target is aten.sym_size.int:
            source = self.value(node.args[0])
            axis = cast("int", node.args[1]) % len(self.shapes[cast("fx.Node", node.args[0])])
            if not isinstance(source, Series):
                return None
            if source.merged:
                return self.graph.call_function(aten.sym_size.int, (source.as_step(self.graph), axis))
            if axis == source.axis:
                return 1
            return self.graph.call_function(
                aten.sym_size.int, (source.as_step(self.graph), axis - (axis > source.axis))
            )
        if node.target is aten.div.Tensor and self._is_length(node.args[1]):
            return self._divided(node.args[0])
        return None

    def _is_length(self, node: Any) -> bool:
        """Whether a value is the number of steps, read from an input."""
        return isinstance(node, fx.Node) and node.target is aten.sym_size.int and type(self.value(node)) is int

    def _divided(self, total: Any) -> fx.Node:
        value = self.value(total)
        if isinstance(value, Series):
            raise FoldError("every step is divided by the number of all steps")
        return self.graph.call_function(aten.div.Tensor, (value, self.steps_so_far()))

    # What goes over time ------------------------------------------------------------------------------------------

    def state(self, name: str, initial: Tensor) -> fx.Node:
        """Return a new state's value before the step; ``initial`` is what it is before the first."""
        if initial.numel() and not bool((initial == initial.flatten()[0]).all()):
            raise FoldError(f"the state {name!r} is not the same for all neurons before the first step")
        taken = {state.name for state, _ in self.states}
        free = next(n for n in (name, *(f"{name}.{i}" for i in range(1, len(taken) + 2))) if n not in taken)
        with self.graph.inserting_after(self.last):
            self.last = self.graph.placeholder(f"state_{len(self.states)}")
        self.states.append((State(free, float(initial.flatten()[0]) if initial.numel() else 0.0), self.last))
        self.examples.append(initial)
        return self.last

    def steps_so_far(self) -> fx.Node:
        """Return how many steps were made, this one included."""
        if self.count is None:
            before = self.state("steps", torch.zeros(()))
            self.count = self.after[before] = self.graph.call_function(aten.add.Tensor, (before, 1.0))
        return self.count

    def so_far(self, term: fx.Node, base: Any, what: Any = aten.add.Tensor) -> fx.Node:
        """Return the sum of a term of each step so far, begun at ``base``; or what else an operation makes of them."""
        initial = base if isinstance(base, Tensor) else torch.tensor(float(base))
        before = self.state("so_far", initial)
        self.after[before] = self.graph.call_function(what, (before, term))
        return cast("fx.Node", self.after[before])

    def _reduced(self, node: fx.Node, value: Series) -> fx.Node:
        """A sum, mean or maximum over time: that of the steps so far."""
        if value.merged or node in self.before_neurons:
            raise FoldError(f"{node.name!r} goes over all steps before a neuron sees them")
        source = cast("fx.Node", node.args[0])
        shape = self.shapes[source]
        axes = reduced_axes(node, len(shape))
        keep = bool(node.args[2]) if len(node.args) > 2 else False
        term: fx.Node
        if node.target is aten.amax.default:
            term = self.graph.call_function(aten.amax.default, (value.as_whole(self.graph), axes, keep))
            return self.so_far(term, -math.inf, aten.maximum.default)
        if axes == [value.axis] and not keep:
            term = value.as_step(self.graph)
        else:
            term = self.graph.call_function(aten.sum.dim_IntList, (value.as_whole(self.graph), axes, keep))
        total = self.so_far(term, 0.0)
        if node.target is not aten.mean.dim:
            return total
        others = math.prod(shape[a] for a in axes if a != value.axis)
        count: Any = self.steps * others
        if self.time_axis is not None:
            count = self.steps_so_far()
            count = self.graph.call_function(aten.mul.Tensor, (count, float(others))) if others > 1 else count
        return self.graph.call_function(aten.div.Tensor, (total, count))

    def _one_of(self, node: fx.Node, value: Series) -> fx.Node:
        """The last of all steps; no other can be had when it is not known how many come."""
        index = node.args[2] if node.target is aten.select.int else None
        last = index == -1 or (self.time_axis is None and index == self.steps - 1)
        if value.merged or not last or node in self.before_neurons:
            raise FoldError(f"{node.name!r} picks some of the steps")
        return value.as_step(self.graph)

    def _sequence(self, node: fx.Node) -> tuple[Series, ...]:
        """A multi-step neuron: one step of it."""
        layer = str(node.args[-1])
        spec = NeuronSpec.from_operator(str(node.args[-2]))
        current = self.value(node.args[0])
        if not isinstance(current, Series) or current.axis or current.merged:
            raise FoldError(f"neuron {layer!r} gets what is not a sequence of steps")
        calls = self.sequence_calls[layer]
        if len(calls) > 1:
            raise FoldError(
                f"neuron {layer!r} takes {len(calls)} sequences one after the other: the second goes on where the first"
                " has ended, so no step of it can be made before all of the first"
            )
        states = []
        for name, start in zip(spec.states, cast("Sequence[fx.Node]", node.args[1]), strict=True):
            states.append(self.state(f"{layer}.{name}", self.constant(start)))
        rest = fx.map_arg(node.args[2:], self.value)
        made = self.graph.call_function(STEP, (current.as_step(self.graph), states, *rest))
        outputs = [self.graph.call_function(operator.getitem, (made, i)) for i in range(len(spec.outputs))]
        for output in outputs:
            keep_shape(output, cast("fx.Node", node.args[0]).meta.get("val"), 0)
        for name, state in zip(spec.states, states, strict=True):
            self.after[state] = outputs[spec.outputs.index(name)]
        return tuple(Series(0, step=output) for output in outputs)

    def constant(self, node: fx.Node) -> Tensor:
        """Return what a state is before the first step: a value that no input changes."""
        needed = ancestors(node)
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for n in self.module.graph.nodes:
            if n in needed:
                copies[n] = graph.node_copy(n, copies.__getitem__)
        graph.output(copies[node])
        run = fx.GraphModule(self.module, graph)
        takes = any(n.op == "placeholder" for n in needed)
        with torch.no_grad():
            found = [run(x) if takes else run() for x in (self.inputs, torch.ones_like(self.inputs))]
        if not torch.equal(*found):
            raise FoldError(f"a state before the first step, {node.name!r}, is computed from the input")
        return cast("Tensor", found[0].detach().clone().float())
