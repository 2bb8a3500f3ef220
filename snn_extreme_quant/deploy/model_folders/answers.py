"""What a model says of a text, and what that took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.accounting import BertSizes, Energy, spiking_bert_energy

__all__ = ["Answer", "Spent", "add_spikes", "margin", "softmax"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Answer:
    """What a model says of one text, or of one pair.

    Args:
        label: the most probable class; empty where the model gives a score.
        probabilities: of all classes, in the order of the model's labels; none where it gives a score.
        time_steps: T of the run that gave the answer; 1 of a SpikeGPT, whose tokens are its time steps.
        steps_spent: all time steps that were made for this text; more than ``time_steps`` where early exit started
            anew.
        tokens: of the text, with the tokenizer's own.
        truncated: whether the text was longer than the model takes.
        firing_rate: spikes a neuron and time step, mean over neurons, tokens and the runs' steps.
        energy: an estimate for all runs of this text; None where the model's sizes are not known.
        score: of a model of regression, in the units of its task's labels; else None.
    """

    label: str
    probabilities: tuple[float, ...]
    time_steps: int
    steps_spent: int
    tokens: int
    truncated: bool
    firing_rate: float
    energy: Energy | None
    score: float | None = None

    @property
    def probability(self) -> float:
        """Of the label; nan where the model gives a score."""
        return max(self.probabilities, default=float("nan"))

    @property
    def margin(self) -> float:
        """Difference of the two largest probabilities; nan where the model gives a score."""
        return margin(self.probabilities)


@dataclass
class Spent:
    """What the runs of one text add up to."""

    steps: int = 0
    rate: float = 0.0
    energy: Energy | None = None


def margin(probabilities: Sequence[float] | Array) -> float:
    """Return the difference of the two largest probabilities; nan where there are no two.

    Example:
        >>> margin([0.2, 0.5, 0.25])
        0.25
    """
    if len(probabilities) < 2:
        return float("nan")
    second, first = np.sort(np.asarray(probabilities))[-2:]
    return float(first - second)


def softmax(logits: Array) -> Array:
    """Return the probabilities of logits, in float64.

    Example:
        >>> softmax(np.zeros((1, 2), np.float32)).tolist()
        [[0.5, 0.5]]
    """
    exponent = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    found: Array = exponent / exponent.sum(-1, keepdims=True)
    return found


def add_spikes(
    spent: Sequence[Spent],
    inner: Mapping[str, Array],
    mask: Array,
    sizes: BertSizes | None,
    *,
    steps: int,
    passes: int,
) -> None:
    """Add a run to what was spent, without pads.

    Args:
        spent: of each text of the batch.
        inner: by layer of neurons how many spikes of either sign: ``(B, S, channels)`` or ``(B, channels)``.
        mask: ``(B, S)``, 1 for tokens.
        sizes: of the network, or None.
        steps: of the run.
        passes: how often the run applied scales and biases.
    """
    by_layer: dict[str, Array] = {}
    neurons = np.zeros(len(mask), np.int64)
    firsts = np.zeros(len(mask), np.int64)
    tokens = mask.sum(1)
    for name, counts in inner.items():
        if counts.ndim == 3:
            by_token = counts.sum(-1, dtype=np.int64)
            by_layer[name], firsts = (by_token * mask).sum(1), by_token[:, 0]
            neurons += counts.shape[-1] * tokens
        else:
            by_layer[name] = counts.reshape(len(mask), -1).sum(1, dtype=np.int64)
            neurons += counts[0].size
    for row, total in enumerate(spent):
        spikes = {name: int(found[row]) for name, found in by_layer.items()}
        total.steps += steps
        total.rate += sum(spikes.values()) / int(neurons[row])
        if sizes is not None:
            energy = spiking_bert_energy(sizes, int(tokens[row]), spikes, int(firsts[row]), passes)
            # A text that is run again is still one pass of the float network.
            before = energy if total.energy is None else Energy(total.energy.spiking + energy.spiking, energy.dense)
            total.energy = before
