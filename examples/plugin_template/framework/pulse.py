"""A stand-in for a spiking framework: two neurons that can be carried over exactly, one that cannot, and a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__version__ = "1.2.0"


class Cell(nn.Module):
    """What the neurons share: a membrane potential, which ``clear`` puts back to 0."""

    def __init__(self, threshold: float = 1.0, leak: float = 0.9) -> None:
        super().__init__()
        self.threshold, self.leak = threshold, leak
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.v = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Take one time step: leak, add the current, fire at or above the threshold, subtract it."""
        h = self.leak * self.v + x
        spikes = (h >= self.threshold).to(x.dtype)
        self.v = h - spikes * self.threshold
        return spikes


class Current(Cell):
    """A cell whose input decays too."""

    def __init__(self, threshold: float = 1.0, leak: float = 0.9, synapse: float = 0.5) -> None:
        super().__init__(threshold, leak)
        self.synapse = synapse

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self.i = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Take one time step."""
        self.i = self.synapse * self.i + x
        return super().forward(self.i)


class Noisy(Cell):
    """A cell with noise on its current."""

    def forward(self, x: Tensor) -> Tensor:
        """Take one time step."""
        return super().forward(x + 0.1 * torch.randn_like(x))


class Dense(nn.Linear):
    """A linear layer under the framework's own name."""
