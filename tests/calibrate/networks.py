"""Inputs and networks that the tests of calibration share."""

from __future__ import annotations

import snntorch as snn
import torch
from torch import Tensor, nn

import snn_extreme_quant as sxq

__all__ = ["STEPS", "Net", "layer_model", "logits", "loop", "mixed"]

#: Time steps of an image.
STEPS = 8


def mixed(*shape: int, seed: int = 0, rank: int = 5) -> Tensor:
    """Inputs that go together: only then is there an error to make up for."""
    generator = torch.Generator().manual_seed(seed)
    *batch, inputs = shape
    return torch.rand(*batch, rank, generator=generator) @ torch.rand(rank, inputs, generator=generator)


def layer_model(config, inputs: int = 20, outputs: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, outputs))
    sxq.quantize_(model, config)
    return model


class Net(nn.Module):
    """The user loops over time steps outside."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 48)
        self.lif1 = snn.Leaky(beta=0.9, init_hidden=True)
        self.fc2 = nn.Linear(48, 10)
        self.lif2 = snn.Leaky(beta=0.9, init_hidden=True, output=True, reset_mechanism="none")

    def forward(self, x: Tensor) -> Tensor:
        return self.lif2(self.fc2(self.lif1(self.fc1(x))))[1]


def loop(model: nn.Module, images: Tensor) -> Tensor:
    """Present each image as spikes over the time steps; the last membrane potential votes."""
    generator = torch.Generator().manual_seed(5)
    spikes = (torch.rand(STEPS, *images.shape, generator=generator) < images).float()
    for step in spikes:
        membrane = model(step)
    return membrane


def logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        sxq.reset(model)
        return loop(model, images)
