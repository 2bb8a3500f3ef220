"""The precision of a model's layers, changed while latent weights and Parameters stay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from snn_extreme_quant.config import Float, PrecisionPlan
from snn_extreme_quant.errors import SxqError
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.models.bert.offsets import keep_zeros, outputs_at_zero
from snn_extreme_quant.models.config import Weights, weights_from_data
from snn_extreme_quant.models.latent import latent
from snn_extreme_quant.replace import quantize_

if TYPE_CHECKING:
    from snn_extreme_quant.models.bert.spiking_bert import SpikingBert

__all__ = ["give_weights", "set_weights"]


def set_weights(model: SpikingBert, weights: Weights) -> None:
    """Give the layers another precision; :meth:`SpikingBert.set_weights`."""
    config = replace(model.config, weights=weights_from_data(weights))
    zeros = outputs_at_zero(model)
    give_weights(model, config.plan)
    model.config = config
    keep_zeros(model, zeros)


def give_weights(model: nn.Module, plan: PrecisionPlan) -> None:
    """Swap a model's layers for ones of the plan's precisions; on an error the model is as it was.

    Args:
        model: it is changed; its Parameters stay.
        plan: layers that it does not name have float weights afterwards.

    Raises:
        UnmatchedNameError: a name in the plan matches no layer.

    Example:
        >>> from snn_extreme_quant import Binary
        >>> net = nn.Sequential(nn.Linear(4, 2))
        >>> give_weights(net, PrecisionPlan({"0": Binary()}))
        >>> type(net[0]).__module__
        'snn_extreme_quant.layers.linear'
    """
    old = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, IntegerFirst)]
    for name, layer in old:
        _put(model, name, latent(layer))
    if all(isinstance(config, Float) for config in (plan.default, *(config for _, config in plan.rules))):
        return
    try:
        quantize_(model, plan)
    except SxqError:
        for name, layer in old:
            _put(model, name, layer)
        raise


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)
