"""What a student does on the dev set: metrics and firing rate, in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from snn_extreme_quant.data import Batch, Sentences, Task, collate
from snn_extreme_quant.data.metrics import measure
from snn_extreme_quant.models import SpikingBert

__all__ = ["Evaluation", "evaluate", "over_time_steps", "predictions"]

_BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    """Figures of one split.

    Args:
        metrics: by name.
        firing_rate: mean absolute rate over neurons and tokens.
        predictions: ``(N, classes)``.
    """

    metrics: dict[str, float]
    firing_rate: float
    predictions: Any


class _Rates:
    """The sum of absolute rates, and of how many."""

    def __init__(self) -> None:
        self.total, self.count, self.mask = 0.0, 0, torch.ones(())

    def add(self, neurons: Any, _: Any, output: Tensor) -> None:
        """Add the rates that a layer of neurons gives; pads do not count, nor do the spikes of single steps."""
        if neurons.mode == "surrogate":  # the steps that lead to the rates
            return
        rates = output.abs()
        if rates.dim() == 3:
            rates = rates[self.mask.bool()]
        self.total, self.count = self.total + float(rates.sum()), self.count + rates.numel()


@contextmanager
def _watched(student: SpikingBert) -> Iterator[_Rates]:
    rates = _Rates()
    with ExitStack() as stack:
        for _, neurons in student.named_neurons():
            stack.callback(neurons.register_forward_hook(rates.add).remove)
        yield rates


@torch.no_grad()
def evaluate(student: SpikingBert, sentences: Sentences, task: Task) -> Evaluation:
    """Measure a student in the mode ``"simulated"`` in float32.

    The student's mode and training flag are as before afterwards.
    """
    mode, training = student.mode, student.training
    student.mode = "simulated"
    student.eval()
    device = next(student.parameters()).device
    with _watched(student) as rates:

        def logits_of(batch: Batch) -> Tensor:
            rates.mask = batch.mask
            return student(batch.ids, batch.mask, batch.types)  # type: ignore[no-any-return]

        logits = predictions(logits_of, sentences, student.config.classes, device)
    student.mode = mode
    student.train(training)
    metrics = measure(task, sentences.labels.astype(np.float64), logits)
    return Evaluation(metrics, rates.total / rates.count, logits)


def predictions(
    logits_of: Callable[[Batch], Tensor], sentences: Sentences, classes: int, device: torch.device
) -> npt.NDArray[np.float64]:
    """Return the logits ``(N, classes)`` of all sentences, in their order, computed in batches of similar length."""
    order = np.argsort(sentences.lengths, kind="stable")
    logits = np.zeros((len(sentences), classes))
    for start in range(0, len(order), _BATCH):
        batch = collate(sentences, order[start : start + _BATCH]).to(device)
        logits[batch.rows] = logits_of(batch).double().cpu().numpy()
    return logits


def over_time_steps(
    student: SpikingBert, sentences: Sentences, task: Task, steps: Sequence[int]
) -> dict[int, dict[str, float]]:
    """Measure a student at several numbers of time steps, without training it for them."""
    before = student.config.T
    found = {}
    for T in steps:
        student.set_time_steps(T)
        result = evaluate(student, sentences, task)
        found[T] = {**result.metrics, "firing_rate": result.firing_rate}
    student.set_time_steps(before)
    return found
