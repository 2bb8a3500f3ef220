"""Averages as a sum and a division.

An average of numbers on a grid is exact up to its one division, if it is computed that way. Runtimes are free to
multiply by the reciprocal or to average differently; torch sums and divides. So averages are written out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx

from snn_extreme_quant.deploy.recording.graphs import dims

__all__ = ["each_axis", "write_out_averages"]

aten = torch.ops.aten
_SUM_POOL = torch.ops.snn_xq.sum_pool.default
_POOLS = {aten.avg_pool1d.default: 1, aten.avg_pool2d.default: 2, aten.avg_pool3d.default: 3}
_ADAPTIVE = {
    aten.adaptive_avg_pool1d.default: 1,
    aten.adaptive_avg_pool2d.default: 2,
    aten.adaptive_avg_pool3d.default: 3,
}


def write_out_averages(module: fx.GraphModule) -> fx.GraphModule:
    """Replace average pooling and means over fixed axes by sums and divisions, where torch computes them so.

    What has another form (``ceil_mode``, padding that is not counted, windows of different sizes) is left as it is.
    """
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        with module.graph.inserting_before(node):
            new = _written_out(module.graph, node)
        if new is not None:
            if "val" in node.meta:
                new.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(new)
            module.graph.erase_node(node)
    module.recompile()
    return module


def _written_out(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    if node.target in _POOLS:
        return _pool(graph, node, _POOLS[cast("Any", node.target)])
    if node.target in _ADAPTIVE:
        return _adaptive(graph, node, _ADAPTIVE[cast("Any", node.target)])
    if node.target is aten.mean.dim and not node.kwargs:
        return _mean(graph, node)
    return None


def each_axis(value: Any, axes: int) -> list[int]:
    """Return what an option of a pooling is for each axis: one number may stand for all."""
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    return items * axes if len(items) == 1 else items


def _pool(graph: fx.Graph, node: fx.Node, axes: int) -> fx.Node | None:
    x, kernel, *rest = node.args
    defaults: list[Any] = [[], 0, False, True, None]
    names = ("stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    stride, padding, ceil, counted, divisor = (
        node.kwargs.get(name, rest[i] if i < len(rest) else defaults[i]) for i, name in enumerate(names)
    )
    window, pads = each_axis(kernel, axes), each_axis(padding, axes)
    steps = each_axis(stride, axes) if stride else window
    shape = dims(x)
    if ceil or (any(pads) and not counted) or len(shape) != axes + 2 or not isinstance(shape[1], int):
        return None
    total = graph.call_function(_SUM_POOL, (x, window, steps, pads, shape[1]))
    return graph.call_function(aten.div.Tensor, (total, divisor or math.prod(window)))


def _adaptive(graph: fx.Graph, node: fx.Node, axes: int) -> fx.Node | None:
    x, size = node.args[0], each_axis(node.args[1], axes)
    shape = dims(x)
    if len(shape) != axes + 2 or not all(isinstance(s, int) for s in shape[1:]):
        return None
    inner = cast("Sequence[int]", shape[2:])
    if any(i % o for i, o in zip(inner, size, strict=True)):
        return None
    if all(o == 1 for o in size):
        total = graph.call_function(aten.sum.dim_IntList, (x, list(range(2, axes + 2)), True))
        return graph.call_function(aten.div.Tensor, (total, math.prod(inner)))
    window = [i // o for i, o in zip(inner, size, strict=True)]
    total = graph.call_function(_SUM_POOL, (x, window, window, [0] * axes, shape[1]))
    for length in window:  # torch divides by one side after the other
        total = graph.call_function(aten.div.Tensor, (total, length))
    return total


def _mean(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    x, axes, *keep = node.args
    shape = dims(x)
    if not isinstance(axes, (list, tuple)) or not shape:
        return None
    lengths = [shape[cast("int", axis)] for axis in axes]
    if not all(isinstance(length, int) for length in lengths):
        return None
    total = graph.call_function(aten.sum.dim_IntList, (x, list(cast("Sequence[int]", axes)), bool(keep and keep[0])))
    return graph.call_function(aten.div.Tensor, (total, math.prod(lengths)))
