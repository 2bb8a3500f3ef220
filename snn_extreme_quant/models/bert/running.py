"""How a SpikingBERT runs: through time, a few steps after another, or at the steady state that feedback settles at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self, cast

import torch
from torch import Tensor

from snn_extreme_quant.neurons.equilibrium_steps import StepIF

if TYPE_CHECKING:
    from snn_extreme_quant.models.bert.spiking_bert import SpikingBert

__all__ = ["Activity", "BertDetails", "settle", "simulate", "time_steps"]

#: Time steps that go through a network without feedback together.
_TOGETHER = 4


@dataclass(frozen=True)
class BertDetails:
    """What distillation compares.

    Args:
        logits: ``(B, classes)``.
        hidden: carried rates of the input neurons and of each layer's output, each ``(B, S, hidden)``.
        scores: attention scores before softmax and mask, each ``(B, heads, S, S)``; on the schedule ``"step"`` in the
            mode ``"surrogate"`` the mean over the steps.
    """

    logits: Tensor
    hidden: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]


class Activity(NamedTuple):
    """What a network does, before averages over time: rates ``(B, ...)``, or spikes ``(T, B, ...)``.

    Args:
        state: what is fed back, ``(layers that feed, ...)``; None without feedback.
        read: what the head reads.
        hidden: carried by the input neurons and each layer's last ones.
        scores: of attention, before softmax and mask.
    """

    state: Tensor | None
    read: Tensor
    hidden: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Activity:
        """Join what successive steps gave along the axis of time, but for ``state``."""
        hidden, scores = (
            tuple(torch.cat(steps) for steps in zip(*found, strict=True))
            for found in ([part.hidden for part in parts], [part.scores for part in parts])
        )
        return Activity(None, torch.cat([part.read for part in parts]), hidden, scores)


@torch.no_grad()
def simulate(model: SpikingBert, current: Callable[[], Tensor], mask: Tensor) -> Tensor | None:
    """Run all time steps, without dropout; the neurons keep their rates.

    Args:
        model: of the schedule ``"step"``.
        current: makes the current into the input neurons.
        mask: as :meth:`SpikingBert.run` takes it.

    Returns:
        The rates that are fed back; None without feedback.
    """
    training = model.training
    model.eval()
    model.set_neuron_modes("surrogate")
    try:
        for _ in time_steps(model, current(), mask):
            pass
    finally:
        model.set_neuron_modes(model.mode)
        model.train(training)
    layers = (model.embeddings, *model.encoder)
    return model.feedback.state([layer.neurons.last for layer in layers]) if model.config.feedback else None


def time_steps(model: SpikingBert, current: Tensor, mask: Tensor) -> Iterator[Activity]:
    """Yield what the network does in all time steps, some at a time; what is fed back arrives a step later.

    Memory is that of few steps, unless the caller keeps what it is given.
    """
    neurons = [cast("StepIF", layer) for _, layer in model.named_neurons()]
    together = 1 if model.config.feedback else _TOGETHER
    fed: dict[int, Tensor] = {}
    try:
        for layer in neurons:
            layer.restart()
            layer.continues = True
        for start in range(0, model.config.T, together):
            steps = min(together, model.config.T - start)
            activity = model.run(current.expand(steps, *current.shape), mask, fed)
            if activity.state is not None:
                fed = model.feedback(activity.state)
            yield activity
    finally:
        for layer in neurons:
            layer.continues = False
            layer.restart()


def settle(model: SpikingBert, current: Tensor, mask: Tensor, rates: Tensor | None) -> Activity:
    """Return the steady state of a network with feedback, with its implicit gradient.

    Args:
        model: with feedback.
        current: into the input neurons.
        mask: as :meth:`SpikingBert.run` takes it.
        rates: simulated rates of the layers that feed, taken for the steady state; None: it is solved for.

    Raises:
        EquilibriumError: it is not found, here or in the backward pass.
    """
    levels = model.config.layers + 1

    def f(state: Tensor) -> tuple[Tensor, ...]:
        activity = model.run(current, mask, model.feedback(state))
        return (cast("Tensor", activity.state), activity.read, *activity.hidden, *activity.scores)

    start = current.detach().new_zeros(len(model.feedback.sources), *current.shape)
    state, read, *others = model.implicit(f, start, rates)
    return Activity(state, read, tuple(others[:levels]), tuple(others[levels:]))
