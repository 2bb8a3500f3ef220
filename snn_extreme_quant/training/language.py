"""Jobs of the loop that train a SpikeGPT from scratch: on a text, or on sentences with labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from snn_extreme_quant.data import Batch, Sentences, TextTokens, Windows, read_document, read_rows, rows_of
from snn_extreme_quant.data.metrics import measure
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig
from snn_extreme_quant.models.config import weights_from_data
from snn_extreme_quant.training.distillation import Shares, TeacherOutputs, label_loss
from snn_extreme_quant.training.evaluation import predictions
from snn_extreme_quant.training.jobs import Place
from snn_extreme_quant.training.recipe import LossWeights, Recipe, Stage
from snn_extreme_quant.training.recipe_text import TextTask
from snn_extreme_quant.training.text_figures import counted_spikes, text_figures

__all__ = ["LanguageModelling", "TextClassification", "gpt_job"]


class _Losses(nn.Module):
    """A model that gives the loss of a batch."""

    def __init__(self, gpt: SpikeGPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, batch: Batch, _: TeacherOutputs, weights: LossWeights, shares: Shares) -> dict[str, torch.Tensor]:
        """Return the cross-entropy of the next token, or of the label, times its share, and times its weight."""
        if self.gpt.config.head == "tokens":
            logits = self.gpt(batch.ids[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten()) * shares.rows
        else:
            loss = label_loss(self.gpt(batch.ids, batch.mask), batch.labels, regression=False) * shares.rows
        return {"loss": weights.labels * loss, "labels": loss}


class _Scratch:
    """What both jobs share."""

    train: Sentences
    tokens: TextTokens

    def __init__(self, recipe: Recipe, place: Place) -> None:
        self.recipe, self.place = recipe, place

    def build(self, vocab: int, **decided: Any) -> None:
        """Make the model; the data decide some fields of its configuration."""
        given = dict(self.recipe.gpt or {})
        for name in ("vocab", *decided):
            if name in given and name != "head":
                raise ConfigError(f"[gpt] {name} follows from the data; leave it out.")
        config = SpikeGPTConfig.from_dict({**decided, **given, "vocab": vocab})
        self.trained = self.gpt = SpikeGPT(config).to(self.place.device)
        self.model = _Losses(self.gpt)

    def begin(self, stage: Stage) -> None:
        """Set the stage's precision."""
        if stage.weights != "" and weights_from_data(stage.weights) != self.gpt.config.weights:
            self.gpt.set_weights(stage.weights)

    def sentences(self, stage: Stage) -> Sentences:  # noqa: ARG002 - the loop's signature
        """Return what batches are made of."""
        return self.train

    def batch(self, batch: Batch, stage: Stage, seed: Sequence[int]) -> Batch:  # noqa: ARG002
        """Return the batch as it is."""
        return batch

    def outputs(self, batch: Batch) -> TeacherOutputs:  # noqa: ARG002
        """Return nothing: there is no teacher."""
        return TeacherOutputs(None, None, None)

    def keep(self, name: str) -> None:
        """Write the model, with what says what its tokens are."""
        folder = self.place.folder / name
        self.gpt.save_pretrained(folder)
        self.tokens.save(folder)

    def state(self) -> dict[str, Any]:
        """Return the precision that the model has."""
        return {"weights": self.gpt.config.to_dict()["weights"]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the precision back."""
        self.gpt.set_weights(state["weights"])

    def finish(self) -> dict[int, dict[str, float]]:
        """Return nothing: the time steps are the tokens."""
        return {}


class LanguageModelling(_Scratch):
    """A job of the loop: a model that learns to predict a text.

    Args:
        recipe: with ``gpt`` and ``text``.
        place: where.
    """

    def __init__(self, recipe: Recipe, place: Place) -> None:
        """Read the text and make the model."""
        super().__init__(recipe, place)
        assert recipe.text is not None  # noqa: S101 - the caller chose this job by it
        self.text = recipe.text
        train, self.dev = _split(recipe.text, Path(recipe.data))
        self.tokens = TextTokens.of(recipe.tokens.kind, train, recipe.tokens.vocab, recipe.tokens.path or None)
        self.train = Windows.of(self.tokens.encode(train), recipe.text.context)
        self.build(self.tokens.vocab)
        if self.gpt.config.head != "tokens":
            raise ConfigError(f"[gpt] head={self.gpt.config.head!r}: a language model has head='tokens'.")

    def evaluate(self) -> dict[str, float]:
        """Return bits per character, perplexity and firing rate on the dev text."""
        figures = text_figures(self.gpt, self.tokens, self.dev, self.text.streams)
        del figures["tokens"]
        return figures


class TextClassification(_Scratch):
    """A job of the loop: a model that learns a task from its labels alone.

    Args:
        recipe: with ``gpt``, without ``text``.
        place: where.
    """

    def __init__(self, recipe: Recipe, place: Place) -> None:
        """Read the data and make the model."""
        super().__init__(recipe, place)
        task = recipe.task
        if task.pair is not None or task.regression:
            raise ConfigError(f"[gpt] classifies single texts; the task {task.name!r} has pairs of them, or scores.")
        train, dev = (read_rows(task, recipe.data, split) for split in ("train", task.dev))
        text = "\n".join(train.texts)
        self.tokens = TextTokens.of(recipe.tokens.kind, text, recipe.tokens.vocab, recipe.tokens.path or None)
        self.train, self.dev = (rows_of(s.texts, s.labels, self.tokens, recipe.max_tokens) for s in (train, dev))
        self.classes = len(task.labels) or max(2, 1 + int(max(s.labels.max() for s in (self.train, self.dev))))
        self.build(self.tokens.vocab, head="mean", classes=self.classes)
        if self.gpt.config.head == "tokens":
            raise ConfigError("[gpt] head='tokens': a classifier has head='mean' or 'last'.")

    def evaluate(self) -> dict[str, float]:
        """Return the task's metrics and the firing rate on the dev set."""
        training = self.gpt.training
        self.gpt.eval()
        with torch.no_grad(), counted_spikes(self.gpt) as spikes:

            def logits_of(batch: Batch) -> torch.Tensor:
                spikes.mask = batch.mask
                return self.gpt(batch.ids, batch.mask)  # type: ignore[no-any-return]

            logits = predictions(logits_of, self.dev, self.classes, self.place.device)
        self.gpt.train(training)
        figures = measure(self.recipe.task, self.dev.labels.astype("float64"), logits)
        return figures if spikes.rate is None else {**figures, "firing_rate": spikes.rate}


def gpt_job(recipe: Recipe, place: Place) -> LanguageModelling | TextClassification:
    """Make the job of a recipe with ``[gpt]``."""
    return (TextClassification if recipe.text is None else LanguageModelling)(recipe, place)


def _split(task: TextTask, folder: Path) -> tuple[str, str]:
    """Return training and dev text."""
    train = read_document(folder / task.train)
    if task.dev:
        return train, read_document(folder / task.dev)
    cut = round(len(train) * (1.0 - task.holdout))
    return train[:cut], train[cut:]
