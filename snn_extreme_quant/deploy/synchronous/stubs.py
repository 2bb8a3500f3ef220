"""What stands in for the synchronous schedule while a model is recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from snn_extreme_quant.deploy.synchronous import operators
from snn_extreme_quant.neurons import SpikeTrain, SynchronousIF

__all__ = ["steps_summed", "synchronous_stub"]


def synchronous_stub(neuron: SynchronousIF, name: str) -> Callable[[Any], Any]:
    """Return what takes the place of the neuron's ``forward`` on the schedule that it is on."""
    threshold = neuron.threshold.detach().clone()

    def forward(current: Tensor | SpikeTrain) -> Tensor | SpikeTrain:
        mean = current.rates if isinstance(current, SpikeTrain) else current
        if neuron.schedule == "counts":
            rates: Tensor = operators.synchronous_rates(mean, threshold, neuron.T, neuron.signed, name)
            return rates
        return SpikeTrain(operators.synchronous_spikes(mean, threshold, neuron.T, neuron.signed, name))

    return forward


def steps_summed(train: SpikeTrain, scale: Tensor, rank: int, sums_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean current that a quantised layer gives for a train, without bias.

    Args:
        train: what the layer reads.
        scale: its scales, ``(N,)``.
        rank: how many axes its weight has: 2 for a linear layer.
        sums_of: the integer sums of one or more samples.
    """
    together = rank > 2 and train.dim() == rank  # a convolution takes one axis of samples
    sums = sums_of(train.spikes.flatten(0, 1) if together else train.spikes)
    if together:
        sums = sums.reshape(train.steps, -1, *sums.shape[1:])
    mean = sums.sum(0) * (1.0 / train.steps)
    return mean * (scale if rank == 2 else scale.view(-1, *(1,) * (rank - 2)))
