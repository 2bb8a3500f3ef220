"""The network whose speed is measured: a spiking transformer encoder of BERT's size, with random weights.

Each layer is spiking attention (query, key, value and output projections, products of spike matrices without softmax)
and a feed-forward part; a LIF neuron follows every product. Thresholds are set, neuron layer by neuron layer, so that
the wanted share of neurons fires.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.config import WeightConfig

__all__ = ["DENSITY", "HIDDEN", "WIDTH", "Encoder", "calibrate", "encoder", "float_twin", "quantised", "spikes"]

WIDTH, HIDDEN, HEADS = 768, 3072, 12
DENSITY = 0.15


def _lif(threshold: float = 1.0) -> nn.Module:
    return neuron.LIFNode(tau=2.0, decay_input=False, v_threshold=threshold, v_reset=None, step_mode="m")


class Projection(nn.Module):
    """A product and its neurons."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.lif = nn.Linear(inputs, outputs, bias=False), _lif()

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(self.linear(x))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """``(q k^T) v``, of spikes throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (Projection(WIDTH, WIDTH) for _ in range(4))
        self.lif = _lif()

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        context = ((query @ key.transpose(-1, -2)) @ value) * 0.125
        return self.output(self.lif(context).transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Spikes of one sentence ``(T, S, 768)`` to spikes of that shape; any number of steps T and tokens S."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Sequential(Attention(), Projection(WIDTH, HIDDEN), Projection(HIDDEN, WIDTH)) for _ in range(layers))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def spikes(*shape: int, seed: int = 1) -> Tensor:
    """Spikes of the wanted density."""
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < DENSITY).float()


def encoder(layers: int) -> nn.Module:
    """Return the network in float, with random weights."""
    torch.manual_seed(0)
    return Encoder(layers).eval()


def quantised(net: nn.Module, config: WeightConfig) -> nn.Module:
    """Return a copy with low-bit weights."""
    net = copy.deepcopy(net)
    sxq.quantize_(net, config)
    return net


def calibrate(net: nn.Module, steps: int, tokens: int) -> tuple[float, dict[str, float]]:
    """Set the thresholds so that ``DENSITY`` of the neurons fire in so many steps; return what fires, and those."""
    rates: list[float] = []

    def tune(lif: Any, currents: tuple[Tensor, ...]) -> None:
        # Every 7th neuron is enough; bisect between none and all.
        sample = currents[0].flatten(1)[:, ::7]
        low, high = 0.0, float(sample.abs().max()) * steps + 1e-6
        for _ in range(24):
            threshold = (low + high) / 2
            low, high = (threshold, high) if _rate(sample, threshold) > DENSITY else (low, threshold)
        lif.v_threshold = high
        rates.append(_rate(sample, high))

    lifs = {name: module for name, module in net.named_modules() if isinstance(module, neuron.LIFNode)}
    hooks = [lif.register_forward_pre_hook(tune) for lif in lifs.values()]
    with torch.no_grad():
        net(spikes(steps, tokens, WIDTH))
    for hook in hooks:
        hook.remove()
    functional.reset_net(net)
    return sum(rates) / len(rates), {name: cast("Any", lif).v_threshold for name, lif in lifs.items()}


def _rate(currents: Tensor, threshold: float) -> float:
    return float(_lif(threshold)(currents).mean())


def float_twin(net: nn.Module) -> nn.Module:
    """Return a quantised network as a float one computes it: the same weights, codes times scales, in float32."""
    twin = copy.deepcopy(net)
    for module in twin.modules():
        if isinstance(module, Projection):
            module.linear = cast("Any", module.linear).to_float()
    return twin
