"""The graph of all time steps as it grows: its values, and its lengths T and B.

Values that change over time are held *folded*, ``(T * B, ...)``, and unfolded to ``(T, B, ...)`` for neurons and
outputs.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import fx

from snn_extreme_quant.deploy.recording.fold_reasons import FoldError
from snn_extreme_quant.deploy.recording.graphs import dims

__all__ = ["Folded", "FoldedGraph", "Static"]

aten = torch.ops.aten
_TRANSPOSE = torch.ops.snn_xq.transpose.default


class Static:
    """A value that is the same in every step, as a node of the new graph or a constant."""

    def __init__(self, value: Any, source: Any) -> None:
        self.value = value
        self.source = source


class Folded:
    """A value of all steps, as one node ``(T * B, ...)`` of the new graph, and unfolded where it came from that."""

    def __init__(self, node: fx.Node, unfolded: fx.Node | None = None) -> None:
        self.node = node
        self.unfolded = unfolded


class FoldedGraph:
    """A graph that handles all steps at once.

    Args:
        module: the recorded loop.
        calls: by layer the calls of its neurons, one a step.
        steps: how many steps were recorded.
    """

    def __init__(self, module: fx.GraphModule, calls: dict[str, list[fx.Node]], steps: int) -> None:
        self.module = module
        self.calls = calls
        self.steps = steps
        self.position = {node: (layer, t) for layer, nodes in calls.items() for t, node in enumerate(nodes)}
        self.graph = fx.Graph()
        self.whole: dict[fx.Node, Any] = {}
        self.length: Any = None
        self.time_axis: int | None = None
        self.times: Any = None
        first = next(iter(calls.values()))[0]
        self.batch = dims(cast("fx.Node", first.args[0]))[0]
        self.depends = self._behind(node for node in module.graph.nodes if node.op == "placeholder")
        self.of_neurons = self._behind(self.position)

    def _behind(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        """Return nodes and all that is computed from them."""
        found = set(nodes)
        for node in self.module.graph.nodes:
            if any(a in found for a in node.all_input_nodes):
                found.add(node)
        return found

    def run(self) -> fx.Graph:
        """Return the graph."""
        for node in self.module.graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                self.whole[node] = self.graph.node_copy(node)
        self._find_length()
        output = self.module.graph.output_node()
        self.graph.output(fx.map_arg(output.args[0], self.emit))
        return self.graph

    def emit(self, node: Any) -> Any:
        """Return the new graph's value for a node that stands outside the loop, or for one particular step."""
        raise NotImplementedError

    # The number of steps and of samples --------------------------------------------------------------------------

    def _find_length(self) -> None:
        """Take T from the value that is indexed by time, if there is one; else it is a constant of the model."""
        for node in self.module.graph.nodes:
            if node in self.of_neurons or node not in self.depends:
                continue
            selected: dict[int, set[int]] = {}
            for user in node.users:
                if user.target is aten.select.int:
                    axis = cast("int", user.args[1]) % len(dims(node))
                    selected.setdefault(axis, set()).add(cast("int", user.args[2]) % self.steps)
                elif user.target is aten.unbind.int:
                    axis = cast("int", (*user.args, 0)[1]) % len(dims(node))
                    selected[axis] = set(range(self.steps))
            for axis, indices in selected.items():
                if len(indices) == self.steps and dims(node)[axis] == self.steps:
                    self.length = self.graph.call_function(aten.sym_size.int, (self.emit(node), axis))
                    self.time_axis = axis if node.op == "placeholder" else None
                    return
        self.length = self.steps

    @property
    def dynamic(self) -> bool:
        """Whether the graph takes any number of steps."""
        return isinstance(self.length, fx.Node)

    def times_batch(self) -> Any:
        """Return T * B."""
        if self.times is None:
            self.times = self.graph.call_function(operator.mul, (self.length, self.batch_value()))
        return self.times

    def batch_value(self) -> Any:
        """Return B."""
        if isinstance(self.batch, int):
            return self.batch
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                for axis, size in enumerate(dims(node)):
                    if str(size) == str(self.batch):
                        return self.graph.call_function(aten.sym_size.int, (self.whole[node], axis))
        raise FoldError("the batch size is not the size of an input")

    # Folding and unfolding ---------------------------------------------------------------------------------------

    def call(self, target: Any, *args: Any) -> fx.Node:
        """Add an operation."""
        return self.graph.call_function(target, args)

    def unfold(self, value: Static | Folded) -> fx.Node:
        """Return ``(T, B, ...)``."""
        if isinstance(value, Static):
            return self.repeat(value)
        if value.unfolded is not None:
            return value.unfolded
        return self.call(aten.unflatten.int, value.node, 0, [self.length, self.batch_value()])

    def fold(self, node: fx.Node) -> Folded:
        """Return what is ``(T, B, ...)`` as ``(T * B, ...)``."""
        return Folded(self.call(aten.flatten.using_ints, node, 0, 1), node)

    def repeat(self, value: Static) -> fx.Node:
        """Return a value that does not change, repeated along a new leading time axis."""
        if not isinstance(value.value, fx.Node):
            raise FoldError("a constant stands where a sequence is needed")
        rank = len(dims(value.source))
        return self.call(
            aten.expand.default, self.call(aten.unsqueeze.default, value.value, 0), [self.length, *(-1,) * rank]
        )

    def moved(self, node: fx.Node, axis: int, rank: int) -> fx.Node:
        """Move the leading axis to ``axis``."""
        order = list(range(1, rank))
        order.insert(axis % rank, 0)
        return node if axis % rank == 0 else self.call(_TRANSPOSE, node, order)

    def size(self, node: fx.Node) -> Any:
        """Return a size computed from the batch, computed from T * B instead."""
        value = node.meta.get("val")
        if not isinstance(value, torch.SymInt) or str(self.batch) not in {str(s) for s in value.node.expr.free_symbols}:
            return self.emit(node)
        if str(value) == str(self.batch):
            return self.times_batch()
        return self.graph.node_copy(node, self.size)
