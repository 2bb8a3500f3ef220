"""A teacher for a task: a BERT with a classifier, trained on labels alone by the loop that trains students."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.data import Batch, Sentences, Task
from snn_extreme_quant.data.metrics import measure
from snn_extreme_quant.errors import OutputPathError
from snn_extreme_quant.models.bert.base import load_base, silent
from snn_extreme_quant.models.bert.teacher import load_tokenizer
from snn_extreme_quant.training.distillation import Shares, TeacherOutputs, label_loss
from snn_extreme_quant.training.evaluation import predictions
from snn_extreme_quant.training.jobs import Place, read_task, refuse_labels, refuse_length
from snn_extreme_quant.training.recipe import LossWeights, Recipe, Stage

__all__ = ["FineTuning"]


class _Classifier(nn.Module):
    """A BERT of transformers that gives the loss of a batch's labels."""

    def __init__(self, bert: Any, regression: bool) -> None:
        super().__init__()
        self.bert, self.regression = bert, regression

    def logits(self, batch: Batch) -> Tensor:
        """Return ``(B, classes)``."""
        output = self.bert(input_ids=batch.ids, attention_mask=batch.mask, token_type_ids=batch.types)
        logits: Tensor = output.logits
        return logits

    def forward(self, batch: Batch, _: TeacherOutputs, weights: LossWeights, shares: Shares) -> dict[str, Tensor]:
        """Return the loss of the labels times its share, and times its weight as ``"loss"``."""
        loss = label_loss(self.logits(batch), batch.labels, self.regression) * shares.rows
        return {"loss": weights.labels * loss, "labels": loss}


class FineTuning:
    """A job of the loop: a BERT that learns a task from its labels.

    Args:
        recipe: with ``base``.
        place: where.
    """

    def __init__(self, recipe: Recipe, place: Place) -> None:
        """Read the data and load the base."""
        assert recipe.base is not None  # noqa: S101 - the caller chose this job by it
        self.recipe, self.place = recipe, place
        self.tokenizer = load_tokenizer(recipe.base.path)
        _, self.train, self.dev = read_task(recipe, self.tokenizer)
        classes = _classes(recipe.task, self.train, self.dev)
        bert = load_base(recipe.base.path, classes, recipe.base.dropout, recipe.task.labels)
        refuse_labels(recipe, classes, self.train, self.dev)
        refuse_length(recipe, bert, recipe.base.path, self.train, self.dev)
        self.classes = classes
        self.trained = bert.to(place.device)
        self.model = _Classifier(bert, recipe.task.regression)

    def begin(self, stage: Stage) -> None:
        """Stages differ in nothing that the job knows of."""

    def sentences(self, stage: Stage) -> Sentences:  # noqa: ARG002
        """Return the training sentences."""
        return self.train

    def batch(self, batch: Batch, stage: Stage, seed: Sequence[int]) -> Batch:  # noqa: ARG002
        """Return the batch as it is."""
        return batch

    def outputs(self, batch: Batch) -> TeacherOutputs:  # noqa: ARG002
        """Return nothing: there is no teacher."""
        return TeacherOutputs(None, None, None)

    def evaluate(self) -> dict[str, float]:
        """Return the task's metrics on the dev set."""
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            logits = predictions(self.model.logits, self.dev, self.classes, self.place.device)
        self.model.train(training)
        return measure(self.recipe.task, self.dev.labels.astype("float64"), logits)

    def keep(self, name: str) -> None:
        """Write a folder of transformers."""
        folder = self.place.folder / name
        try:
            with silent():
                self.model.bert.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        except OSError as error:
            raise OutputPathError(f"{folder} cannot be written: {error}.") from error

    def state(self) -> dict[str, Any]:
        """Return nothing more."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take nothing more."""

    def finish(self) -> dict[int, dict[str, float]]:
        """Return nothing: a float BERT has no time steps."""
        return {}


def _classes(task: Task, *splits: Sentences) -> int:
    if task.regression:
        return 1
    return len(task.labels) or max(2, 1 + int(max(split.labels.max() for split in splits)))
