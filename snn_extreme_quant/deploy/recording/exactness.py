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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.lowering import operators  # noqa: F401 - registers the operators
from snn_extreme_quant.deploy.recording.graphs import NEURONS, PACKED, dims
from snn_extreme_quant.deploy.recording.grid import SPIKES, Grid, joined, product, scaled, summed, times
from snn_extreme_quant.deploy.recording.layer_exactness import LayerExactness, StoredWeight, add_verdict, judge
from snn_extreme_quant.deploy.shifts.operators import GRID as ON_GRID
from snn_extreme_quant.deploy.shifts.operators import NORM, SOFTMAX, norm_bound
from snn_extreme_quant.deploy.synchronous.operators import RATES, SPIKES_OF
from snn_extreme_quant.exported.shift_tables import NORM_FRACTION, PROBABILITY_BITS
from snn_extreme_quant.neurons import NeuronSpec

__all__ = ["SPIKES", "Exactness", "Grid", "LayerExactness", "analyse"]

aten = torch.ops.aten
_OURS = torch.ops.snn_xq


@dataclass(frozen=True)
class _Fact:
    """What is known of a value; ``reason`` says why it is not reproducible (empty if it is).

    ``total`` is what magnitudes along the last axis sum up to at most, where that is known for an axis of any length.
    """

    grid: Grid | None = None
    reason: str = ""
    total: float = math.inf


@dataclass(frozen=True)
class Exactness:
    """The verdicts by layer name: quantised layers and neurons.

    Args:
        layers: of quantised layers, by name.
        neurons: of neuron layers, by name.
        products: the grids of the factors of each exact product of two computed matrices, by its name in the graph.
    """

    layers: dict[str, LayerExactness]
    neurons: dict[str, LayerExactness]
    products: dict[str, tuple[Grid, Grid]] = field(default_factory=dict)


_SHAPE_ONLY = {
    aten.flatten.using_ints, aten.unflatten.int, aten.view.default, aten.reshape.default, aten.permute.default,
    aten.transpose.int, aten.movedim.int, aten.squeeze.dim, aten.squeeze.default, aten.squeeze.dims,
    aten.unsqueeze.default, aten.expand.default, aten.repeat.default, aten.select.int, aten.slice.Tensor,
    aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default, aten.unbind.int,
    aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.narrow.default,
    aten.dropout.default, aten.feature_dropout.default, aten.lift_fresh_copy.default, aten.flip.default,
    aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default, aten.max_pool2d_with_indices.default,
    aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default,
    aten.relu.default, aten.swapaxes.default, aten.mT.default, aten.numpy_T.default, aten.t.default,
    aten._unsafe_view.default, aten.amax.default, aten.embedding.default, operator.getitem, _OURS.transpose.default,
}  # fmt: skip
_JOIN = {aten.cat.default, aten.stack.default, aten.concat.default}
_ELEMENTWISE = {
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.neg.default, aten.abs.default,
    aten.clamp.default, aten.maximum.default, aten.minimum.default, aten.where.self, aten.floor.default,
    aten.round.default, aten.add.Scalar, aten.mul.Scalar, aten.sub.Scalar, aten.div.Scalar, aten.rsub.Scalar,
    aten.ones_like.default, aten.relu6.default, aten.hardtanh.default,
}  # fmt: skip
_SIZES = {
    aten.sym_size.int, operator.mul, operator.add, operator.floordiv, operator.sub, aten.zeros.default,
    aten.full.default, aten.zeros_like.default, aten.ones.default, aten.arange.default, aten.arange.start,
}  # fmt: skip
#: Of those, what leaves values where they are.
_UNTOUCHED = {
    aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default, aten.dropout.default,
    aten.feature_dropout.default,
}  # fmt: skip
_LINEAR = {aten.linear.default, aten.addmm.default}
_CASTS = {aten.to.dtype, aten._to_copy.default}
_MATRIX = {aten.matmul.default, aten.bmm.default, aten.mm.default}
_UNKNOWN = object()
#: The largest product that may be summed over an open axis: 2**16 of them fit 24 bits.
_OPEN_PRODUCT = 2**8


