"""Weights of float: how they start, and the layer that has them when codes no longer do."""

from __future__ import annotations

from torch import nn

from snn_extreme_quant.layers import IntegerFirst

__all__ = ["latent", "start_as_bert"]


def start_as_bert(module: nn.Module) -> None:
    """Start as BERT does: N(0, 0.02), biases 0."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def latent(layer: IntegerFirst) -> nn.Module:
    """Return the float layer that has the Parameters of a quantised one."""
    float_layer = layer.to_float()
    for name in float_layer._parameters:
        float_layer._parameters[name] = layer._parameters[name]
    return float_layer.train(layer.training)
