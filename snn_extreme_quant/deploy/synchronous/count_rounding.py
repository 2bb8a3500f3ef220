"""Joins factors in a graph over counts whose currents are not exact anyway, so that they may be rounded otherwise.

That is so in SpikingBERT's reference profile behind the first norm: no runtime gives the bits of another there. Each
factor that becomes a part of a constant saves a pass over the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Set
from typing import Any, cast

import torch
from torch import Tensor, fx

__all__ = ["FreeRounding"]

aten = torch.ops.aten
_COUNTS = torch.ops.snn_xq.linear_counts.default


class FreeRounding:
    """What a graph over counts may do to currents that are not exact.

    Args:
        graph: the graph; it is changed.
        constant: gives the tensor of a ``get_attr`` node.
        new_constant: makes such a node where the graph inserts at present.
        channels: of a node and the shape beside it: whether it is a constant for each element of the last axis.
    """

    def __init__(
        self,
        graph: fx.Graph,
        constant: Callable[[Any], Tensor],
        new_constant: Callable[[Tensor], fx.Node],
        channels: Callable[[fx.Node, tuple[Any, ...]], Any],
    ) -> None:
        self.graph, self._constant, self._new_constant, self._channels = graph, constant, new_constant, channels

    def in_units(self, current: fx.Node, gain: Tensor, readers: Set[fx.Node]) -> fx.Node:
        """Return ``current`` times ``gain``, put into the constants before it where only ``readers`` read it.

        New nodes go where the graph inserts at present.
        """
        if set(current.users) <= readers:
            if (normed := self._normed(current, gain)) is not None:
                return normed
            if current.target is aten.gelu.default and current.kwargs.get("approximate", "none") == "none":
                return self._gelu(cast("fx.Node", current.args[0]), gain)
            factor = current.args[1] if current.target is aten.mul.Tensor else None
            if isinstance(factor, fx.Node) and self._is_channels(factor, current) and gain.dim() <= 1:
                current, gain = cast("fx.Node", current.args[0]), gain * self._constant(factor).double()
        return self._times(current, gain)

    def join_factors(self) -> None:
        """Put constant factors behind a layer that reads counts, and its bias, into scale and bias."""
        for node in list(self.graph.nodes):
            if node.target is not aten.mul.Tensor or not isinstance(node.args[1], fx.Node):
                continue
            if not self._is_channels(node.args[1], node):
                continue
            with self.graph.inserting_before(node):
                joined = self._layer_times(node.args[0], self._constant(node.args[1]).double())
            if joined is not None:
                node.replace_all_uses_with(joined)

    def _is_channels(self, factor: fx.Node, node: fx.Node) -> bool:
        value = node.meta.get("val")
        return isinstance(value, Tensor) and self._channels(factor, tuple(value.shape)) is not None

    def _times(self, current: fx.Node, factor: Tensor) -> fx.Node:
        return self.graph.call_function(aten.mul.Tensor, (current, self._new_constant(factor.float())))

    def _normed(self, current: fx.Node, gain: Tensor) -> fx.Node | None:
        """Put the gain into the weight and the bias of a layer norm."""
        if current.target is not aten.layer_norm.default or gain.dim() > 1 or len(current.args) < 4:
            return None
        x, shape, weight, bias, *rest = cast("tuple[Any, ...]", current.args)
        if len(shape) != 1 or not all(isinstance(n, fx.Node) and n.op == "get_attr" for n in (weight, bias)):
            return None
        constants = [self._new_constant((self._constant(n).double() * gain).float()) for n in (weight, bias)]
        return self.graph.call_function(current.target, (x, shape, *constants, *rest), current.kwargs)

    def _gelu(self, x: fx.Node, gain: Tensor) -> fx.Node:
        r"""Return GELU times the gain: with :math:`u = x / \sqrt 2` it is :math:`u (1 + erf(u)) (gain / \sqrt 2)`."""
        half = torch.tensor(math.sqrt(0.5), dtype=torch.float64)
        u = self._layer_times(x, half) if len(x.users) == 1 else None
        u = self._times(x, half) if u is None else u
        call = self.graph.call_function
        raised = call(aten.add.Tensor, (call(aten.erf.default, (u,)), 1.0))
        return self._times(call(aten.mul.Tensor, (u, raised)), gain * half)

    def _layer_times(self, node: Any, factor: Tensor) -> fx.Node | None:
        """Return a layer that reads counts, with its bias, times a number or one a channel; None if it is none."""
        if not isinstance(node, fx.Node) or node.target is not aten.add.Tensor or node.kwargs or len(node.users) != 1:
            return None
        layer, bias = cast("tuple[Any, Any]", node.args[:2])
        if not isinstance(layer, fx.Node) or layer.target is not _COUNTS or len(layer.users) != 1:
            return None
        x, packed, scale, *rest = cast("tuple[Any, ...]", layer.args)
        # The scale is computed, of a 1 and a constant.
        if scale.target is not aten.mul.Tensor or not isinstance(bias, fx.Node) or bias.op != "get_attr":
            return None
        if self._constant(bias).shape != self._constant(scale.args[1]).shape:
            return None
        scaled, shifted = (
            self._new_constant((self._constant(n).double() * factor).float()) for n in (scale.args[1], bias)
        )
        call = self.graph.call_function
        return call(
            aten.add.Tensor,
            (call(_COUNTS, (x, packed, call(aten.mul.Tensor, (scale.args[0], scaled)), *rest)), shifted),
        )
