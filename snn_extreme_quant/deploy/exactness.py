"""What deployment is guaranteed to reproduce bit for bit: an abstract interpretation of the recorded graph.

Two facts are followed through the graph for each value.

*Grid*: every element is an integer multiple of ``2**-fraction`` within known limits. Spikes are on the grid 1. Sums of
grid values with integer codes stay on the grid and are exact in float32, in any order, while they fit 24 bits.

*Reproducible*: every runtime that follows IEEE 754 gets the same bits. Exact sums are, and element-wise arithmetic on
reproducible values is; sums of real numbers, whose order a runtime may choose, are not, nor is anything behind them.

An operation that is not known keeps neither.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from . import operators  # noqa: F401 - registers the operators

__all__ = ["SPIKES", "Exactness", "Grid", "LayerExactness", "analyse"]

aten = torch.ops.aten
_OURS = torch.ops.snn_xq
_MANTISSA = 24
_BYTE = 255


@dataclass(frozen=True)
class Grid:
    """Multiples of ``2**-fraction`` in ``[-low, high]``."""

    fraction: int
    low: float
    high: float

    @property
    def units(self) -> float:
        """The largest magnitude in multiples of the grid."""
        return max(self.low, self.high) * 2.0**self.fraction


#: The grid of 0 and 1.
SPIKES = Grid(0, 0.0, 1.0)


@dataclass(frozen=True)
class _Fact:
    """What is known of a value; ``reason`` says why it is not reproducible (empty if it is)."""

    grid: Grid | None = None
    reason: str = ""


@dataclass(frozen=True)
class LayerExactness:
    """What is guaranteed of one quantised layer's sums or one neuron layer's spikes.

    Args:
        exact: the same bits on every runtime.
        reason: why, or why not.
        grid: the grid of a quantised layer's input, if it is on one.
        fits: whether the layer's sums fit the 24 bits of a float32.
    """

    exact: bool
    reason: str
    grid: Grid | None = None
    fits: bool = True

    @property
    def unsigned_byte(self) -> bool:
        """Whether a layer's input is an unsigned 8-bit integer on its grid, and its sums exact."""
        return self.grid is not None and self.grid.low == 0 and self.grid.units <= _BYTE and self.fits


@dataclass(frozen=True)
class Exactness:
    """The verdicts by layer name: quantised layers and neurons."""

    layers: dict[str, LayerExactness]
    neurons: dict[str, LayerExactness]


_SHAPE_ONLY = {
    aten.flatten.using_ints, aten.unflatten.int, aten.view.default, aten.reshape.default, aten.permute.default,
    aten.transpose.int, aten.movedim.int, aten.squeeze.dim, aten.squeeze.default, aten.squeeze.dims,
    aten.unsqueeze.default, aten.expand.default, aten.repeat.default, aten.select.int, aten.slice.Tensor,
    aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default, aten.unbind.int,
    aten.split.Tensor, aten.chunk.default, aten.dropout.default, aten.lift_fresh_copy.default,
    aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool2d_with_indices.default,
    aten.adaptive_max_pool2d.default, aten.relu.default, operator.getitem,
    _OURS.transpose.default,
}  # fmt: skip
_JOIN = {aten.cat.default, aten.stack.default}
_ELEMENTWISE = {
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.neg.default, aten.abs.default,
    aten.clamp.default, aten.maximum.default, aten.minimum.default, aten.where.self, aten.floor.default,
    aten.round.default, aten.add.Scalar, aten.mul.Scalar, aten.sub.Scalar, aten.div.Scalar,
}  # fmt: skip


def analyse(module: fx.GraphModule, input_grid: Grid | None = None) -> Exactness:
    """Return what is guaranteed of each quantised layer and each neuron layer.

    Args:
        module: a recorded graph, folded or not.
        input_grid: what the model's input is promised to be; None for any real numbers.
    """
    facts: dict[fx.Node, _Fact] = {}
    layers: dict[str, LayerExactness] = {}
    neurons: dict[str, LayerExactness] = {}
    for node in module.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            facts[node] = _Fact(input_grid if node.op == "placeholder" else None)
        elif node.op == "call_function":
            if node.target in (_OURS.packed_linear.default, _OURS.packed_conv.default):
                name = str(node.args[-1])
                verdict = _judge(facts[node.args[0]], _fan_in(module, node))
                _worst(layers, name, verdict)
                root = facts[node.args[0]].reason or f"layer {name!r} {verdict.reason}"
                facts[node] = _Fact(reason="" if verdict.exact else root)
            elif node.target in (_OURS.neuron_step.default, _OURS.neuron_sequence.default):
                reason = next((facts[n].reason for n in node.all_input_nodes if facts[n].reason), "")
                _worst(neurons, str(node.args[-1]), LayerExactness(not reason, reason or "computed from exact sums"))
                facts[node] = _Fact(None if str(node.args[3]).endswith("_graded") else SPIKES, reason)
            else:
                facts[node] = _transfer(node, facts)
    return Exactness(layers, neurons)


