"""Turns a graph that was recorded on the schedule "counts" into one over integer counts.

Recorded rates are floats. Here a neuron gives its counts as bytes, changes of shape move bytes, and a packed linear
layer multiplies them with its codes. Where that layer, or a product of the counts of two neurons, feeds a neuron alone,
the two fold (:mod:`~snn_extreme_quant.deploy.synchronous.count_fold`). Whatever else reads rates gets them
from the counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.lowering.translations import fits_pairs
from snn_extreme_quant.deploy.recording.exactness import Exactness
from snn_extreme_quant.deploy.recording.graphs import dims
from snn_extreme_quant.deploy.recording.grid import BYTE, MANTISSA
from snn_extreme_quant.deploy.shifts.operators import NORM, norm_bound
from snn_extreme_quant.deploy.synchronous.count_fold import Fed, fold
from snn_extreme_quant.deploy.synchronous.count_rounding import FreeRounding
from snn_extreme_quant.deploy.synchronous.operators import COUNTS, RATES
from snn_extreme_quant.exported.shift_tables import NORM_FRACTION
from snn_extreme_quant.quantizers.packing import unpack

__all__ = ["to_counts"]

aten = torch.ops.aten
_OURS = torch.ops.snn_xq
_LINEAR = _OURS.packed_linear.default
_PRODUCTS = (aten.matmul.default, aten.bmm.default)
#: Of one tensor, moving its values only.
_MOVES = {
    aten.flatten.using_ints, aten.unflatten.int, aten.view.default, aten.reshape.default, aten.permute.default,
    aten.transpose.int, aten.movedim.int, aten.squeeze.dim, aten.squeeze.default, aten.squeeze.dims,
    aten.unsqueeze.default, aten.select.int, aten.slice.Tensor, aten.contiguous.default, aten.clone.default,
    aten.alias.default, aten.detach.default, aten.narrow.default, aten.swapaxes.default, aten.t.default,
    aten.numpy_T.default, aten.mT.default, aten._unsafe_view.default, aten.dropout.default, _OURS.transpose.default,
}  # fmt: skip


def to_counts(
    module: fx.GraphModule,
    exactness: Exactness,
    input_steps: int | None,
    *,
    round_freely: bool = False,
    unfolded: frozenset[str] = frozenset(),
) -> fx.GraphModule:
    """Return the graph over counts.

    Args:
        module: recorded on the schedule "counts"; it is changed.
        exactness: what was found of it.
        input_steps: T, if the input is promised to be the rates of T steps of spikes.
        round_freely: whether neurons whose currents are not exact may have their thresholds put into the constants
            before them, which rounds otherwise.
        unfolded: layers of neurons that are not to be folded, though they might.
    """
    return _CountGraph(module, exactness, input_steps, round_freely, unfolded).run()


@dataclass(frozen=True)
class _Source:
    """Where counts come from: their node, T, and what is added to them."""

    node: fx.Node
    steps: int
    zero_point: int

    @property
    def top(self) -> int:
        """The largest byte."""
        return self.steps + self.zero_point

    @property
    def least(self) -> int:
        """The least count."""
        return -self.zero_point

    def at(self, node: fx.Node) -> _Source:
        return _Source(node, self.steps, self.zero_point)


@dataclass(frozen=True)
class _Sums:
    """Integer sums that a node of the graph is a multiple of.

    Args:
        make: makes the node that gives them.
        scale: the multiple, of one element or one for each channel.
        low: the least sum there can be, of ``scale``'s shape.
        high: the largest.
        weighted: whether they are sums of a layer's weights, which a runtime may scale while it adds them up.
    """

    make: Callable[[], fx.Node]
    scale: npt.NDArray[np.float32]
    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    weighted: bool = False


class _CountGraph:
    def __init__(
        self,
        module: fx.GraphModule,
        exactness: Exactness,
        input_steps: int | None,
        round_freely: bool,
        unfolded: frozenset[str],
    ) -> None:
        self.module, self.graph, self.exactness = module, module.graph, exactness
        self.input_steps, self.round_freely, self.unfolded = input_steps, round_freely, unfolded
        self.sources: dict[fx.Node, _Source | None] = {}
        self.sums: dict[fx.Node, _Sums] = {}
        self.one: fx.Node | None = None
        self.rounding = FreeRounding(self.graph, self._constant, self._new_constant, self._channels)

    def run(self) -> fx.GraphModule:
        for node in list(self.graph.nodes):
            if node.target is _LINEAR:
                self._linear(node)
            elif node.target in _PRODUCTS:
                self._product(node)
            elif node.target is NORM:
                self._norm(node)
            elif node.target in (aten.mul.Tensor, aten.div.Tensor):
                self._multiple(node)
            elif node.target is RATES:
                self._fold(node)
        for node in list(self.graph.nodes):
            if self.round_freely and node.target is RATES and not self.exactness.neurons[str(node.args[-1])].exact:
                self._scale(node)
        if self.round_freely:
            self.rounding.join_factors()
        for node in list(self.graph.nodes):
            source = self.sources.get(node)
            if node.target is RATES and source is not None:
                self._read_rates(node, source)
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module.recompile()
        return self.module

    # Nodes ---------------------------------------------------------------------------------------------------------

    def _constant(self, node: Any) -> Tensor:
        value: Any = self.module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return cast("Tensor", value).detach()

    def _new_constant(self, value: Any) -> fx.Node:
        name = f"sxq_constant_{len(dict(self.module.named_buffers()))}"
        self.module.register_buffer(name, torch.as_tensor(value))
        return self.graph.get_attr(name)

    def _computed(self, constant: fx.Node) -> fx.Node:
        """Return a constant times a 1 that only a run knows (:func:`~.synchronous_operators.one_of`)."""
        if self.one is None:
            first = next(node for node in self.graph.nodes if node.op == "placeholder")
            self.one = self._after(first, _OURS.one_of.default, first)
        return self.graph.call_function(aten.mul.Tensor, (self.one, constant))

    def _after(self, node: fx.Node, target: Any, *args: Any) -> fx.Node:
        with self.graph.inserting_after(node):
            return self.graph.call_function(target, args)

    def _cast(self, node: fx.Node, dtype: torch.dtype) -> fx.Node:
        with self.graph.inserting_after(node):
            return self.graph.call_function(aten._to_copy.default, (node,), {"dtype": dtype})

    # Counts --------------------------------------------------------------------------------------------------------

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

    def _comes_from_counts(self, node: Any) -> bool:
        """Whether a node's rates are those of a neuron, or of the input, that has counts or could have them."""
        while isinstance(node, fx.Node) and node.target in _MOVES:
            node = node.args[0]
        if not isinstance(node, fx.Node):
            return False
        if node.op == "placeholder":
            return self.input_steps is not None
        return node.target is RATES and cast("int", node.args[2]) * (2 if node.args[3] else 1) <= BYTE

    # Sums ----------------------------------------------------------------------------------------------------------

    def _linear(self, node: fx.Node) -> None:
        """Let a packed linear layer read counts."""
        x, packed, scale, outputs, layout, layer = cast("tuple[Any, ...]", node.args)
        verdict = self.exactness.layers[layer]
        wanted = verdict.grid is not None and fits_pairs(1, layout)
        source = self._counts(x) if wanted else None
        if source is None or not fits_pairs(source.top, layout) or verdict.reach * source.top >= 2**MANTISSA:
            return
        values = self._constant(scale)
        smaller = values * (1.0 / source.steps)
        if not torch.equal(smaller * source.steps, values):
            return  # too small to be divided exactly
        with self.graph.inserting_before(node):
            constant = self._new_constant(smaller)
            if self.round_freely and not verdict.exact:
                constant = self._computed(constant)
            new = self.graph.call_function(
                _OURS.linear_counts.default, (source.node, packed, constant, source.zero_point, layout, layer)
            )
        node.replace_all_uses_with(new)

        codes = unpack(self._constant(packed).numpy(), outputs, layout).astype(np.int64)
        positive, negative = np.maximum(codes, 0).sum(0), np.minimum(codes, 0).sum(0)

        def make() -> fx.Node:
            arguments = (source.node, packed, source.zero_point, outputs, layout, layer)
            return self.graph.call_function(_OURS.linear_sums.default, arguments)

        low = source.least * positive + source.steps * negative
        high = source.steps * positive + source.least * negative
        self.sums[new] = _Sums(make, smaller.numpy(), low, high, weighted=True)

    def _product(self, node: fx.Node) -> None:
        """Note a product of the rates of two neurons: if it folds, it becomes one of their counts."""
        if not all(self._comes_from_counts(factor) for factor in node.args[:2]):
            return
        a, b = (self._counts(factor) for factor in node.args[:2])
        # Bytes are multiplied in pairs that must fit 16 bits, as those of layers.
        if a is None or b is None or 2 * a.top * b.top >= 2**15:
            return
        inner = dims(node.args[0])[-1:]
        # Of open length: floats are exact up to here, so what is promised ends here.
        most = 2**MANTISSA - 1
        if inner and isinstance(inner[0], int):
            most = inner[0] * a.steps * b.steps
        if most >= 2**MANTISSA:
            return

        def make() -> fx.Node:
            return self.graph.call_function(_OURS.count_product.default, (a.node, b.node, a.zero_point, b.zero_point))

        least = -most if a.zero_point or b.zero_point else 0
        scale = np.full(1, 1.0 / (a.steps * b.steps), np.float32)
        self.sums[node] = _Sums(make, scale, np.full(1, least), np.full(1, most))

    def _norm(self, node: fx.Node) -> None:
        """Note a norm by shifts: whole numbers in units of a power of two."""
        x, layer = node.args
        bound = np.full(1, norm_bound(int(dims(node)[-1])))
        scale = np.full(1, 2.0**-NORM_FRACTION, np.float32)

        def make() -> fx.Node:
            return self.graph.call_function(_OURS.shift_norm_units.default, (x, layer))

        self.sums[node] = _Sums(make, scale, -bound, bound)

    def _multiple(self, node: fx.Node) -> None:
        """Note a multiple of sums: times any number, or one for each channel, or divided by a power of two."""
        sums = self.sums.get(cast("fx.Node", node.args[0]))
        factor: Any = node.args[1]
        if sums is None or len(cast("fx.Node", node.args[0]).users) != 1:
            return
        if isinstance(factor, fx.Node):
            factor = self._channels(factor, dims(node))
        if factor is None:
            return
        if node.target is aten.div.Tensor:
            if not isinstance(factor, (int, float)):
                return
            if factor == 0 or math.frexp(factor)[0] not in (0.5, -0.5):
                return
            factor = 1.0 / factor
        if not bool((np.frexp(sums.scale)[0] == 0.5).all()):
            return  # only the first product may be without rounding
        scale = sums.scale * np.asarray(factor, np.float32)
        low, high = (np.broadcast_to(limit, scale.shape) for limit in (sums.low, sums.high))
        self.sums[node] = _Sums(sums.make, scale, low, high, sums.weighted)

    def _channels(self, node: fx.Node, shape: tuple[Any, ...]) -> npt.NDArray[np.float32] | None:
        """Return a constant that has one value for each element of the last axis."""
        if node.op != "get_attr":
            return None
        value = self._constant(node)
        return value.numpy() if value.dim() == 1 and shape[-1:] == tuple(value.shape) else None

    # Neurons -------------------------------------------------------------------------------------------------------

    def _fold(self, neuron: fx.Node) -> None:
        """Fold a neuron that is fed by sums of counts alone."""
        found = self._sums_before(neuron)
        _, threshold, steps, signed, layer = cast("tuple[Any, ...]", neuron.args)
        if found is None or layer in self.unfolded:
            return
        sums, bias, rectified = found
        # What a rectified current gives is never below 0, which an unsigned neuron gives without the rectifier.
        signed = signed and not rectified
        limit_of = self._constant(threshold).numpy()
        target = _Source(neuron, steps, steps if signed else 0)
        width = max(sums.scale.size, limit_of.size)
        if limit_of.ndim > 1 or {sums.scale.size, limit_of.size} - {1, width} or target.top > BYTE:
            return
        if width > 1 and dims(neuron.args[0])[-1:] != (width,):
            return  # the thresholds do not run along the axis that the sums have scales for
        shift = None if bias is None else self._constant(bias).numpy()
        low, high = (np.broadcast_to(limit, width) for limit in (sums.low, sums.high))
        thresholds = limit_of.reshape(-1).astype(np.float32)
        constants = fold(Fed(np.broadcast_to(sums.scale, width), shift, thresholds, steps, signed, low, high))
        if constants is None:
            return
        with self.graph.inserting_before(neuron):
            gain, offset = (self._new_constant(value) for value in constants)
            if sums.weighted:
                gain = self._computed(gain)  # the fold holds for a product and a sum that are rounded as one
            counts = self.graph.call_function(COUNTS[1], (sums.make(), gain, offset, target.top, layer))
        self.sources[neuron] = target.at(counts)

    def _scale(self, neuron: fx.Node) -> None:
        """Let a neuron whose current is not exact read it in units of a count, its constants put into those before it.

        The current is rounded otherwise then, as it may be by any runtime.
        """
        current, threshold, steps, signed, layer = cast("tuple[Any, ...]", neuron.args)
        zero_point = steps if signed else 0
        known = self.sources.get(neuron)
        if known is None or known.node.target is not COUNTS[0]:
            return  # nothing reads its counts, or it is folded already
        with self.graph.inserting_before(neuron):
            units = self.rounding.in_units(current, steps / self._constant(threshold).double(), {neuron, known.node})
            counts = self.graph.call_function(COUNTS[2], (units, zero_point, steps + zero_point, layer))
        known.node.replace_all_uses_with(counts)
        self.sources[neuron] = _Source(counts, steps, zero_point)

    def _sums_before(self, neuron: fx.Node) -> tuple[_Sums, fx.Node | None, bool] | None:
        """Return the sums that feed a neuron alone, the bias that is added, and whether the current is rectified."""
        current = cast("fx.Node", neuron.args[0])
        if len(current.users) != 1:
            return None
        rectified = current.target is aten.relu.default
        if rectified:
            current = cast("fx.Node", current.args[0])
            if len(current.users) != 1:
                return None
        if current in self.sums:
            return self.sums[current], None, rectified
        if current.target is not aten.add.Tensor or current.kwargs:
            return None
        before, bias = current.args[:2]
        sums = self.sums.get(cast("fx.Node", before))
        if sums is None or len(cast("fx.Node", before).users) != 1:
            return None
        if not isinstance(bias, fx.Node) or bias.op != "get_attr" or self._constant(bias).shape != sums.scale.shape:
            return None
        return sums, bias, rectified

    def _read_rates(self, node: fx.Node, source: _Source) -> None:
        """Give rates, computed from the counts, to what reads them."""
        if node.users:
            rates = self._after(source.node, _OURS.count_rates.default, source.node, source.zero_point, source.steps)
            node.replace_all_uses_with(rates)
