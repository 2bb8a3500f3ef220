"""Turns a recorded model, an unrolled loop or one of whole sequences, into the graph of one of its steps.

A loop was recorded with T copies of everything. The copies of a value are held against each other, and one is kept; a
value of which a step takes the last step's copy is a state. What multi-step neurons do in all steps is done in one, with
their states before and after. Sums over time become sums so far, carried on as states.

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

from snn_extreme_quant.neurons import NeuronSpec

from .graphs import SEQUENCE, STEP, ancestors, dims, neuron_calls, without_repetition
from .step_graph import Output, State, StepGraph
from .step_values import Series, Shapes, moved_axis, one_step, reduced_axes
from .timefold import FoldError

__all__ = ["record_step", "step_counts"]

aten = torch.ops.aten
_JOINS = (aten.stack.default, aten.cat.default)
_SPREADS = (aten.repeat.default, aten.expand.default)
#: Element by element; and along the last axis.
_ELEMENTWISE = (
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.relu.default, aten.neg.default,
    aten.dropout.default, torch.ops.snn_xq.fixed_point.default,
)  # fmt: skip
_LAST_AXIS = (torch.ops.snn_xq.packed_linear.default, aten.linear.default)
_SUMS = (aten.sum.dim_IntList, aten.mean.dim)


def step_counts(module: fx.GraphModule) -> list[int]:
    """Return what may be the number of steps that a graph was recorded with, likeliest first."""
    graph = without_repetition(module).graph
    for node in graph.nodes:
        if node.target is SEQUENCE:
            return [int(node.args[0].meta["val"].shape[0])] if not _is_open(node) else [0]
    indexed = [n for n in graph.nodes if n.target in (aten.select.int, aten.unbind.int)]
    lengths = []
    for node in indexed:
        source = node.args[0]
        axis = cast("int", (*node.args, 0)[1])
        users = {u.args[2] for u in source.users if u.target is aten.select.int and u.args[1] == node.args[1]}
        size = dims(source)[axis]
        if isinstance(size, int) and size > 1 and (node.target is aten.unbind.int or len(users) == size):
            lengths.append(size)
    total = math.gcd(*(len(nodes) for nodes in neuron_calls(graph).values()))
    divisors = [n for n in range(total, 1, -1) if total % n == 0]
    return list(dict.fromkeys([*lengths, *divisors]))


def _is_open(node: fx.Node) -> bool:
    size = cast("fx.Node", node.args[0]).meta["val"].shape[0]
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def record_step(
    module: fx.GraphModule,
    inputs: Tensor,
    names: Sequence[str],
    *,
    steps: int,
    time_axis: int | None,
    mean_over_time: bool = True,
) -> StepGraph:
    """Return the graph of one step of a recorded model.

    Args:
        module: what was recorded, not folded.
        inputs: an input that it takes.
        names: names of the outputs.
        steps: how many steps the model makes on that input.
        time_axis: the axis of the input that has a step's input at each index; None if all steps have the same.
        mean_over_time: a sum over all steps that is divided by their number is divided by the number of steps so far;
            else the divisor is a constant of the model.

    Raises:
        FoldError: the model has no such form.
    """
    module = without_repetition(module)
    return _Recorder(module, inputs, steps, time_axis, mean_over_time).run(names)


class _Recorder:
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
        self.pending: list[tuple[fx.Node, list[Any]]] = []
        self.known: dict[tuple[fx.Node, int], fx.Node] = {}
        self.crossed: dict[fx.Node, fx.Node] = {}
        self.values: dict[fx.Node, Any] = {}
        self.layers: dict[tuple[str, int], list[fx.Node]] = {}
        self.count: fx.Node | None = None
        self.calls = neuron_calls(module.graph)
        self.per_step = {name: -(-len(nodes) // steps) for name, nodes in self.calls.items()}
        self.position = {
            node: (name, index // self.per_step[name], index % self.per_step[name])
            for name, nodes in self.calls.items()
            for index, node in enumerate(nodes)
        }
        self.varying = self._varying()
        sequences = [n for n in module.graph.nodes if n.target in (SEQUENCE, STEP)]
        self.before_neurons = set().union(*(ancestors(n) for n in sequences)) if sequences else set()
        self.sequence_calls: dict[str, list[fx.Node]] = {}
        for node in sequences:
            if node.target is SEQUENCE:
                self.sequence_calls.setdefault(str(node.args[-1]), []).append(node)

    def run(self, names: Sequence[str]) -> StepGraph:
        given = [self.value(node) for node in cast("Sequence[fx.Node]", self.module.graph.output_node().args[0])]
        outputs, results = [], []
        for name, value in zip(names, given, strict=True):
            if isinstance(value, Series) and value.merged:
                raise FoldError(f"output {name!r} holds all steps and samples in one axis")
            outputs.append(Output(name, value.axis if isinstance(value, Series) else None))
            results.append(value.as_step(self.graph) if isinstance(value, Series) else value)
        while self.pending:
            state, following = self.pending.pop()
            self.after[state] = self.pack(following, 0)
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

    # What is known of the record ----------------------------------------------------------------------------------

    def _index(self, node: fx.Node) -> tuple[fx.Node, int, int] | None:
        """Return source, axis and index of ``x[t]``, if it picks one of the steps of a value."""
        if node.target is aten.select.int:
            source, axis, index = cast("tuple[fx.Node, int, int]", node.args[:3])
        elif node.target is operator.getitem and getattr(node.args[0], "target", None) is aten.unbind.int:
            split = cast("fx.Node", node.args[0])
            source, axis, index = cast("fx.Node", split.args[0]), (*split.args, 0)[1], cast("int", node.args[1])
        else:
            return None
        if not self.calls or not isinstance(axis, int) or not isinstance(index, int):
            return None
        axis %= len(self.shapes[source])
        if self.shapes[source][axis] != self.steps or (source.op == "placeholder" and axis != self.time_axis):
            return None
        return source, axis, index % self.steps

    def _varying(self) -> set[fx.Node]:
        """Return what differs from step to step of a loop: neurons, indexed steps, and all that is computed of them."""
        indexed: dict[tuple[fx.Node, int], set[int]] = {}
        for node in self.module.graph.nodes:
            at = self._index(node)
            if at is not None:
                indexed.setdefault(at[:2], set()).add(at[2])
        found: set[fx.Node] = set()
        for node in self.module.graph.nodes:
            at = self._index(node)
            whole = at is not None and len(indexed[at[:2]]) == self.steps
            if whole or node.target is STEP or any(a in found for a in node.all_input_nodes):
                found.add(node)
        return found

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
            return self.input if self.time_axis is None else Series(self.time_axis, step=self.input)
        if node.op == "get_attr":
            return self.graph.node_copy(node)
        if node in self.varying:
            for form in (self._joined, self._total, self._final):
                found = form(node)
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

    def _spread(self, node: fx.Node) -> Series | None:
        """A value repeated for all steps: where a model that makes a fixed number of them begins."""
        if self.time_axis is not None or node not in self.before_neurons or self.calls:
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
            return Series(axis, merged, step=self._copied(node, args))
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

    def _copied(self, node: fx.Node, args: Sequence[Any]) -> fx.Node:
        kwargs = {k: self._each(v, whole=True) for k, v in node.kwargs.items()}
        made = self.graph.create_node("call_function", cast("Any", node.target), tuple(args), kwargs)
        if "val" in node.meta:
            made.meta["val"] = node.meta["val"]  # right but for the time axis, of which no length is read
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
        return self.graph.call_function(aten.div.Tensor, (value, self._steps_so_far()))

    # What goes over time ------------------------------------------------------------------------------------------

    def _state(self, name: str, initial: Tensor) -> fx.Node:
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

    def _steps_so_far(self) -> fx.Node:
        if self.count is None:
            before = self._state("steps", torch.zeros(()))
            self.count = self.after[before] = self.graph.call_function(aten.add.Tensor, (before, 1.0))
        return self.count

    def _so_far(self, term: fx.Node, base: Any, what: Any = aten.add.Tensor) -> fx.Node:
        initial = base if isinstance(base, Tensor) else torch.tensor(float(base))
        before = self._state("so_far", initial)
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
            return self._so_far(term, -math.inf, aten.maximum.default)
        if axes == [value.axis] and not keep:
            term = value.as_step(self.graph)
        else:
            term = self.graph.call_function(aten.sum.dim_IntList, (value.as_whole(self.graph), axes, keep))
        total = self._so_far(term, 0.0)
        if node.target is not aten.mean.dim:
            return total
        others = math.prod(shape[a] for a in axes if a != value.axis)
        count: Any = self.steps * others
        if self.time_axis is not None:
            count = self._steps_so_far()
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
            states.append(self._state(f"{layer}.{name}", self._constant(start)))
        rest = fx.map_arg(node.args[2:], self.value)
        made = self.graph.call_function(STEP, (current.as_step(self.graph), states, *rest))
        outputs = [self.graph.call_function(operator.getitem, (made, i)) for i in range(len(spec.outputs))]
        for name, state in zip(spec.states, states, strict=True):
            self.after[state] = outputs[spec.outputs.index(name)]
        return tuple(Series(0, step=output) for output in outputs)

    def _constant(self, node: fx.Node) -> Tensor:
        """Return what a state is before the first step: a value that no input changes."""
        needed = ancestors(node)
        graph, copies = fx.Graph(), {}
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

    # Copies of one value in all steps of a loop ---------------------------------------------------------------------

    def _joined(self, node: fx.Node) -> Series | None:
        """``stack`` (or ``cat`` of unsqueezed values) of all steps."""
        if node.target not in _JOINS:
            return None
        items = cast("Sequence[fx.Node]", node.args[0])
        axis = cast("int", (*node.args, 0)[1])
        if len(items) != self.steps:
            return None
        if node.target is aten.cat.default:
            if any(i.target is not aten.unsqueeze.default or i.args[1] != axis for i in items):
                return None
            items = [cast("fx.Node", i.args[0]) for i in items]
        if any(i not in self.varying for i in items):
            return None
        return Series(axis % len(self.shapes[node]), step=self.pack(list(items), 0))

    def _total(self, node: fx.Node) -> fx.Node | None:
        """A sum over all steps, ``((base + x_0) + x_1) + ...``, or that divided by their number."""
        if node.target is aten.div.Tensor and self.counts and node.args[1] == self.steps:
            summed = cast("fx.Node", node.args[0])
            total = self._total(summed) if summed.target is aten.add.Tensor else None
            if total is None and summed.target is aten.sum.dim_IntList:
                value = self.value(summed)
                total = None if isinstance(value, Series) else value
            return None if total is None else self.graph.call_function(
                aten.div.Tensor, (total, self._steps_so_far())
            )
        terms: list[Any] = []
        rest: Any = node
        while isinstance(rest, fx.Node) and rest.target is aten.add.Tensor and not rest.kwargs:
            left, right = rest.args
            # `0 + x` is recorded as add(x, 0).
            term, rest = (right, left) if isinstance(right, fx.Node) else (left, right)
            terms.insert(0, term)
            if len(terms) == self.steps:
                break
        if len(terms) == self.steps - 1:
            terms, rest = [rest, *terms], None
        if len(terms) != self.steps or not all(t in self.varying for t in terms):
            return None
        if isinstance(rest, fx.Node) and rest in self.varying:
            return None
        try:
            step = self.pack(terms, 0)
        except FoldError:
            return None
        return self._so_far(step, self._constant(rest) if isinstance(rest, fx.Node) else rest or 0.0)

    def _final(self, node: fx.Node) -> fx.Node | None:
        """A value of the last step."""
        try:
            found = self.pack([node], self.steps - 1)
        except FoldError:
            return None
        return found if isinstance(found, fx.Node) else None

    def pack(self, nodes: list[Any], start: int, name: str = "") -> Any:
        """Return a value of one step, given its copies in the steps from ``start`` on."""
        first = nodes[0]
        if not isinstance(first, fx.Node):
            if any(type(n) is not type(first) or n != first for n in nodes):
                raise FoldError("a constant differs from step to step")
            return first
        if any(not isinstance(n, fx.Node) for n in nodes):
            raise FoldError("steps differ in structure")
        if not any(n in self.varying for n in nodes):
            if any(n is not first for n in nodes):
                raise FoldError(f"steps differ at {first.name!r}")
            value = self.value(first)
            if isinstance(value, Series):
                raise FoldError(f"a step reads all of {first.name!r}")
            return value
        known = self.known.get((first, start))
        if known is not None:
            if any(self.known.get((n, start + i), known) is not known for i, n in enumerate(nodes)):
                raise FoldError(f"steps differ at {first.name!r}")
            return known
        if first not in self.varying:
            return self._carried_or_deeper(nodes, start, name)
        made = self._packed(nodes, start)
        for i, n in enumerate(nodes):
            self.known[n, start + i] = made
        return made

    def _carried_or_deeper(self, nodes: list[fx.Node], start: int, name: str) -> fx.Node:
        """The first step's copy is a constant: what is carried is this value, or one that it is computed from."""
        first = nodes[0]
        if first.op == "call_function" and all(n.target == first.target for n in nodes) and first.all_input_nodes:
            waiting, states = len(self.pending), len(self.states)
            try:
                return self._packed(nodes, start)
            except FoldError:
                if (waiting, states) != (len(self.pending), len(self.states)):
                    raise
        return self._carried(nodes, start, name)

    def _carried(self, nodes: list[fx.Node], start: int, name: str) -> fx.Node:
        """A value of the step before, with another before the first step: a state."""
        if start or any(n not in self.varying for n in nodes[1:]):
            raise FoldError(f"steps differ at {nodes[0].name!r}")
        initial = self._constant(nodes[0])
        found = self.crossed.get(nodes[1])
        if found is not None:
            example = next(e for e, (_, node) in zip(self.examples, self.states, strict=True) if node is found)
            if torch.equal(example, initial):
                return found
        state = self._state(name or "carried", initial)
        self.crossed.setdefault(nodes[1], state)
        for i, n in enumerate(nodes[1:], 1):
            self.known.setdefault((n, i), state)
        self.pending.append((state, list(nodes[1:])))
        return state

    def _packed(self, nodes: list[fx.Node], start: int) -> fx.Node:
        first = nodes[0]
        if any(n.op != "call_function" or n.target != first.target for n in nodes):
            raise FoldError(f"steps differ at {first.name!r}")
        if first.target is operator.getitem and first.args[0] in self.position:
            return self._neuron_output(nodes, start)
        at = self._index(first)
        if at is not None:
            return self._indexed(nodes, start, at)
        if any(len(n.args) != len(first.args) or n.kwargs.keys() != first.kwargs.keys() for n in nodes):
            raise FoldError(f"steps differ at {first.name!r}")
        args = [self._pack_argument([n.args[i] for n in nodes], start) for i in range(len(first.args))]
        kwargs = {k: self._pack_argument([n.kwargs[k] for n in nodes], start) for k in first.kwargs}
        made = self.graph.create_node("call_function", cast("Any", first.target), tuple(args), kwargs)
        if "val" in first.meta:
            made.meta["val"] = first.meta["val"]
        return made

    def _pack_argument(self, values: list[Any], start: int) -> Any:
        first = values[0]
        if isinstance(first, (list, tuple)):
            if any(not isinstance(v, (list, tuple)) or len(v) != len(first) for v in values):
                raise FoldError("steps differ in structure")
            return [self._pack_argument([v[i] for v in values], start) for i in range(len(first))]
        return self.pack(values, start)

    def _indexed(self, nodes: list[fx.Node], start: int, at: tuple[fx.Node, int, int]) -> fx.Node:
        for i, node in enumerate(nodes):
            if self._index(node) != (*at[:2], start + i):
                raise FoldError("the steps of the input are not used in their order")
        value = self.value(at[0])
        if isinstance(value, Series):
            if value.axis != at[1] or value.merged:
                raise FoldError("the loop runs over another axis than that of time")
            return value.as_step(self.graph)
        return self.graph.call_function(aten.select.int, (value, at[1], 0))

    def _neuron_output(self, nodes: list[fx.Node], start: int) -> fx.Node:
        layer, _, call = self.position[cast("fx.Node", nodes[0].args[0])]
        index = cast("int", nodes[0].args[1])
        for i, node in enumerate(nodes):
            if self.position.get(cast("fx.Node", node.args[0])) != (layer, start + i, call) or node.args[1] != index:
                raise FoldError(f"the calls of {layer!r} are not used in their order")
        return self._layer(layer, call)[index]

    def _layer(self, layer: str, call: int) -> list[fx.Node]:
        """Emit a neuron layer's call, one of those that a step makes."""
        if (layer, call) not in self.layers:
            calls = self.calls[layer][call :: self.per_step[layer]]
            if len(calls) not in (self.steps, self.steps - 1) or len(calls) < 2:
                raise FoldError(f"neuron {layer!r} is not called in every step")
            spec = NeuronSpec.from_operator(str(calls[0].args[-2]))
            label = layer if self.per_step[layer] == 1 else f"{layer}@{call}"
            current = self.pack([c.args[0] for c in calls], 0)
            states = [
                self.pack([cast("Any", c.args[1])[i] for c in calls], 0, f"{label}.{name}")
                for i, name in enumerate(spec.states)
            ]
            made = self.graph.call_function(STEP, (current, states, *fx.map_arg(calls[0].args[2:], self.value)))
            self.layers[layer, call] = [
                self.graph.call_function(operator.getitem, (made, i)) for i in range(len(spec.outputs))
            ]
        return self.layers[layer, call]
