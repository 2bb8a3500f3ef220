"""What measures a model, example by example or as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn_extreme_quant.data import Batch, Sentences, collate
from snn_extreme_quant.errors import ConfigError, DataError
from snn_extreme_quant.models import SpikeGPT, SpikingBert

__all__ = [
    "Classification",
    "Evaluator",
    "SentenceClassification",
    "TextPerplexity",
    "WholeModel",
    "evaluator_of",
    "text_logits",
]

Numbers = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
#: Sentences, or streams of a text, that go through the model together.
_BATCH = 32
#: Tokens of a stream that go through the model together; more change nothing but the memory.
_PIECE = 256


@runtime_checkable
class Evaluator(Protocol):
    """Measures a model on examples; ``docs/search.md`` (Evaluation) says what the search asks of one."""

    metric: str
    examples: int

    def scores(self, model: nn.Module, rows: Rows) -> Numbers:
        """Return a number for each of these examples: 0 or 1 where the metric is accuracy, nats for perplexity."""

    def reduce(self, scores: Numbers) -> float:
        """Return the metric of the scores of all examples."""

    def fingerprint(self) -> str:
        """Return text that changes with the data."""


class WholeModel:
    """A function that gives the metric itself: one example, which cannot be looked at in parts.

    Args:
        function: of the model.
        metric: ``"accuracy"`` (in percent) or ``"perplexity"``.
    """

    examples = 1

    def __init__(self, function: Callable[[nn.Module], float], metric: str) -> None:
        """Keep the function."""
        self.function, self.metric = function, metric

    def scores(self, model: nn.Module, rows: Rows) -> Numbers:  # noqa: ARG002 - the Protocol's signature
        """Return the metric."""
        return np.array([float(self.function(model))])

    def reduce(self, scores: Numbers) -> float:
        """Return it again."""
        return float(scores[0])

    def fingerprint(self) -> str:
        """Return what the function says of its data, if it does; the baseline tells the rest."""
        own = getattr(self.function, "fingerprint", None)
        return str(own()) if callable(own) else "a function"


class Classification:
    """Accuracy of any model.

    Args:
        logits: of a model and the numbers of examples, ``(n, classes)``.
        labels: ``(N,)``.

    Raises:
        ConfigError: there are no labels.

    Example:
        >>> x, y = torch.eye(3), torch.tensor([0, 1, 1])
        >>> evaluator = Classification(lambda model, rows: model(x[rows]), y)
        >>> evaluator.scores(nn.Identity(), np.arange(3)).tolist()
        [1.0, 1.0, 0.0]
    """

    metric = "accuracy"

    def __init__(self, logits: Callable[[nn.Module, Rows], Any], labels: Any) -> None:
        """Keep both."""
        self.logits = logits
        self.labels = np.asarray(labels).astype(np.int64)
        self.examples = len(self.labels)
        if self.labels.ndim != 1 or not self.examples:
            raise ConfigError(f"Classification takes labels (N,), N from 1; got the shape {self.labels.shape}.")

    def scores(self, model: nn.Module, rows: Rows) -> Numbers:
        """Return 1 where the largest logit is the label's, else 0; logits of NaN give NaN.

        Raises:
            DataError: the logits have no ``(n, classes)``.
        """
        logits = self._logits(model, rows)
        right = (logits.argmax(-1) == torch.from_numpy(self.labels[rows])).double()
        right[logits.isnan().any(-1)] = torch.nan
        return cast("Numbers", right.numpy())

    def witness(self, model: nn.Module, rows: Rows) -> Numbers:
        """Return the cross-entropy of each label: equal answers may hide another model or other data.

        A label that is no class counts as the nearest one.
        """
        logits = self._logits(model, rows)
        labels = torch.from_numpy(self.labels[rows]).clamp(0, logits.shape[1] - 1)
        return cast("Numbers", F.cross_entropy(logits, labels, reduction="none").nan_to_num().numpy())

    def _logits(self, model: nn.Module, rows: Rows) -> Tensor:
        logits = torch.as_tensor(self.logits(model, rows)).double().cpu()
        if logits.dim() != 2 or len(logits) != len(rows):
            raise DataError(
                f"The logits of {len(rows)} examples have the shape {tuple(logits.shape)}, not (n, classes)."
            )
        return logits

    def reduce(self, scores: Numbers) -> float:
        """Return the accuracy in percent."""
        return 100.0 * float(scores.mean())

    def fingerprint(self) -> str:
        """Return a hash of the labels; what the model reads :meth:`witness` tells."""
        return _hash(self.labels)


class SentenceClassification(Classification):
    """Accuracy of a SpikingBert, or of a SpikeGPT that classifies, on sentences.

    Args:
        sentences: with labels.
    """

    def __init__(self, sentences: Sentences) -> None:
        """Keep the sentences."""
        self.sentences = sentences
        super().__init__(self._run, sentences.labels)

    def _run(self, model: nn.Module, rows: Rows) -> Numbers:
        order = np.argsort(self.sentences.lengths[rows], kind="stable")
        found: list[Tensor] = []
        device = next(model.parameters()).device
        for start in range(0, len(rows), _BATCH):
            batch = collate(self.sentences, rows[order[start : start + _BATCH]]).to(device)
            found.append(text_logits(model, batch).double().cpu())
        logits = torch.cat(found)
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return cast("Numbers", logits[back].numpy())

    def fingerprint(self) -> str:
        """Return a hash of tokens and labels."""
        data = self.sentences
        return _hash(data.ids, data.types, data.starts, data.labels)


def text_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return the logits of a batch, as the model is deployed."""
    if isinstance(model, SpikingBert):
        mode, model.mode = model.mode, "simulated"
        try:
            return cast("Tensor", model(batch.ids, batch.mask, batch.types))
        finally:
            model.mode = mode
    return cast("Tensor", model(batch.ids, batch.mask))


