"""Values of a recorded model in the graph of one of its steps, and where their time axes are.

A value of all steps, ``(T, ...)``, is in one step the entry of that step. Operations that the model does on all steps
at once are done on a sequence of one step; what has to be followed is which axis is that of time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.recording.fold_reasons import FoldError

__all__ = ["LOOKUPS", "RESHAPES", "Series", "Shapes", "keep_shape", "moved_axis", "one_step", "reduced_axes"]

aten = torch.ops.aten
_TRANSPOSE = torch.ops.snn_xq.transpose.default
LOOKUPS = (aten.embedding.default, torch.ops.snn_xq.packed_embedding.default)
RESHAPES = (
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
)


@dataclass
class Series:
    """A value of all steps, as it is in one step.

    Args:
        axis: its time axis.
        merged: that axis holds other things too, ``T * B``, the steps outermost.
        step: the node of the entry of this step.
        whole: the node of a sequence of one step; for a merged axis that is the same.
    """

    axis: int
    merged: bool = False
    step: fx.Node | None = None
    whole: fx.Node | None = None

    def as_step(self, graph: fx.Graph) -> fx.Node:
        """Return the entry of this step."""
        if self.step is None:
            whole = cast("fx.Node", self.whole)
            self.step = whole if self.merged else graph.call_function(aten.select.int, (whole, self.axis, 0))
            keep_shape(self.step, whole.meta.get("val"), self.axis)
        return self.step

    def as_whole(self, graph: fx.Graph) -> fx.Node:
        """Return the sequence of one step."""
        if self.whole is None:
            step = cast("fx.Node", self.step)
            self.whole = step if self.merged else graph.call_function(aten.unsqueeze.default, (step, self.axis))
            if "val" in step.meta and not self.merged:
                self.whole.meta["val"] = step.meta["val"].unsqueeze(self.axis)
        return self.whole


def keep_shape(node: fx.Node, recorded: Any, axis: int | None = None) -> None:
    """Let a node have the recorded shape, without the time axis if that is given; what it has already stays."""
    if isinstance(recorded, Tensor) and "val" not in node.meta:
        node.meta["val"] = recorded if axis is None else recorded.select(axis, 0)


class Shapes(fx.Interpreter):
    """Runs a recorded graph and keeps the shape of each value; of several, that of the first."""

    def __init__(self, module: fx.GraphModule, inputs: Tensor) -> None:
        super().__init__(module)
        self.of: dict[fx.Node, tuple[int, ...]] = {}
        with torch.no_grad():
            self.run(inputs)

    def run_node(self, n: fx.Node) -> Any:
        """Keep the result's shape."""
        result = super().run_node(n)
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        self.of[n] = tuple(first.shape) if isinstance(first, Tensor) else ()
        return result


def _split(shape: Sequence[int], before: int, steps: int) -> tuple[int, bool] | None:
    """Return the axis of a shape whose outermost part is time, with ``before`` elements of axes in front of it."""
    product = 1
    for axis, size in enumerate(shape):
        if product == before and size % steps == 0 and size > 1:
            return axis, size != steps
        product *= size
    return None


def moved_axis(
    node: fx.Node, before: Sequence[int], axis: int, after: Sequence[int], steps: int
) -> tuple[int, bool] | None:
    """Return where an operation's result has its time axis, and whether it is merged with others.

    Args:
        node: the recorded operation.
        before: shape of the value of all steps that it works on.
        axis: that value's time axis.
        after: shape of the result.
        steps: how many steps there are.
    """
    if node.target in RESHAPES:
        return _split(after, math.prod(before[:axis]), steps)
    if node.target is _TRANSPOSE or node.target is aten.permute.default:
        order = [a % len(before) for a in cast("Sequence[int]", node.args[1])]
        return order.index(axis), before[axis] != steps
    if node.target in (aten.transpose.int, aten.swapaxes.default):
        a, b = (cast("int", n) % len(before) for n in node.args[1:3])
        return {a: b, b: a}.get(axis, axis), before[axis] != steps
    if node.target is aten.unsqueeze.default:
        axis += cast("int", node.args[1]) % len(after) <= axis
    elif node.target in (aten.sum.dim_IntList, aten.mean.dim, aten.amax.default) and len(after) < len(before):
        axis -= sum(a < axis for a in reduced_axes(node, len(before)))
    elif len(after) < len(before) and node.target in (aten.select.int, aten.squeeze.dim):
        axis -= cast("int", node.args[1]) % len(before) < axis
    elif len(after) > len(before) and node.target not in LOOKUPS:
        axis += len(after) - len(before)  # broadcast
    found = axis < len(after) and after[axis] % steps == 0 and after[axis] > 0
    return (axis, after[axis] != steps) if found else None


def reduced_axes(node: fx.Node, rank: int) -> list[int]:
    """Return the axes over which a reduction goes."""
    axes = node.args[1] if len(node.args) > 1 else None
    if axes is None or axes == []:
        return list(range(rank))
    return [a % rank for a in (cast("Sequence[int]", axes) if isinstance(axes, (list, tuple)) else [cast("int", axes)])]


def one_step(node: fx.Node, args: Sequence[Any], axis: int, shape: Sequence[int], steps: int) -> list[Any]:
    """Return an operation's arguments with the sizes that it has in one step.

    A recorded ``view(4, B, ...)`` holds the number of steps, where the model fixes it.
    """
    position = {aten.unflatten.int: 2}.get(cast("Any", node.target), 1)
    resizes = {*RESHAPES, aten.expand.default} - {aten.flatten.using_ints}
    if node.target not in resizes or len(args) <= position:
        return list(args)
    sizes = list(cast("Sequence[Any]", args[position]))
    at = axis - cast("int", args[1]) % len(shape) if node.target is aten.unflatten.int else axis
    if not 0 <= at < len(sizes):
        raise FoldError(f"the sizes of {node.name!r} do not follow from its input's")
    if isinstance(sizes[at], int) and sizes[at] > 0:
        sizes[at] = shape[axis] // steps
    elif node.target is not aten.expand.default and -1 not in sizes:
        sizes[at] = -1
    return [*args[:position], sizes, *args[position + 1 :]]
