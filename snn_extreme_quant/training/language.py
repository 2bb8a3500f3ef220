"""Jobs of the loop that train a SpikeGPT, from scratch or from another one: on a text, or on sentences with labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn_extreme_quant.data import (
    Batch,
    Rows,
    Sentences,
    TextTokens,
    Windows,
    read_document,
    read_rows,
    rows_of,
    split_rows,
)
from snn_extreme_quant.data.metrics import measure
from snn_extreme_quant.errors import ConfigError, DataError
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig
from snn_extreme_quant.models.config import weights_from_data
from snn_extreme_quant.training.distillation import Shares, TeacherOutputs, given_logits, label_loss, soft_loss
from snn_extreme_quant.training.evaluation import predictions
from snn_extreme_quant.training.jobs import Place
from snn_extreme_quant.training.recipe import LossWeights, Recipe, Stage
from snn_extreme_quant.training.recipe_text import TextTask
from snn_extreme_quant.training.start import gpt_teacher, take_gpt_start
from snn_extreme_quant.training.text_figures import counted_spikes, text_figures

__all__ = ["LanguageModelling", "TextClassification", "gpt_job", "split_text"]


def _rows(gpt: SpikeGPT, batch: Batch) -> Tensor:
    """Return a row of logits for each prediction: of each token but the first, as the model has them, or each text."""
    if gpt.config.head != "tokens":
        return cast("Tensor", gpt(batch.ids, batch.mask))
    logits: Tensor = gpt(batch.ids[:, :-1])
    return logits.transpose(0, 1).flatten(0, 1)


class _Losses(nn.Module):
    """A model that gives the loss of a batch."""

    def __init__(self, gpt: SpikeGPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(
        self, batch: Batch, teacher: TeacherOutputs, weights: LossWeights, shares: Shares
    ) -> dict[str, torch.Tensor]:
        """Return each loss times its share, unweighted, and their weighted sum as ``"loss"``.

        They are the cross-entropy of the next token, or of the label, and that of a teacher's answer.
        """
        rows = _rows(self.gpt, batch)
        losses: dict[str, Tensor] = {}
        if weights.labels and self.gpt.config.head == "tokens":
            losses["labels"] = F.cross_entropy(rows.float(), batch.ids[:, 1:].T.flatten())
        elif weights.labels:
            losses["labels"] = label_loss(rows, batch.labels, regression=False)
        if weights.logits:
            losses["logits"] = soft_loss(rows, given_logits(teacher), weights.temperature)
        losses = {name: value * shares.rows for name, value in losses.items()}
        total = sum(getattr(weights, name) * value for name, value in losses.items())
        return {"loss": total, **losses}


class _Scratch:
    """What both jobs share."""

    train: Sentences

    def __init__(self, recipe: Recipe, place: Place) -> None:
        self.recipe, self.place = recipe, place
        self.teacher: SpikeGPT | None = None
        self._compared = False

    def tokens_of(self, text: str) -> TextTokens:
        """Return what a token is: as of the model that the run starts from, or made for its text."""
        given, start = self.recipe.tokens, self.recipe.start
        if start is None or not start.takes("emb.weight"):
            return TextTokens.of(given.kind, text, given.vocab, given.path or None)
        found = TextTokens.load(Path(start.path))
        if found.kind != given.kind or given.path:
            raise ConfigError(
                f"[tokens] follow from [start], whose embedding has rows for {found.kind}: give kind={found.kind!r} and"
                ' no path, or leave the table out with take = ["blocks.*", "ln_out.*"].'
            )
        return found

    def build(self, tokens: TextTokens, **decided: Any) -> None:
        """Make the model, and load what it starts from and its teacher; the data decide some of its fields."""
        self.tokens = tokens
        given = dict(self.recipe.gpt or {})
        for name in ("vocab", *decided):
            if name in given and name != "head":
                raise ConfigError(f"[gpt] {name} follows from the data; leave it out.")
        config = SpikeGPTConfig.from_dict({**decided, **given, "vocab": tokens.vocab})
        model = SpikeGPT(config)
        if self.recipe.start is not None:
            take_gpt_start(model, self.recipe.start)
        if self.recipe.teacher:
            self.teacher = gpt_teacher(self.recipe.teacher, config, tokens).to(self.place.device)
        self.trained = self.gpt = model.to(self.place.device)
        self.model = _Losses(self.gpt)

    def begin(self, stage: Stage) -> None:
        """Set the stage's precision."""
        self._compared = stage.loss.logits > 0
        if stage.weights != "" and weights_from_data(stage.weights) != self.gpt.config.weights:
            self.gpt.set_weights(stage.weights)

    def sentences(self, stage: Stage) -> Sentences:  # noqa: ARG002 - the loop's signature
        """Return what batches are made of."""
        return self.train

    def batch(self, batch: Batch, stage: Stage, seed: Sequence[int]) -> Batch:  # noqa: ARG002
        """Return the batch as it is."""
        return batch

    def outputs(self, batch: Batch) -> TeacherOutputs:
        """Return the teacher's logits, where the stage compares with them."""
        if self.teacher is None or not self._compared:
            return TeacherOutputs(None, None, None)
        with torch.no_grad():
            return TeacherOutputs(_rows(self.teacher, batch), None, None)

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
        train, self.dev = split_text(recipe.text, Path(recipe.data))
        tokens = self.tokens_of(train)
        _check_dev(recipe.text, len(tokens.encode(self.dev)))
        self.train = Windows.of(tokens.encode(train), recipe.text.context)
        self.build(tokens)
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
            kind = "scores" if task.regression else "pairs of texts"
            raise ConfigError(
                f"[gpt] gives single texts one of some classes, but the task {task.name!r} has {kind}; train a"
                " spiking BERT on it ([teacher] and [student]), or name a task of single texts such as 'sst2'."
            )
        train, dev = _splits(recipe)
        tokens = self.tokens_of("\n".join(train.texts))
        self.train, self.dev = (rows_of(s.texts, s.labels, tokens, recipe.max_tokens) for s in (train, dev))
        self.classes = len(task.labels) or max(2, 1 + int(max(s.labels.max() for s in (self.train, self.dev))))
        self.build(tokens, head="mean", classes=self.classes)
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


def _check_dev(text: TextTask, count: int) -> None:
    """Refuse a dev text that could not be measured, before the first step."""
    if count // text.streams < 2:
        other = f"a longer text than dev={text.dev!r}" if text.dev else f"a larger [task] holdout than {text.holdout:g}"
        raise DataError(
            f"The dev text has {count} tokens, fewer than two for each of [task] streams={text.streams}: use fewer"
            f" streams, or {other}."
        )


def _splits(recipe: Recipe) -> tuple[Rows, Rows]:
    """Return training and dev rows."""
    task, drawn = recipe.task, recipe.holdout
    if drawn is None:
        return read_rows(task, recipe.data, "train"), read_rows(task, recipe.data, task.dev)
    return split_rows(read_rows(task, recipe.data, drawn.table), drawn.holdout, drawn.fold)


def split_text(task: TextTask, folder: Path) -> tuple[str, str]:
    """Return training and dev text."""
    train = read_document(folder / task.train)
    if task.dev:
        return train, read_document(folder / task.dev)
    cut = round(len(train) * (1.0 - task.holdout))
    return train[:cut], train[cut:]
