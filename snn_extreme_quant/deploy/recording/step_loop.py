"""One step of a loop over time steps that was recorded unrolled, with T copies of everything.

The copies of a value are held against each other, and one is kept. A value of which a step takes the copy of the step
before is a state: a neuron's, or one that the model carries itself.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.recording.fold_reasons import CONSTANTS, FoldError, difference
from snn_extreme_quant.deploy.recording.graphs import SEQUENCE, STEP, dims, neuron_calls, without_repetition
from snn_extreme_quant.deploy.streaming.graph import StepGraph
from snn_extreme_quant.deploy.streaming.record import StepRecorder
from snn_extreme_quant.deploy.streaming.values import Series, keep_shape
from snn_extreme_quant.neurons import NeuronSpec

__all__ = ["record_step", "step_counts"]

aten = torch.ops.aten
_JOINS = (aten.stack.default, aten.cat.default)


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
        users = {u.args[2] for u in source.users if u.target is aten.select.int and u.args[1] == axis}
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
    return _LoopRecorder(module, inputs, steps, time_axis, mean_over_time).run(names)


class _LoopRecorder(StepRecorder):
    """Adds what is done with the copies of a loop."""

    def __init__(
        self, module: fx.GraphModule, inputs: Tensor, steps: int, time_axis: int | None, mean_over_time: bool
    ) -> None:
        super().__init__(module, inputs, steps, time_axis, mean_over_time)
        self.pending: list[tuple[fx.Node, list[Any]]] = []
        self.known: dict[tuple[fx.Node, int], fx.Node] = {}
        self.crossed: dict[tuple[fx.Node, ...], fx.Node] = {}
        self.layers: dict[tuple[str, int], list[fx.Node]] = {}
        self.calls = neuron_calls(module.graph)
        self.per_step = {name: -(-len(nodes) // steps) for name, nodes in self.calls.items()}
        self.position = {
            node: (name, index // self.per_step[name], index % self.per_step[name])
            for name, nodes in self.calls.items()
            for index, node in enumerate(nodes)
        }
        self.of_calls: set[fx.Node] = set()  # neurons, and what is computed from what they give
        for node in module.graph.nodes:
            if node.target is STEP or any(a in self.of_calls for a in node.all_input_nodes):
                self.of_calls.add(node)
        self.varying = self._varying()

    def of_loop(self, node: fx.Node) -> Any:
        """Return what a value computed from the steps of a loop is in one step; None if it is none."""
        if node not in self.varying:
            return None
        forms = (form(node) for form in (self._joined, self._total, self._final))
        return next((found for found in forms if found is not None), None)

    def finish(self) -> None:
        """Make what states are after the step: the copies that the next step takes."""
        while self.pending:
            state, following = self.pending.pop()
            self.after[state] = self.pack(following, 0)

    # What is known of the record ----------------------------------------------------------------------------------

    def _index(self, node: fx.Node) -> tuple[fx.Node, int, int] | None:
        """Return source, axis and index of ``x[t]``, if it picks one of the steps of a value."""
        if node.target is aten.select.int:
            source, axis, index = cast("tuple[fx.Node, Any, Any]", node.args[:3])
        elif node.target is operator.getitem and getattr(node.args[0], "target", None) is aten.unbind.int:
            split = cast("fx.Node", node.args[0])
            source, axis, index = cast("tuple[fx.Node, Any, Any]", (split.args[0], (*split.args, 0)[1], node.args[1]))
        else:
            return None
        if not self.calls or type(axis) is not int or type(index) is not int:
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
        # The first step's may be a constant: where a model gives what a neuron was before the step.
        if any(i not in self.varying for i in items[1:] or items):
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
            return None if total is None else self.graph.call_function(aten.div.Tensor, (total, self.steps_so_far()))
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
        return self.so_far(step, self.constant(rest) if isinstance(rest, fx.Node) else rest or 0.0)

    def _final(self, node: fx.Node) -> fx.Node | None:
        """A value of the last step; of one that each step makes of its own last, the copies of all steps say more."""
        chain = [node]
        while len(chain) < self.steps:
            before = next((n for n in chain[0].all_input_nodes if n.target is node.target and n in self.varying), None)
            if before is None:
                break
            chain.insert(0, before)
        for nodes, start in (([node], self.steps - 1), (chain, 0)):
            if len(nodes) + start != self.steps:
                continue
            try:
                found = self.pack(nodes, start)
            except FoldError:
                continue
            if isinstance(found, fx.Node):
                return found
        return None

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
                raise FoldError(difference(first))
            value = self.value(first)
            if isinstance(value, Series):
                raise FoldError(f"a step reads all of {first.name!r}")
            return value
        known = self.known.get((first, start))
        if known is not None:
            if any(self.known.get((n, start + i), known) is not known for i, n in enumerate(nodes)):
                raise FoldError(difference(first))
            return known
        # A constant of the shape of a step's value is one all the same, where later steps have another thing there.
        if first not in self.varying or (first.target in CONSTANTS and nodes[-1].target is not first.target):
            return self._carried_or_deeper(nodes, start, name)
        made = self._packed(nodes, start)
        keep_shape(made, first.meta.get("val"))
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
        behind = next((i for i, n in enumerate(nodes) if n is not nodes[0]), len(nodes))
        if start or any(n not in self.varying for n in nodes[behind:]):
            raise FoldError(difference(nodes[0]))
        initial = self.constant(nodes[0])
        following = tuple(nodes[1:])  # begins with the constant, too, where a step reads what was two steps before
        found = self.crossed.get(following)
        if found is not None:
            example = next(e for e, (_, node) in zip(self.examples, self.states, strict=True) if node is found)
            if torch.equal(example, initial):
                return found
        state = self.state(name or "carried", initial)
        self.crossed.setdefault(following, state)
        for i, n in enumerate(nodes[behind:], behind):
            self.known.setdefault((n, i), state)
        self.pending.append((state, list(nodes[1:])))
        return state

    def _packed(self, nodes: list[fx.Node], start: int) -> fx.Node:
        first = nodes[0]
        if any(n.op != "call_function" or n.target != first.target for n in nodes):
            if not start and first not in self.of_calls and any(n in self.of_calls for n in nodes):
                raise FoldError("the first step reads a part of the input where later ones read what neurons gave")
            raise FoldError(difference(first))
        if first.target is operator.getitem and first.args[0] in self.position:
            return self._neuron_output(nodes, start)
        at = self._index(first)
        if at is not None:
            return self._indexed(nodes, start, at)
        if any(len(n.args) != len(first.args) or n.kwargs.keys() != first.kwargs.keys() for n in nodes):
            raise FoldError(difference(first))
        args = [self._pack_argument([n.args[i] for n in nodes], start) for i in range(len(first.args))]
        kwargs = {k: self._pack_argument([n.kwargs[k] for n in nodes], start) for k in first.kwargs}
        made = self.graph.create_node("call_function", cast("Any", first.target), tuple(args), kwargs)
        keep_shape(made, first.meta.get("val"))
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
