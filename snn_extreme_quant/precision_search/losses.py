"""Losses for a polish of our language models: labels, and what the model as it was says."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn_extreme_quant.data import Batch, Sentences, Windows, collate
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models import SpikeGPT, SpikingBert
from snn_extreme_quant.precision_search.evaluators import text_logits

__all__ = ["SentenceLoss", "TextLoss"]


class _Batches:
    """Rows in random orders, epoch after epoch, the same for the same step.

    Args:
        rows: how many there are.
        size: of a batch; fewer where there are fewer rows.
        seed: of the orders.
    """

    def __init__(self, rows: int, size: int, seed: int) -> None:
        if type(size) is not int or size < 1:
            raise ConfigError(f"batch={size!r}: use a whole number from 1.")
        self.rows, self.size, self.seed = rows, min(size, rows), seed

    def __call__(self, step: int) -> npt.NDArray[np.int64]:
        """Return the rows of a step; what does not fill a batch at an epoch's end is left out."""
        epoch, place = divmod(step, self.rows // self.size)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
        return order[place * self.size : (place + 1) * self.size].astype(np.int64)


class SentenceLoss:
    """Half the cross-entropy of labels, half that with the classes that the model as it was gives.

    Args:
        model: as it was, a SpikingBert or a SpikeGPT that classifies; a copy is kept.
        sentences: to train on, with labels.
        batch: sentences in a step.
        seed: of their order.

    Raises:
        ConfigError: there is no sentence, or a batch is none.
    """

    def __init__(self, model: nn.Module, sentences: Sentences, *, batch: int = 16, seed: int = 0) -> None:
        """Copy the model."""
        if not len(sentences):
            raise ConfigError("SentenceLoss needs a sentence to train on.")
        self.teacher = copy.deepcopy(model).eval()
        self.sentences, self._batches = sentences, _Batches(len(sentences), batch, seed)

    def __call__(self, model: nn.Module, step: int) -> Tensor:
        """Return the loss of a step's batch."""
        device = next(model.parameters()).device
        batch = collate(self.sentences, self._batches(step)).to(device)
        with torch.no_grad():
            theirs = text_logits(self.teacher.to(device), batch)
        ours = _logits(model, batch)
        return 0.5 * F.cross_entropy(ours, batch.labels.long()) + 0.5 * F.cross_entropy(ours, theirs.softmax(-1))


class TextLoss:
    """Half the cross-entropy of the next token, half that with the tokens that the model as it was expects.

    Args:
        model: as it was, a SpikeGPT with ``head="tokens"``; a copy is kept.
        ids: tokens of a text to train on.
        context: tokens of a window.
        batch: windows in a step.
        seed: of their order.

    Raises:
        ConfigError: a batch is none.
        DataError: the text is shorter than a window.
    """

    def __init__(
        self, model: nn.Module, ids: npt.NDArray[np.integer[Any]], *, context: int = 128, batch: int = 16, seed: int = 0
    ) -> None:
        """Cut the text and copy the model."""
        self.windows = Windows.of(np.asarray(ids).astype(np.int32), context)
        self.teacher = copy.deepcopy(model).eval()
        self._batches = _Batches(len(self.windows), batch, seed)

    def __call__(self, model: nn.Module, step: int) -> Tensor:
        """Return the loss of a step's batch."""
        device = next(model.parameters()).device
        ids = collate(self.windows, self._batches(step)).to(device).ids
        with torch.no_grad():
            theirs, _ = cast("SpikeGPT", self.teacher.to(device)).run(ids[:, :-1])
        ours, _ = cast("SpikeGPT", model).run(ids[:, :-1])
        rows = ours.flatten(0, 1).float()
        labels = F.cross_entropy(rows, ids[:, 1:].flatten())
        return 0.5 * labels + 0.5 * F.cross_entropy(rows, theirs.flatten(0, 1).float().softmax(-1))


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return logits in the model's own mode, with gradients."""
    types = (batch.types,) if isinstance(model, SpikingBert) else ()
    return cast("Tensor", model(batch.ids, batch.mask, *types)).float()
