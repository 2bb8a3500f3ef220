"""The precision of a SpikingBert's layers, changed while latent weights and Parameters stay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from snn_extreme_quant.config import Float
from snn_extreme_quant.errors import SxqError
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.models.config import Weights, weights_from_data
from snn_extreme_quant.models.latent import latent
from snn_extreme_quant.models.offsets import keep_zeros, outputs_at_zero
from snn_extreme_quant.replace import quantize_

if TYPE_CHECKING:
    from snn_extreme_quant.models.spiking_bert import SpikingBert

__all__ = ["set_weights"]


def set_weights(model: SpikingBert, weights: Weights) -> None:
    """Give the layers another precision; :meth:`SpikingBert.set_weights`."""
    config = replace(model.config, weights=weights_from_data(weights))
    zeros = outputs_at_zero(model)
    old = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, IntegerFirst)]
    for name, layer in old:
        _set_layer(model, name, latent(layer))
    if any(not isinstance(c, Float) for c in (config.plan.default, *(c for _, c in config.plan.rules))):
        try:
            quantize_(model, config.plan)
        except SxqError:
            for name, layer in old:
                _set_layer(model, name, layer)
            raise
    model.config = config
    keep_zeros(model, zeros)


def _set_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)