def _worst(into: dict[str, LayerExactness], name: str, verdict: LayerExactness) -> None:
    if name not in into or (into[name].exact and not verdict.exact):
        into[name] = verdict


def _fan_in(module: fx.GraphModule, node: fx.Node) -> int:
    """How many products a sum has: the rows of the packed codes."""
    packed: Any = module
    for part in str(node.args[1].target).split("."):  # type: ignore[union-attr]
        packed = getattr(packed, part)
    return int(packed.shape[0])


def _judge(fact: _Fact, fan_in: int) -> LayerExactness:
    if fact.grid is None:
        return LayerExactness(False, fact.reason or "sums real numbers, in an order that a runtime may choose", None)
    fits = fan_in * fact.grid.units < 2**_MANTISSA
    if fact.reason:
        return LayerExactness(False, fact.reason, fact.grid, fits)
    if not fits:
        return LayerExactness(
            False, f"sums {fan_in} inputs, which may need more than {_MANTISSA} bits", fact.grid, fits
        )
    unit = "spikes" if fact.grid == SPIKES else f"multiples of 2^-{fact.grid.fraction} up to {fact.grid.high:g}"
    return LayerExactness(True, f"sums of {fan_in} {unit}", fact.grid)


def _transfer(node: fx.Node, facts: dict[fx.Node, _Fact]) -> _Fact:
    target = node.target
    inputs = [facts[n] for n in node.all_input_nodes]
    reason = next((f.reason for f in inputs if f.reason), "")
    first = facts.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
    if first is not None and target is operator.getitem:
        source = node.args[0]
        neuron = getattr(source, "target", None) in (_OURS.neuron_step.default, _OURS.neuron_sequence.default)
        return replace(first, grid=None) if neuron and node.args[1] == 1 else first
    if first is not None and target in _SHAPE_ONLY:
        return _Fact(first.grid, reason)
    if target in _JOIN:
        return _Fact(_union([f.grid for f in inputs]), reason)
    if target is _OURS.fixed_point.default:
        bits, fraction = int(node.args[1]), int(node.args[2])  # type: ignore[arg-type]
        return _Fact(Grid(fraction, 0.0, (2**bits - 1) * 2.0**-fraction), reason)
    if target is aten.sum.dim_IntList:
        # A sum of spikes is exact up to 2**24 of them. Of larger values nothing is claimed: how many are summed may
        # depend on the input.
        grid = inputs[0].grid
        return _Fact(None, reason or ("" if grid is not None and grid.units <= 1 else "a sum over more than spikes"))
    if target in _ELEMENTWISE and node.kwargs.get("alpha", 1) != 1:
        # torch multiplies and adds in one rounding (fused), ONNX in two.
        return _Fact(None, reason or "add(..., alpha=...) rounds once in torch and twice in ONNX")
    if target in _ELEMENTWISE:
        return _Fact(_elementwise_grid(node, facts), reason)
    if target in (aten.sym_size.int, operator.mul, operator.add, operator.floordiv, operator.sub, aten.zeros.default,
                  aten.full.default, aten.zeros_like.default, aten.ones.default):  # fmt: skip
        return _Fact(None, reason)
    name = getattr(target, "__name__", str(target)).split(".")[0]
    return _Fact(None, reason or f"{name} is not known to give the same bits on every runtime")


def _elementwise_grid(node: fx.Node, facts: dict[fx.Node, _Fact]) -> Grid | None:
    values = [facts[a].grid if isinstance(a, fx.Node) else a for a in node.args]
    if node.target is aten.add.Tensor and not node.kwargs and all(isinstance(v, Grid) for v in values):
        return _sum(values)
    if node.target is aten.mul.Tensor and len(values) == 2 and isinstance(values[1], (int, float)):
        return _scaled(values[0], float(values[1])) if isinstance(values[0], Grid) else None
    return None


def _union(grids: list[Grid | None]) -> Grid | None:
    known = [g for g in grids if g is not None]
    if len(known) != len(grids) or not known:
        return None
    return Grid(max(g.fraction for g in known), max(g.low for g in known), max(g.high for g in known))


def _sum(grids: list[Any]) -> Grid | None:
    total = Grid(max(g.fraction for g in grids), sum(g.low for g in grids), sum(g.high for g in grids))
    return total if total.units < 2**_MANTISSA else None


def _scaled(grid: Grid, factor: float) -> Grid | None:
    """Multiply by a power of two; anything else leaves the grid."""
    if factor <= 0 or math.frexp(factor)[0] != 0.5:
        return None
    shift = math.frexp(factor)[1] - 1
    return Grid(max(0, grid.fraction - shift), grid.low * factor, grid.high * factor)
