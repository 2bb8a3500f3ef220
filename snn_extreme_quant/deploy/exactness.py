"""Which sums are exact: a small abstract interpretation of the recorded graph.

A value is on a *grid* when each element is an integer multiple of a power of two, ``2**-fraction``, with a known
largest magnitude. Spikes are on the grid 1. Sums of grid values with integer codes stay on the grid, and are exact in
float32 in any order while they need no more than 24 bits. Where an operation is not known to keep to the grid, the
value is taken to be real.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from . import operators  # noqa: F401 - registers the operators

__all__ = ["Grid", "LayerExactness", "analyse"]

aten = torch.ops.aten
_MANTISSA = 24


@dataclass(frozen=True)
class Grid:
    """Multiples of ``2**-fraction`` in ``[-low, high]``."""

    fraction: int
    low: float
    high: float

    @property
    def bound(self) -> float:
        """Largest magnitude."""
        return max(self.low, self.high)


@dataclass(frozen=True)
class LayerExactness:
    """Whether a quantised layer's sums are exact, and on which grid its input is."""

    exact: bool
    reason: str
    grid: Grid | None

    @property
    def unsigned_byte(self) -> bool:
        """Whether the input is an unsigned 8-bit integer on its grid."""
        return self.exact and self.grid is not None and self.grid.low == 0 and self.grid.high * 2.0**self.grid.fraction <= 255  # noqa: PLR2004


_KEEP = {
    aten.flatten.using_ints, aten.unflatten.int, aten.view.default, aten.reshape.default, aten.permute.default,
    aten.transpose.int, aten.movedim.int, aten.squeeze.dim, aten.squeeze.default, aten.squeeze.dims,
    aten.unsqueeze.default, aten.expand.default, aten.repeat.default, aten.select.int, aten.slice.Tensor,
    aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default, aten.max_pool1d.default,
    aten.max_pool2d.default, aten.max_pool2d_with_indices.default, aten.adaptive_max_pool2d.default,
    aten.unbind.int, aten.split.Tensor, aten.chunk.default, aten._unsafe_view.default, aten.dropout.default,
    aten.lift_fresh_copy.default, aten._to_copy.default, aten.to.dtype, operator.getitem,
}  # fmt: skip
_JOIN = {aten.cat.default, aten.stack.default}


def analyse(module: fx.GraphModule, sample_grid: Grid | None = None) -> dict[str, LayerExactness]:
    """Return, by layer name, whether each packed layer's sums are exact.

    Args:
        module: a recorded graph, folded or not.
        sample_grid: the grid the model's input is promised to be on, if any.
    """
    grids: dict[fx.Node, Grid | None] = {}
    found: dict[str, LayerExactness] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            grids[node] = sample_grid
        elif node.op == "call_function":
            grids[node] = _transfer(node, grids)
            if node.target in (torch.ops.snn_xq.packed_linear.default, torch.ops.snn_xq.packed_conv.default):
                verdict = _judge(grids.get(node.args[0]), _fan_in(module, node))
                before = found.setdefault(str(node.args[-1]), verdict)
                if not verdict.exact and before.exact:
                    found[str(node.args[-1])] = verdict
    return found


def _fan_in(module: fx.GraphModule, node: fx.Node) -> int:
    """How many products a sum has: the rows of the packed codes."""
    packed: Any = module
    for part in str(node.args[1].target).split("."):  # type: ignore[union-attr]
        packed = getattr(packed, part)
    return int(packed.shape[0])


def _judge(grid: Grid | None, fan_in: int) -> LayerExactness:
    if grid is None:
        return LayerExactness(False, "its input is real-valued", None)
    if fan_in * grid.bound * 2.0**grid.fraction >= 2**_MANTISSA:
        return LayerExactness(False, f"sums may need more than {_MANTISSA} bits ({fan_in} inputs)", grid)
    unit = "spikes" if grid == Grid(0, 0.0, 1.0) else f"multiples of 2^-{grid.fraction} up to {grid.bound:g}"
    return LayerExactness(True, f"{fan_in} inputs, {unit}", grid)


def _transfer(node: fx.Node, grids: dict[fx.Node, Grid | None]) -> Grid | None:
    target = node.target
    inputs = [grids.get(n) for n in node.all_input_nodes if n in grids]
    if target in (torch.ops.snn_xq.neuron_step.default, torch.ops.snn_xq.neuron_sequence.default):
        return None if str(node.args[3]).endswith("_graded") else Grid(0, 0.0, 1.0)
    if target is operator.getitem and getattr(node.args[0], "target", None) in (
        torch.ops.snn_xq.neuron_step.default,
        torch.ops.snn_xq.neuron_sequence.default,
    ):
        return grids[node.args[0]] if node.args[1] == 0 else None  # type: ignore[index]
    if target in _KEEP:
        return grids.get(node.args[0])  # type: ignore[arg-type]
    if target in _JOIN:
        return _union([grids.get(n) for n in node.args[0]])  # type: ignore[union-attr, arg-type]
    if target is aten.add.Tensor and not node.kwargs and len(inputs) == len(node.args):
        return _sum(inputs)
    if target is aten.mul.Tensor and len(node.args) == 2 and isinstance(node.args[1], (int, float)):  # noqa: PLR2004
        return _scaled(inputs[0] if inputs else None, float(node.args[1]))
    if target is aten.clamp.default and inputs:
        return None
    if target is torch.ops.snn_xq.fixed_point.default:
        bits, fraction = node.args[1], node.args[2]
        return Grid(int(fraction), 0.0, (2 ** int(bits) - 1) * 2.0 ** -int(fraction))  # type: ignore[arg-type]
    return None


def _union(grids: list[Grid | None]) -> Grid | None:
    known = [g for g in grids if g is not None]
    if len(known) != len(grids) or not known:
        return None
    return Grid(max(g.fraction for g in known), max(g.low for g in known), max(g.high for g in known))


def _sum(grids: list[Any]) -> Grid | None:
    joined = _union(grids)
    if joined is None:
        return None
    total = Grid(joined.fraction, sum(g.low for g in grids), sum(g.high for g in grids))
    return total if total.bound * 2.0**total.fraction < 2**_MANTISSA else None


def _scaled(grid: Grid | None, factor: float) -> Grid | None:
    """Multiply by a power of two; anything else leaves the grid."""
    if grid is None or factor <= 0 or math.frexp(factor)[0] != 0.5:  # noqa: PLR2004
        return None
    shift = math.frexp(factor)[1] - 1
    return Grid(max(0, grid.fraction - shift), grid.low * factor, grid.high * factor)
