"""Turns a graph that was recorded on the schedule "counts" into one over integer counts.

Recorded rates are floats. Here a neuron gives its counts as bytes, changes of shape move bytes, and a packed linear
layer multiplies them with its codes. Where that layer feeds a neuron alone, the two fold
(:mod:`~snn_extreme_quant.deploy.count_fold`). Whatever else reads rates gets them from the counts.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx

from snn_extreme_quant.quantizers.packing import unpack

from .count_fold import Fed, fold
from .exactness import Exactness
from .grid import BYTE, MANTISSA
from .synchronous_operators import COUNTS, RATES
from .translations import fits_pairs

__all__ = ["to_counts"]

aten = torch.ops.aten
_OURS = torch.ops.snn_xq
_LINEAR = _OURS.packed_linear.default
#: Of one tensor, moving its values only.
_MOVES = {
    aten.flatten.using_ints, aten.unflatten.int, aten.view.default, aten.reshape.default, aten.permute.default,
    aten.transpose.int, aten.movedim.int, aten.squeeze.dim, aten.squeeze.default, aten.squeeze.dims,
    aten.unsqueeze.default, aten.select.int, aten.slice.Tensor, aten.contiguous.default, aten.clone.default,
    aten.alias.default, aten.detach.default, aten.narrow.default, aten.swapaxes.default, aten.t.default,
    aten.numpy_T.default, aten.mT.default, aten._unsafe_view.default, aten.dropout.default, _OURS.transpose.default,
}  # fmt: skip


def to_counts(module: fx.GraphModule, exactness: Exactness, input_steps: int | None) -> fx.GraphModule:
    """Return the graph over counts.

    Args:
        module: recorded on the schedule "counts"; it is changed.
        exactness: what was found of it.
        input_steps: T, if the input is promised to be the rates of T steps of spikes.
    """
    return _CountGraph(module, exactness, input_steps).run()


class _Source:
    """Where counts come from: their node, T, and what is added to them."""

    def __init__(self, node: fx.Node, steps: int, zero_point: int) -> None:
        self.node, self.steps, self.zero_point = node, steps, zero_point

    @property
    def top(self) -> int:
        """The largest byte."""
        return self.steps + self.zero_point

    def at(self, node: fx.Node) -> _Source:
        return _Source(node, self.steps, self.zero_point)


class _CountGraph:
    def __init__(self, module: fx.GraphModule, exactness: Exactness, input_steps: int | None) -> None:
        self.module, self.graph, self.exactness = module, module.graph, exactness
        self.input_steps = input_steps
        self.sources: dict[fx.Node, _Source | None] = {}
        self.sums: dict[fx.Node, tuple[fx.Node, _Source]] = {}

    def run(self) -> fx.GraphModule:
        for node in list(self.graph.nodes):
            if node.target is _LINEAR:
                self._linear(node)
            elif node.target is RATES:
                self._fold(node)
        for node in list(self.graph.nodes):
            source = self.sources.get(node)
            if node.target is RATES and source is not None:
                self._read_rates(node, source)
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module.recompile()
        return self.module

    def _constant(self, node: Any) -> Tensor:
        value: Any = self.module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return cast("Tensor", value).detach()

    def _new_constant(self, value: Any) -> fx.Node:
        name = f"sxq_constant_{len(dict(self.module.named_buffers()))}"
        self.module.register_buffer(name, torch.as_tensor(value))
        return self.graph.get_attr(name)

    def _after(self, node: fx.Node, target: Any, *args: Any) -> fx.Node:
        with self.graph.inserting_after(node):
            return self.graph.call_function(target, args)

    def _cast(self, node: fx.Node, dtype: torch.dtype) -> fx.Node:
        with self.graph.inserting_after(node):
            return self.graph.call_function(aten._to_copy.default, (node,), {"dtype": dtype})

    def _counts(self, node: Any) -> _Source | None:
        """Return the counts that a node's rates are of."""
        if not isinstance(node, fx.Node):
            return None
        if node not in self.sources:
            self.sources[node] = self._make_counts(node)
        return self.sources[node]

    def _make_counts(self, node: fx.Node) -> _Source | None:
        if node.op == "placeholder" and self.input_steps is not None:
            scaled = self._after(node, aten.mul.Tensor, node, float(self.input_steps))
            return _Source(self._cast(scaled, torch.uint8), self.input_steps, 0)
        if node.target is RATES:
            current, threshold, steps, signed, layer = node.args
            source = _Source(node, cast("int", steps), cast("int", steps) if signed else 0)
            if source.top > BYTE:
                return None
            return source.at(self._after(node, COUNTS[0], current, threshold, steps, signed, layer))
        if node.target in _MOVES:
            before = self._counts(node.args[0])
            return None if before is None else before.at(self._after(node, node.target, before.node, *node.args[1:]))
        return None

    def _linear(self, node: fx.Node) -> None:
        """Let a packed linear layer read counts."""
        x, packed, scale, outputs, layout, layer = cast("tuple[Any, ...]", node.args)
        verdict = self.exactness.layers[layer]
        source = self._counts(x) if verdict.grid is not None else None
        if source is None or not fits_pairs(source.top, layout) or verdict.reach * source.top >= 2**MANTISSA:
            return
        values = self._constant(scale)
        smaller = values * (1.0 / source.steps)
        if not torch.equal(smaller * source.steps, values):
            return  # too small to be divided exactly
        with self.graph.inserting_before(node):
            constant = self._new_constant(smaller)
            new = self.graph.call_function(
                _OURS.linear_counts.default, (source.node, packed, constant, source.zero_point, layout, layer)
            )
        node.replace_all_uses_with(new)
        self.sums[new] = (packed, source)

    def _fold(self, neuron: fx.Node) -> None:
        """Fold a neuron that is fed by one packed linear layer on counts alone."""
        found = self._layer_before(neuron)
        if found is None:
            return
        layer, bias = found
        packed, source = self.sums[layer]
        _, _, scale, zero_point, layout, name = cast("tuple[Any, ...]", layer.args)
        _, threshold, steps, signed, neuron_name = cast("tuple[Any, ...]", neuron.args)
        values, limit = self._constant(scale).numpy(), self._constant(threshold)
        target = _Source(neuron, steps, steps if signed else 0)
        if limit.numel() != 1 or target.top > BYTE:
            return
        codes = unpack(self._constant(packed).numpy(), len(values), layout).astype(np.int64)
        positive, negative = np.maximum(codes, 0).sum(0), np.minimum(codes, 0).sum(0)
        most, least = source.steps, -source.steps if source.zero_point else 0
        low, high = most * negative + least * positive, most * positive + least * negative
        shift = None if bias is None else self._constant(bias).numpy()
        # The scale is that of sums over the counts of this layer's input, whose T may be another.
        constants = fold(Fed(values, shift, np.float32(limit.item()), steps, signed, low, high))
        if constants is None:
            return
        with self.graph.inserting_before(neuron):
            sums = self.graph.call_function(
                _OURS.linear_sums.default, (source.node, packed, zero_point, len(values), layout, name)
            )
            gain, offset = (self._new_constant(value) for value in constants)
            counts = self.graph.call_function(COUNTS[1], (sums, gain, offset, target.top, neuron_name))
        self.sources[neuron] = target.at(counts)

    def _layer_before(self, neuron: fx.Node) -> tuple[fx.Node, fx.Node | None] | None:
        """Return the layer on counts that feeds a neuron alone, and its bias."""
        current = cast("fx.Node", neuron.args[0])
        if current in self.sums:
            return (current, None) if len(current.users) == 1 else None
        if current.target is not aten.add.Tensor or current.kwargs or len(current.users) != 1:
            return None
        layer, bias = current.args[:2]
        if layer not in self.sums or len(cast("fx.Node", layer).users) != 1:
            return None
        if not isinstance(bias, fx.Node) or bias.op != "get_attr" or self._constant(bias).dim() != 1:
            return None
        return cast("fx.Node", layer), bias

    def _read_rates(self, node: fx.Node, source: _Source) -> None:
        """Give rates, computed from the counts, to what reads them."""
        if not node.users:
            return
        floats = self._cast(source.node, torch.float32)
        if source.zero_point:
            floats = self._after(floats, aten.sub.Tensor, floats, float(source.zero_point))
        node.replace_all_uses_with(self._after(floats, aten.mul.Tensor, floats, 1.0 / source.steps))
