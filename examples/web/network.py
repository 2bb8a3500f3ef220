"""The network of the page: what it computes, and that all layers' spikes are its outputs."""

from __future__ import annotations

import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor, nn

import snn_extreme_quant as sxq

__all__ = ["LAYERS", "Network", "OutputSpikes"]

#: The outputs, in order, and what the page calls them.
LAYERS = {"conv1": "convolution 1", "conv2": "convolution 2", "hidden": "hidden layer", "output": "output"}


class Network(nn.Module):
    """Two convolutions, two dense layers: ``(T, B, 1, 8, 8)`` to the spikes of each layer, ``(T, B, neurons)``.

    Pixels are sixteenths; the first module keeps them on that grid, so that the first layer is exact too.
    """

    def __init__(self) -> None:
        super().__init__()
        lif = {"beta": 0.9, "spike_grad": surrogate.atan()}
        self.grid = sxq.FixedPointInput(bits=8, fraction=4)
        self.conv1, self.lif1 = nn.Conv2d(1, 8, 3, padding=1), snn.Leaky(**lif)
        self.conv2, self.lif2 = nn.Conv2d(8, 16, 3, stride=2, padding=1), snn.Leaky(**lif)
        self.fc1, self.lif3 = nn.Linear(16 * 4 * 4, 64), snn.Leaky(**lif)
        self.fc2, self.lif4 = nn.Linear(64, 10), snn.Leaky(**lif)
        for layer in (self.conv1, self.conv2, self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        mem3, mem4 = self.lif3.reset_mem(), self.lif4.reset_mem()
        spikes: list[list[Tensor]] = [[], [], [], []]
        for image in x:
            spk1, mem1 = self.lif1(self.conv1(self.grid(image)), mem1)
            spk2, mem2 = self.lif2(self.conv2(spk1), mem2)
            spk3, mem3 = self.lif3(self.fc1(spk2.flatten(1)), mem3)
            spk4, mem4 = self.lif4(self.fc2(spk3), mem4)
            for record, spk in zip(spikes, (spk1, spk2, spk3, spk4), strict=True):
                record.append(spk.flatten(1))
        return {name: torch.stack(record) for name, record in zip(LAYERS, spikes, strict=True)}


class OutputSpikes(nn.Module):
    """The network as training takes it: only the output layer's spikes ``(T, B, 10)``."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        spikes: dict[str, Tensor] = self.network(x)
        return spikes["output"]
