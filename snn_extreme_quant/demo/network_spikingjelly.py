"""The demo's network in SpikingJelly, in the idiom of its examples: a sequential network in multi-step mode."""

from __future__ import annotations

import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from snn_extreme_quant import FixedPointInput

__all__ = ["Network", "loss"]


def loss(spikes: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error between firing rates and one-hot labels."""
    return F.mse_loss(spikes.mean(0), F.one_hot(labels, spikes.shape[-1]).to(spikes))


def _if_node() -> nn.Module:
    node: nn.Module = neuron.IFNode(surrogate_function=surrogate.ATan(), detach_reset=True)
    return node


class Network(nn.Module):
    """Two convolutions, two dense layers, integrate-and-fire neurons: ``(T, B, 1, 8, 8)`` to ``(T, B, 10)``."""

    hidden_layer = "layers.7"

    def __init__(self) -> None:
        """Create the network with fresh weights."""
        super().__init__()
        self.layers = nn.Sequential(
            FixedPointInput(bits=8, fraction=4),
            layer.Conv2d(1, 32, 3, padding=1),
            _if_node(),
            layer.Conv2d(32, 64, 3, stride=2, padding=1),
            _if_node(),
            layer.Flatten(),
            layer.Linear(64 * 4 * 4, 64),
            _if_node(),
            layer.Linear(64, 10),
            _if_node(),
        )
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        """Return the output layer's spikes at every step."""
        spikes: Tensor = self.layers(x)
        return spikes
