"""Connections of a SpikingBERT from later layers back to earlier ones; ``docs/spiking_bert.md``, section Feedback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["Feedback"]


class Feedback(nn.Module):
    r"""Turn the spikes (or rates) of layers into currents for earlier layers.

    .. math:: f_l^\mathrm{fb} = \sum_k W_{kl} s_k

    (2308.10873, where the last layer feeds the first.) What feeds is gathered into one tensor, the *state*: at the
    steady state it is the unknown of the fixed point. Weights start at 0, where there is a steady state for certain.

    Args:
        connections: pairs (from, to) of layers; 0 is the layer of the input neurons.
        hidden: width of the layers.

    Shapes:
        spikes ``(..., hidden)``, state ``(layers that feed, ..., hidden)``.

    Example:
        >>> feedback = Feedback([(2, 0), (2, 1)], hidden=3)
        >>> state = feedback.state([torch.zeros(5, 3), torch.ones(5, 3), torch.ones(5, 3)])  # of layers 0, 1, 2
        >>> state.shape, sorted(feedback(state))
        (torch.Size([1, 5, 3]), [0, 1])
    """

    def __init__(self, connections: Sequence[tuple[int, int]], hidden: int) -> None:
        """Make the weights."""
        super().__init__()
        self.connections = tuple(connections)
        self.sources = tuple(sorted({source for source, _ in self.connections}))
        self.weights = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in self.connections)
        for weight in self.weights:
            nn.init.zeros_(cast("nn.Linear", weight).weight)

    def state(self, spikes: Sequence[Tensor]) -> Tensor:
        """Gather the spikes of the layers that feed from those of all layers, the input neurons first."""
        return torch.stack([spikes[source] for source in self.sources])

    def forward(self, state: Tensor) -> dict[int, Tensor]:
        """Return the currents by the layer that they go to."""
        currents: dict[int, Tensor] = {}
        for (source, target), weight in zip(self.connections, self.weights, strict=True):
            current = weight(state[self.sources.index(source)])
            currents[target] = currents[target] + current if target in currents else current
        return currents

    def extra_repr(self) -> str:
        """Show the connections."""
        return ", ".join(f"{source} -> {target}" for source, target in self.connections)
