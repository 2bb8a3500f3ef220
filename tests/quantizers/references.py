"""Each scheme as its paper writes it, in a few lines of plain torch, for one block of weights that share a scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snn_extreme_quant import Binary, Ternary
from snn_extreme_quant.config import Uniform, WeightConfig
from snn_extreme_quant.quantizers.core import WeightQuant
from snn_extreme_quant.quantizers.injectors import injector_for

EPS = torch.tensor(1e-5)
GROUP = 3

GRAINS = ({"per": "tensor"}, {"per": "channel"}, {"per": "group", "group_size": GROUP})
SCHEMES = (
    Binary(),
    Binary(center=True),
    Binary(scale="learned"),
    Binary(center=True, scale="learned"),
    Ternary(),
    Ternary(scale="twn"),
    Ternary(scale="mse"),
    Ternary(scale="learned"),
    Uniform(8),
    Uniform(3),
    Uniform(16),
    Uniform(2, scale="mse"),
    Uniform(4, scale="mse"),
)


def _with_grain(scheme: WeightConfig, grain: dict) -> WeightConfig:
    fields = {name: value for name, value in scheme.to_dict().items() if name != "kind"}
    return type(scheme)(**{**fields, **grain})


CONFIGS = [_with_grain(scheme, grain) for scheme in SCHEMES for grain in GRAINS]
LEARNED = [config for config in CONFIGS if config.scale == "learned"]


def quantizer_for(config: WeightConfig, weight: Tensor) -> WeightQuant:
    """Return the quantiser as a Brevitas layer with ``weight`` would build it."""
    injector = injector_for(config)
    layer = nn.Module()
    layer.output_channel_dim = 0
    return injector.let(module=layer, tracked_parameter_list=[weight]).tensor_quant


def weight_of(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3 + 0.05


def blocks_of(config: WeightConfig, weight: Tensor) -> list[list[Tensor]]:
    """Return the weights that share a scale, as a table of N rows and G columns (one row per tensor)."""
    if config.per == "tensor":
        return [[weight]]
    if config.per == "channel":
        return [[row] for row in weight]
    return [list(row.split(GROUP)) for row in weight]


def reference(config: WeightConfig, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes and the scale of one block."""
    absmean = w.abs().double().mean().float()
    if isinstance(config, Binary):
        mean = w.double().mean().float()
        codes = torch.where(w > mean, 1.0, -1.0) if config.center else torch.where(w.signbit(), -1.0, 1.0)
        return codes, absmean.maximum(EPS)
    if isinstance(config, Ternary) and config.scale == "twn":
        survive = w.abs() > (0.7 * w.abs().double().mean()).float()
        return survive * w.sign(), w.abs()[survive].double().mean().float().maximum(EPS)
    if isinstance(config, Ternary) and config.scale != "absmean":
        tops = [w.abs().flatten().sort(descending=True).values[:k].double() for k in range(1, w.numel() + 1)]
        scale = max(tops, key=lambda top: top.sum() ** 2 / len(top)).mean().float().maximum(EPS)
        return (w / scale).round().clamp(-1, 1), scale
    largest = 1 if isinstance(config, Ternary) else 2 ** (config.bits - 1) - 1
    scale = absmean if isinstance(config, Ternary) else (w.abs().max().double() / largest).float()
    return (w / scale.maximum(EPS)).round().clamp(-largest, largest), scale.maximum(EPS)