class TextPerplexity:
    """Perplexity of a SpikeGPT on a text, cut into equal streams as ``text_figures`` does; a stream is an example.

    Args:
        ids: tokens of the text.
        streams: how many; each is read from the initial state.

    Raises:
        DataError: a stream has fewer than two tokens.
    """

    metric = "perplexity"

    def __init__(self, ids: npt.NDArray[np.integer[Any]], streams: int = 128) -> None:
        """Cut the text."""
        length = len(ids) // streams if streams > 0 else 0
        if length < 2:
            raise DataError(f"The text has {len(ids)} tokens, fewer than two for each of {streams} streams.")
        self.parts = np.asarray(ids[: streams * length]).astype(np.int64).reshape(streams, length)
        self.examples = streams

    def scores(self, model: nn.Module, rows: Rows) -> Numbers:
        """Return the mean of -ln p over the tokens of each stream but the first."""
        gpt = cast("SpikeGPT", model)
        parts = torch.from_numpy(self.parts[rows]).to(gpt.emb.weight.device)
        found = [self._nats(gpt, batch) for batch in torch.split(parts, _BATCH)]
        return cast("Numbers", (torch.cat(found) / (self.parts.shape[1] - 1)).numpy())

    def _nats(self, model: SpikeGPT, parts: Tensor) -> Tensor:
        length = parts.shape[1]
        state, nats = model.initial_state(len(parts)), torch.zeros(len(parts), dtype=torch.float64)
        for start in range(0, length - 1, _PIECE):
            stop = min(start + _PIECE, length - 1)
            logits, state = model.run(parts[:, start:stop], state)
            losses = F.cross_entropy(logits.transpose(1, 2), parts[:, start + 1 : stop + 1], reduction="none")
            nats += losses.double().sum(-1).cpu()
        return nats

    def reduce(self, scores: Numbers) -> float:
        """Return the perplexity."""
        return float(np.exp(scores.mean()))

    def fingerprint(self) -> str:
        """Return a hash of the tokens."""
        return _hash(self.parts)


def evaluator_of(evaluate: Any, metric: str | None) -> Evaluator:
    """Return an evaluator: the one that was given, or one of a function.

    Raises:
        ConfigError: it is neither, has another metric than was asked for, or no examples.
    """
    if not isinstance(evaluate, Evaluator):
        if not callable(evaluate):
            raise ConfigError(f"evaluate is a function of a model, or an evaluator with scores(); got {evaluate!r}.")
        return WholeModel(evaluate, metric or "accuracy")
    if metric is not None and metric != evaluate.metric:
        raise ConfigError(f"metric={metric!r}, but the evaluator measures {evaluate.metric!r}; leave metric out.")
    if evaluate.examples < 1:
        raise ConfigError("The evaluator has no examples.")
    return evaluate


def _hash(*arrays: npt.NDArray[Any]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
