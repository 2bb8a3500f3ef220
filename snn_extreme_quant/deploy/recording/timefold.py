"""Turns a graph that was unrolled over time steps into one that handles all steps at once.

A recorded loop over T steps holds T copies of everything. Only neurons carry anything from step to step, so all
copies of any other operation can run as one on a batch of T * B, and a neuron's T calls become one call on its whole
input sequence. This module finds the copies and puts them together. The result takes any T and any B, if T is the
length of an input.

What does not fit (an operation that mixes samples, a step treated unlike the others) raises
:class:`FoldError`; the caller then keeps the unrolled graph, and it checks every folded one against the model.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx

from snn_extreme_quant.deploy.recording.fold_reasons import FoldError, difference
from snn_extreme_quant.deploy.recording.folded_graph import Folded, FoldedGraph, Static
from snn_extreme_quant.deploy.recording.graphs import SEQUENCE, STEP, ancestors, dims, neuron_calls, without_repetition
from snn_extreme_quant.neurons import NeuronSpec

__all__ = ["fold_time"]

aten = torch.ops.aten
_TRANSPOSE = torch.ops.snn_xq.transpose.default
_ADDS = (aten.add.Tensor,)


def fold_time(module: fx.GraphModule, *, mean_over_time: bool = True) -> fx.GraphModule:
    """Fold a recorded loop; a graph without single-step neurons is returned as it is.

    ``meta["time_axis"]`` of the result is the input's time axis, where the loop indexes the input itself;
    ``meta["steps"]`` is the recorded number of steps, where the loop runs over an axis of any value.

    Args:
        module: the recorded graph.
        mean_over_time: read a sum over all steps that is divided by their number as a mean over time; else the
            divisor is a constant of the model. The record cannot tell the two apart, running the model can.

    Raises:
        FoldError: the graph is not such a loop.
    """
    if not neuron_calls(module.graph):
        return module
    module = without_repetition(module)
    calls = neuron_calls(module.graph)
    lengths = {len(nodes) for nodes in calls.values()}
    if len(lengths) > 1:
        raise FoldError(f"neurons are called a different number of times: { {k: len(v) for k, v in calls.items()} }")
    folder = _Folder(module, calls, lengths.pop(), mean_over_time)
    folded = fx.GraphModule(module, folder.run())
    folded.meta["time_axis"] = folder.time_axis
    folded.meta["steps"] = folder.steps if folder.dynamic else None
    folded.graph.eliminate_dead_code()
    folded.graph.lint()
    folded.recompile()
    return folded


class _Folder(FoldedGraph):
    """Adds what is done with the values of the record.

    Args:
        module: as for :class:`FoldedGraph`.
        calls: likewise.
        steps: likewise.
        mean_over_time: as for :func:`fold_time`.
    """

    def __init__(
        self, module: fx.GraphModule, calls: dict[str, list[fx.Node]], steps: int, mean_over_time: bool
    ) -> None:
        super().__init__(module, calls, steps)
        self.mean_over_time = mean_over_time
        self.packs: dict[tuple[fx.Node, ...], Static | Folded] = {}
        self.layers: dict[str, list[fx.Node]] = {}
        self.under_way: set[str] = set()

    # Whole values --------------------------------------------------------------------------------------------------

    def emit(self, node: Any) -> Any:
        """Return the new graph's value for a node that stands outside the loop, or for one particular step."""
        if not isinstance(node, fx.Node):
            return node
        if node not in self.whole:
            self.whole[node] = self._emit(node)
        return self.whole[node]

    def _emit(self, node: fx.Node) -> Any:
        if node.target in (aten.stack.default, aten.cat.default):
            joined = self._joined(node)
            if joined is not None:
                return joined
        if node.target in _ADDS:
            total = self._total(node)
            if total is not None:
                return total
        if node.target is aten.div.Tensor and self.mean_over_time and node.args[1] == self.steps:
            summed = cast("fx.Node", node.args[0])
            total = self._total(summed) if summed.target in _ADDS else None
            if total is not None:
                return self.call(aten.div.Tensor, total, self.length)
            if self._sums_steps(summed):
                return self.call(aten.div.Tensor, self.emit(summed), self.length)
        if node.target is operator.getitem and node.args[0] in self.position:
            layer, step = self.position[cast("fx.Node", node.args[0])]
            index = cast("int", node.args[1])
            if self.dynamic and step not in (0, self.steps - 1):
                raise FoldError(f"step {step} of {layer!r} is used by itself")
            self._layer(layer)
            at = -1 if step == self.steps - 1 else step
            return self.call(aten.select.int, self.layers[layer][index], 0, at)
        if node.target is STEP:
            raise FoldError(f"neuron {node.args[-1]!r} is used in a way that is not understood")
        return self.graph.node_copy(node, self.emit)

    def _sums_steps(self, node: fx.Node) -> bool:
        """Whether a node is the sum over the time axis of what ``stack`` put together."""
        source = node.args[0] if node.target is aten.sum.dim_IntList else None
        if not isinstance(source, fx.Node) or source.target is not aten.stack.default:
            return False
        rank = len(dims(source))
        axis = cast("int", (*source.args, 0)[1]) % rank
        axes = {a % rank for a in cast("Sequence[int]", node.args[1])}
        return len(cast("Sequence[fx.Node]", source.args[0])) == self.steps and axes == {axis}

    def _joined(self, node: fx.Node) -> fx.Node | None:
        """``stack`` (or ``cat`` of unsqueezed values) over all steps."""
        items = cast("Sequence[fx.Node]", node.args[0])
        axis = cast("int", (*node.args, 0)[1])
        if len(items) != self.steps or (self.steps == 1 and not any(i in self.position for i in ancestors(items[0]))):
            return None
        if node.target is aten.cat.default:
            if any(i.target is not aten.unsqueeze.default or i.args[1] != axis for i in items):
                return None
            items = [cast("fx.Node", i.args[0]) for i in items]
        value = self.pack(items)
        if isinstance(value, Static):
            return None if not self.dynamic else self.moved(self.repeat(value), axis, len(dims(node)))
        return self.moved(self.unfold(value), axis, len(dims(node)))

    def _total(self, node: fx.Node) -> fx.Node | None:
        """A sum over all steps: ``((base + x_0) + x_1) + ...``, with or without a base."""
        terms: list[Any] = []
        rest: Any = node
        while isinstance(rest, fx.Node) and rest.target in _ADDS and not rest.kwargs and len(terms) < self.steps:
            left, right = rest.args
            # `0 + x` is recorded as add(x, 0).
            term, rest = (right, left) if isinstance(right, fx.Node) else (left, right)
            terms.insert(0, term)
        if len(terms) == self.steps - 1:
            terms, rest = [rest, *terms], None
        if len(terms) != self.steps or not all(isinstance(t, fx.Node) for t in terms):
            return None
        try:
            value = self.pack(terms)
        except FoldError:
            return None
        if isinstance(value, Static):
            return None
        total = self.call(aten.sum.dim_IntList, self.unfold(value), [0])
        if rest is None or (not isinstance(rest, fx.Node) and rest == 0):
            return total
        return self.call(aten.add.Tensor, self.emit(rest), total)

    # Packs: one value for each step -----------------------------------------------------------------------------

    def pack(self, nodes: Sequence[Any]) -> Static | Folded:
        """Put the T values of the T steps together."""
        first = nodes[0]
        if not isinstance(first, fx.Node):
            if any(type(n) is not type(first) or n != first for n in nodes):
                raise FoldError("a constant differs from step to step")
            return Static(first, first)
        if any(not isinstance(n, fx.Node) for n in nodes):
            raise FoldError("steps differ in structure")
        key = tuple(nodes)
        if key not in self.packs:
            self.packs[key] = packed = self._pack(key)
            if isinstance(packed, Folded) and "val" in first.meta:
                # Right but for the first axis, which no length is read of.
                packed.node.meta.setdefault("val", first.meta["val"])
        return self.packs[key]

    def _pack(self, nodes: tuple[fx.Node, ...]) -> Static | Folded:
        first = nodes[0]
        if self.steps > 1 and all(n is first for n in nodes):
            return Static(self.emit(first), first)
        delayed = self._delayed(nodes)
        if delayed is not None:
            return delayed
        if any(n.op != "call_function" or n.target != first.target for n in nodes):
            raise FoldError(difference(first))
        if first.target is operator.getitem and first.args[0] in self.position:
            return self._neuron_output(nodes)
        indexed = self._indexed(nodes)
        if indexed is not None:
            return indexed
        if any(len(n.args) != len(first.args) or set(n.kwargs) != set(first.kwargs) for n in nodes):
            raise FoldError(difference(first))
        args = [self._pack_argument([n.args[i] for n in nodes]) for i in range(len(first.args))]
        kwargs = {k: self._pack_argument([n.kwargs[k] for n in nodes]) for k in first.kwargs}
        if not any(_has_folded(a) for a in (*args, *kwargs.values())):
            return Static(self.emit(first), first)
        rank = next((len(dims(n)) for n in first.all_input_nodes if dims(n)), 0)
        value = self.graph.create_node(
            "call_function",
            first.target,
            tuple(self._argument(a, rank) for a in args),
            {k: self._argument(a, rank) for k, a in kwargs.items()},
        )
        return Folded(value)

    def _pack_argument(self, values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, (list, tuple)):
            if any(len(v) != len(first) for v in values):
                raise FoldError("steps differ in structure")
            return [self._pack_argument([v[i] for v in values]) for i in range(len(first))]
        return self.pack(values)

    def _argument(self, value: Any, rank: int) -> Any:
        """Return what a folded operation takes for a packed argument."""
        if isinstance(value, list):
            return [self._argument(v, rank) for v in value]
        if isinstance(value, Folded):
            return value.node
        source = value.source
        if not isinstance(source, fx.Node):
            return value.value
        if not dims(source):
            return self.size(source)
        if source in self.depends and not isinstance(source.meta.get("val"), (torch.SymInt, int)):
            if len(dims(source)) != rank or str(dims(source)[0]) != str(self.batch):
                raise FoldError(f"{source.name!r} does not change over time and has no batch axis")
            return self.fold(self.repeat(value)).node
        return value.value

    def _indexed(self, nodes: tuple[fx.Node, ...]) -> Folded | None:
        """``x[t]`` for all t: the folded form of x."""
        first = nodes[0]
        if first.target is aten.select.int:
            source, axis, indices = first.args[0], first.args[1], [n.args[2] for n in nodes]
            same = all(n.args[0] is source and n.args[1] == axis for n in nodes)
        elif first.target is operator.getitem and getattr(first.args[0], "target", None) is aten.unbind.int:
            split = cast("fx.Node", first.args[0])
            source, axis = split.args[0], (*split.args, 0)[1]
            indices, same = [n.args[1] for n in nodes], all(n.args[0] is split for n in nodes)
        else:
            return None
        source, axis = cast("fx.Node", source), cast("int", axis)
        axis %= len(dims(source))
        wanted = list(range(self.steps))
        if not same or [cast("int", i) % self.steps for i in indices] != wanted or dims(source)[axis] != self.steps:
            return None
        node = self.emit(source)
        others = [a for a in range(len(dims(source))) if a != axis]
        if axis:
            node = self.call(_TRANSPOSE, node, [axis, *others])
        return self.fold(node)

    def _neuron_output(self, nodes: tuple[fx.Node, ...]) -> Folded:
        layer, index = self.position[cast("fx.Node", nodes[0].args[0])][0], cast("int", nodes[0].args[1])
        for step, node in enumerate(nodes):
            if self.position.get(cast("fx.Node", node.args[0])) != (layer, step) or node.args[1] != index:
                raise FoldError(f"the calls of {layer!r} are not used in their order")
        self._layer(layer)
        return self.fold(self.layers[layer][index])

    def _delayed(self, nodes: tuple[fx.Node, ...]) -> Folded | None:
        """What a neuron gave in the step before: its sequence, one step later, behind what stands in the first step."""
        first, *others = nodes
        if first in self.of_neurons or not others:
            return None
        if others[0] is first and len(others) > 1:  # what a neuron gave two steps before, or more
            before = self._delayed((*others,)) if others[-1] in self.of_neurons else None
            return None if before is None else self._later(first, self.unfold(before), dims(others[-1]))
        given = [self.position.get(cast("fx.Node", n.args[0])) for n in others if n.target is operator.getitem]
        index = others[0].args[1] if len(given) == len(others) else None
        if index is None or given[0] is None or any(n.args[1] != index for n in others):
            return None
        layer = given[0][0]
        if given != [(layer, step) for step in range(len(others))] or layer in self.under_way:
            return None
        if not all(isinstance(size, int) for size in dims(others[0])[1:]):
            return None
        self._layer(layer)
        return self._later(first, self.layers[layer][cast("int", index)], dims(others[0]))

    def _later(self, first: fx.Node, steps: fx.Node, shape: Sequence[Any]) -> Folded:
        """A sequence one step later, behind what stands in the first step."""
        begin = self.call(aten.expand.default, self.emit(first), [1, self.batch_value(), *shape[1:]])
        before = self.call(aten.slice.Tensor, steps, 0, 0, -1)
        return self.fold(self.call(aten.cat.default, [begin, before], 0))

    def _layer(self, layer: str) -> None:
        """Emit a neuron layer's one call on its whole input sequence."""
        if layer in self.layers:
            return
        if layer in self.under_way:
            raise FoldError(f"what {layer!r} gives in a step comes back to it in a later one")
        self.under_way.add(layer)
        try:
            self._emit_layer(layer)
        finally:
            self.under_way.remove(layer)

    def _emit_layer(self, layer: str) -> None:
        calls = self.calls[layer]
        first = calls[0]
        spec = NeuronSpec.from_operator(cast("str", first.args[-2]))
        for before, after in itertools.pairwise(calls):
            for name, state in zip(spec.states, cast("Sequence[fx.Node]", after.args[1]), strict=True):
                if state.target is not operator.getitem or state.args != (before, spec.outputs.index(name)):
                    raise FoldError(f"the state {name!r} of {layer!r} is changed between steps")
        current = self.unfold(self.pack([c.args[0] for c in calls]))
        node = self.graph.call_function(SEQUENCE, (current, *fx.map_arg(first.args[1:], self.emit)))
        self.layers[layer] = [self.call(operator.getitem, node, index) for index in range(len(spec.outputs))]


def _has_folded(value: Any) -> bool:
    return any(_has_folded(v) for v in value) if isinstance(value, list) else isinstance(value, Folded)