def analyse(
    module: fx.GraphModule, input_grid: Grid | None = None, others: Mapping[str, Grid | None] | None = None
) -> Exactness:
    """Return what is guaranteed of each quantised layer and each neuron layer.

    Args:
        module: a recorded graph, folded or not.
        input_grid: what the model's input is promised to be; None for any real numbers.
        others: what is known of further placeholders, by name; they are taken to be reproducible.
    """
    return _Analysis(module, input_grid, others or {}).run()


class _Analysis:
    def __init__(self, module: fx.GraphModule, input_grid: Grid | None, others: Mapping[str, Grid | None]) -> None:
        self.module = module
        self.input_grid = input_grid
        self.others = others
        self.facts: dict[fx.Node, _Fact] = {}
        self.found = Exactness({}, {})

    def run(self) -> Exactness:
        for node in self.module.graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                known = self.others.get(node.name, self.input_grid)
                self.facts[node] = _Fact(known if node.op == "placeholder" else None)
            elif node.op == "call_function":
                self.facts[node] = self._fact(node)
        return self.found

    def _fact(self, node: fx.Node) -> _Fact:
        if node.target in PACKED:
            return self._packed(node)
        if node.target is _OURS.packed_embedding.default:
            add_verdict(
                self.found.layers, str(node.args[-1]), LayerExactness(True, "looks rows up, one product a value")
            )
            return _Fact()
        if node.target in NEURONS:
            return self._neuron(node)
        if node.target in (RATES, SPIKES_OF):
            return self._synchronous(node)
        if node.target in (NORM, SOFTMAX, ON_GRID):
            return self._shifted(node)
        return self._transfer(node)

    def constant(self, node: Any) -> Tensor:
        """Return the tensor that a ``get_attr`` node stands for."""
        value: Any = self.module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return cast("Tensor", value)

    def _packed(self, node: fx.Node) -> _Fact:
        name, source = str(node.args[-1]), self.facts[cast("fx.Node", node.args[0])]
        weight = StoredWeight(self.constant(node.args[1]), self.constant(node.args[2]).shape[0], str(node.args[-2]))
        verdict = judge(source.grid, source.reason, weight)
        add_verdict(self.found.layers, name, verdict)
        # Without a scale of its own it gives its sums.
        unscaled = verdict.fits and bool((self.constant(node.args[2]) == 1).all())
        grid = product(source.grid, Grid(0, 1.0, 1.0), weight.reach) if unscaled and source.grid is not None else None
        return _Fact(grid, "" if verdict.exact else source.reason or f"layer {name!r} {verdict.reason}")

    def _synchronous(self, node: fx.Node) -> _Fact:
        steps, signed, name = cast("tuple[int, bool, str]", node.args[2:])
        reason = next((self.facts[n].reason for n in node.all_input_nodes if self.facts[n].reason), "")
        add_verdict(self.found.neurons, name, LayerExactness(not reason, reason or "computed from exact sums"))
        fraction = steps.bit_length() - 1 if node.target is RATES else 0
        return _Fact(Grid(fraction, 1.0 if signed else 0.0, 1.0), reason)

    def _shifted(self, node: fx.Node) -> _Fact:
        """A norm or softmax by shifts, or a rounding: what it reads is rounded to a grid, and all else is exact."""
        reason = self.facts[cast("fx.Node", node.args[0])].reason
        if node.target is ON_GRID:
            fraction, limit = cast("tuple[int, float]", node.args[1:])
            return _Fact(Grid(fraction, *(limit * 2.0**-fraction,) * 2), reason)
        add_verdict(self.found.layers, str(node.args[-1]), LayerExactness(not reason, reason or "shifts whole numbers"))
        if node.target is SOFTMAX:
            return _Fact(Grid(PROBABILITY_BITS, 0.0, 1.0), reason, math.sqrt(2))
        bound = norm_bound(int(dims(node)[-1])) * 2.0**-NORM_FRACTION
        return _Fact(Grid(NORM_FRACTION, bound, bound), reason)

    def _neuron(self, node: fx.Node) -> _Fact:
        name, spec = str(node.args[-1]), NeuronSpec.from_operator(str(node.args[-2]))
        reason = next((self.facts[n].reason for n in node.all_input_nodes if self.facts[n].reason), "")
        weights, layout = cast("Sequence[fx.Node]", node.args[3]), str(node.args[4])
        if weights and not reason:
            if layout == "float":
                reason = "its recurrent layer has float weights"
            else:
                weight = StoredWeight(self.constant(weights[0]), self.constant(weights[1]).shape[0], layout)
                states = cast("Sequence[fx.Node]", node.args[1])
                fed = self._state(states[spec.states.index("s")])
                verdict = judge(fed.grid, fed.reason, weight)
                reason = "" if verdict.exact else f"its recurrent layer {verdict.reason}"
        add_verdict(self.found.neurons, name, LayerExactness(not reason, reason or "computed from exact sums"))
        return _Fact(self._spikes(node, spec), reason)

    def _state(self, node: fx.Node) -> _Fact:
        """Return what is known of the spikes that are fed back at first: often a constant 0."""
        if node.op == "get_attr":
            value = self.constant(node)
            return _Fact(SPIKES if bool(((value == 0) | (value == 1)).all()) else None)
        return self.facts[node]

    def _spikes(self, node: fx.Node, spec: NeuronSpec) -> Grid | None:
        """Return the grid of a neuron's output."""
        if spec.graded:
            return None
        if spec.fire == "count":
            parameters = cast("Sequence[fx.Node]", node.args[2])
            levels = self.constant(parameters[spec.parameter_names.index("levels")])
            return Grid(0, 0.0, float(levels.max()))
        return Grid(0, 1.0, 1.0) if spec.fire == "ternary" else SPIKES

    def _transfer(self, node: fx.Node) -> _Fact:
        """Return what is known of the result of one of torch's operations."""
        target = node.target
        reason = next((self.facts[n].reason for n in node.all_input_nodes if self.facts[n].reason), "")
        first = self.facts.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        if first is not None and target is operator.getitem:
            neuron = getattr(node.args[0], "target", None) in NEURONS
            return replace(first, grid=None) if neuron and node.args[1] != 0 else first
        if first is not None and target in (aten.sum.dim_IntList, _OURS.sum_pool.default):
            return self._sum(node, first)
        if target in _MATRIX:
            return self._matrix_product(node, reason)
        if target in _ELEMENTWISE and node.kwargs.get("alpha", 1) != 1:
            # torch multiplies and adds in one rounding (fused), ONNX in two.
            return _Fact(None, reason or "add(..., alpha=...) rounds once in torch and twice in ONNX")
        if target in _ELEMENTWISE:
            return _Fact(self._elementwise_grid(node), reason)
        grid = self._moved_grid(node, first)
        if grid is not _UNKNOWN:
            kept = first is not None and target in _UNTOUCHED
            return _Fact(cast("Grid | None", grid), reason, first.total if first is not None and kept else math.inf)
        if target in _LINEAR:
            return _Fact(None, reason or "a layer with float weights sums real numbers, in an order of a runtime's own")
        name = getattr(target, "__name__", str(target)).split(".")[0]
        return _Fact(None, reason or f"{name} is not known to give the same bits on every runtime")

    def _moved_grid(self, node: fx.Node, first: _Fact | None) -> Any:
        """Return the grid of what only moves, joins or makes values; ``_UNKNOWN`` for other operations."""
        target = node.target
        if first is not None and target in _SHAPE_ONLY:
            return first.grid
        if target in _CASTS and _to_float(node):
            return None
        if first is not None and target in (aten.pad.default, aten.constant_pad_nd.default):
            # Zeros and copies of values are on any grid.
            zero = not any(isinstance(a, (int, float)) and a != 0 for a in (*node.args[2:], *node.kwargs.values()))
            return first.grid if zero else None
        if target in _JOIN:
            return joined([self.facts[n].grid for n in node.all_input_nodes])
        if target is _OURS.fixed_point.default:
            bits, fraction = int(node.args[1]), int(node.args[2])  # type: ignore[arg-type]
            return Grid(fraction, 0.0, (2**bits - 1) * 2.0**-fraction)
        return None if target in _SIZES else _UNKNOWN

    def _sum(self, node: fx.Node, fact: _Fact) -> _Fact:
        """A sum over some axes, or over the windows of a pooling."""
        if fact.reason:
            return _Fact(None, fact.reason)
        if fact.grid is None:
            return _Fact(None, "sums real numbers, in an order that a runtime may choose")
        count: Any
        if node.target is _OURS.sum_pool.default:
            count = math.prod(cast("Sequence[int]", node.args[1]))
        else:
            shape = dims(node.args[0])
            axes = cast("Sequence[int]", node.args[1] or range(len(shape))) if shape else ()
            lengths = [shape[axis] for axis in axes]
            count = math.prod(lengths) if lengths and all(isinstance(n, int) for n in lengths) else math.inf
        if count != math.inf:
            grid = times(fact.grid, int(count))
            return _Fact(grid, "" if grid is not None else f"sums {count} values, which may need more than 24 bits")
        # How many are summed depends on the input: spikes are exact up to 2**24 of them.
        return _Fact(None, "" if fact.grid.units <= 1 else "a sum over more than spikes, of any number of them")

    def _matrix_product(self, node: fx.Node, reason: str) -> _Fact:
        """Both factors are computed, as in spiking attention."""
        if reason:
            return _Fact(None, reason)
        a, b = (self.facts[cast("fx.Node", n)].grid for n in node.args[:2])
        if a is None or b is None or not dims(node.args[0]):
            return _Fact(None, "a product of matrices of real numbers, summed in an order that a runtime may choose")
        inner = dims(node.args[0])[-1]
        total = self.facts[cast("fx.Node", node.args[0])].total
        if total < math.inf:
            most = total * max(b.low, b.high)
            mixed = Grid(a.fraction + b.fraction, most, most)
            return _Fact(mixed) if mixed.fits else _Fact(None, "a product of probabilities, needing over 24 bits")
        if not isinstance(inner, int):
            # As many products are summed as the input is long.
            if a.units * b.units > _OPEN_PRODUCT:
                return _Fact(None, "a product of matrices of large numbers, over any number of them")
            self.found.products[node.name] = (a, b)
            return _Fact(None)
        grid = product(a, b, inner)
        if grid is None:
            return _Fact(None, f"a product of matrices over {inner}, needing over 24 bits")
        self.found.products[node.name] = (a, b)
        return _Fact(grid)

    def _elementwise_grid(self, node: fx.Node) -> Grid | None:
        values = [self.facts[a].grid if isinstance(a, fx.Node) else a for a in node.args]
        if not values or not isinstance(values[0], Grid):
            return None
        first = values[0]
        if node.target in (aten.neg.default, aten.abs.default):
            most = max(first.low, first.high)
            return scaled(first, -1.0) if node.target is aten.neg.default else Grid(first.fraction, 0.0, most)
        if len(values) != 2:
            return None
        second = values[1]
        if isinstance(second, Grid):
            return {
                aten.add.Tensor: lambda: summed([first, second]),
                aten.sub.Tensor: lambda: summed([first, Grid(second.fraction, second.high, second.low)]),
                aten.mul.Tensor: lambda: product(first, second),
                aten.maximum.default: lambda: joined([first, second]),
                aten.minimum.default: lambda: joined([first, second]),
            }.get(cast("Any", node.target), lambda: None)()
        if isinstance(second, (int, float)) and not isinstance(second, bool):
            if node.target in (aten.mul.Tensor, aten.mul.Scalar):
                return scaled(first, float(second))
            if node.target in (aten.div.Tensor, aten.div.Scalar) and second:
                return scaled(first, 1.0 / second)
        return None


def _to_float(node: fx.Node) -> bool:
    """Whether a cast is one of whole numbers, or of float32, to float32."""
    before, after = (n.meta.get("val") if isinstance(n, fx.Node) else None for n in (node.args[0], node))
    if not isinstance(before, Tensor) or not isinstance(after, Tensor) or after.dtype is not torch.float32:
        return False
    return before.dtype is torch.float32 or not (before.is_floating_point() or before.is_complex())
