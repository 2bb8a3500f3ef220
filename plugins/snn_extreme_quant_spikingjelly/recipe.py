"""Quantisation as one of SpikingJelly's own conversion recipes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from spikingjelly.activation_based import ann2snn
from torch import nn

from snn_extreme_quant.config import PrecisionPlan, WeightConfig
from snn_extreme_quant.replace import QuantizeReport, quantize_

if TYPE_CHECKING:

    class _ModuleConversionRecipe:
        pass
else:
    _ModuleConversionRecipe = ann2snn.ModuleConversionRecipe

__all__ = ["ExtremeQuantRecipe"]


class ExtremeQuantRecipe(_ModuleConversionRecipe):
    """:func:`~snn_extreme_quant.quantize_` for ``ann2snn.ModuleConverter``.

    The converter gives back the model that it was given, with its layers swapped: parameters stay the same objects, so
    an optimiser that was made before goes on. Copy the model first to keep the float one.

    Args:
        config: one precision for all layers, or a plan that assigns them by name.
        skip: names or patterns of layers to leave in float.

    Attributes:
        report: what the last conversion did.

    Raises:
        SxqError: when converting, whatever ``quantize_`` raises.

    Example:
        >>> from snn_extreme_quant import Ternary
        >>> from spikingjelly.activation_based import layer, neuron
        >>> net = nn.Sequential(layer.Linear(4, 8), neuron.LIFNode(), layer.Linear(8, 2), neuron.LIFNode())
        >>> recipe = ExtremeQuantRecipe(Ternary(), skip=["2"])
        >>> net = ann2snn.ModuleConverter(recipe).convert(net)
        >>> print(recipe.report)
        1 layer quantised, 1 left in float
        0  Linear  ternary  8x4
        2  Linear  float    skipped by name
    """

    def __init__(self, config: WeightConfig | PrecisionPlan, skip: Iterable[str] = ()) -> None:
        """Remember what to do."""
        self.config = config
        self.skip = (skip,) if isinstance(skip, str) else tuple(skip)
        self.report: QuantizeReport | None = None

    def convert_module(self, converter: Any, ann: nn.Module) -> nn.Module:  # noqa: ARG002 - SpikingJelly's signature
        """Swap the layers of ``ann`` and return it."""
        self.report = quantize_(ann, self.config, self.skip)
        return ann
