"""The demo's network in snnTorch, in the idiom of its tutorials: modules in order, a loop over time in ``forward``."""

from __future__ import annotations

import snntorch as snn
import torch
from snntorch import functional as SF
from snntorch import surrogate
from torch import Tensor, nn

from snn_extreme_quant import FixedPointInput

__all__ = ["Network", "loss"]

#: Spike counts to aim at: the right class fires in 90 % of the steps, the others in 10 %.
loss = SF.mse_count_loss(correct_rate=0.9, incorrect_rate=0.1)


class Network(nn.Module):
    """Two convolutions, two dense layers, leaky integrate-and-fire neurons: ``(T, B, 1, 8, 8)`` to ``(T, B, 10)``."""

    hidden_layer = "lif3"

    def __init__(self) -> None:
        """Create the network with fresh weights."""
        super().__init__()
        spike_grad = surrogate.atan()
        self.grid = FixedPointInput(bits=8, fraction=4)
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.lif1 = snn.Leaky(beta=0.9, spike_grad=spike_grad)
        self.conv2 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.lif2 = snn.Leaky(beta=0.9, spike_grad=spike_grad)
        self.fc1 = nn.Linear(64 * 4 * 4, 64)
        self.lif3 = snn.Leaky(beta=0.9, spike_grad=spike_grad)
        self.fc2 = nn.Linear(64, 10)
        self.lif4 = snn.Leaky(beta=0.9, spike_grad=spike_grad)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output layer's spikes at every step."""
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        mem3, mem4 = self.lif3.reset_mem(), self.lif4.reset_mem()
        spk_rec = []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.conv1(self.grid(x[step])), mem1)
            spk2, mem2 = self.lif2(self.conv2(spk1), mem2)
            spk3, mem3 = self.lif3(self.fc1(spk2.flatten(1)), mem3)
            spk4, mem4 = self.lif4(self.fc2(spk3), mem4)
            spk_rec.append(spk4)
        return torch.stack(spk_rec)
