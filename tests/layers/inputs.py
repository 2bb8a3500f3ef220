"""Spikes for layers, and a count of what a layer asks of its quantiser."""

from __future__ import annotations

import torch
from torch import Tensor

from snn_extreme_quant.layers import IntegerFirst


def spikes(*shape: int, seed: int = 0) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def count_quantiser_calls(layer: IntegerFirst) -> list[int]:
    """Return a list that grows by one at each call of the layer's quantiser."""
    calls: list[int] = []
    quantizer, integer = layer.quantizer, layer.quantizer.integer

    def counted(weight: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return integer(weight)

    object.__setattr__(quantizer, "integer", counted)
    return calls


# The sum.
