"""What the loop trains: a student at its teacher, with its data, evaluation and files; fine-tuning is the other job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from snn_extreme_quant.data import Batch, Rows, Sentences, read_rows, read_text
from snn_extreme_quant.data.tasks import LABEL_NAMES
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.teacher import load_teacher, load_tokenizer, teacher_layers
from snn_extreme_quant.models.config import weights_from_data
from snn_extreme_quant.training.augmentation import Augmenter, Vocabulary
from snn_extreme_quant.training.distillation import Distiller, Teacher, TeacherOutputs
from snn_extreme_quant.training.evaluation import evaluate, over_time_steps
from snn_extreme_quant.training.recipe import Recipe, Stage
from snn_extreme_quant.training.start import take_start
from snn_extreme_quant.training.teacher_cache import CachedTeacher

__all__ = ["Distillation", "Job", "Place", "read_task", "refuse_labels", "refuse_length"]

_STEPS_MEASURED = (4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Place:
    """Where a run computes.

    Args:
        folder: its files.
        device: of the models.
        first: whether this process goes first in what one of them does for all.
        wait: waits for the other processes.
    """

    folder: Path
    device: torch.device
    first: bool
    wait: Any


class Job(Protocol):
    """What the loop asks of a job."""

    @property
    def model(self) -> nn.Module:
        """Takes a batch, what a teacher says of it, the weights of the losses and the batch's shares; gives losses."""

    @property
    def trained(self) -> nn.Module:
        """Whose parameters ``freeze`` names."""

    def begin(self, stage: Stage) -> None:
        """Make the model ready for a stage."""

    def sentences(self, stage: Stage) -> Sentences:
        """Return what a stage's batches are made of."""

    def batch(self, batch: Batch, stage: Stage, seed: Sequence[int]) -> Batch:
        """Return the batch as it is to be trained on."""

    def outputs(self, batch: Batch) -> TeacherOutputs:
        """Return what the teacher of the stage says of a batch."""

    def evaluate(self) -> dict[str, float]:
        """Return dev figures."""

    def keep(self, name: str) -> None:
        """Write the model."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs besides the model's tensors."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back, before the tensors are."""

    def finish(self) -> dict[int, dict[str, float]]:
        """Return dev figures at other numbers of time steps."""


def read_task(recipe: Recipe, tokenizer: Any) -> tuple[Rows, Sentences, Sentences]:
    """Return the training rows, and training and dev sentences, of a recipe."""
    rows = read_rows(recipe.task, recipe.data, "train", labelled=any(stage.loss.labels for stage in recipe.stages))
    dev = read_rows(recipe.task, recipe.data, recipe.task.dev)
    sentences = (Sentences.tokenise(part, tokenizer, recipe.max_tokens) for part in (rows, dev))
    train, measured = sentences
    return rows, train, measured


def refuse_labels(recipe: Recipe, classes: int, *splits: Sentences) -> None:
    """Raise :class:`ConfigError` where labels do not fit a model's outputs."""
    largest, task = max(split.labels.max() for split in splits), recipe.task
    names = task.labels or LABEL_NAMES.get(task.name, ())
    # Numbers beyond the names are of a table of one's own, of which the names say nothing.
    others = 0 < len(names) != classes and largest < len(names)
    if classes != 1 if task.regression else classes <= largest or others:
        raise ConfigError(
            f"The teacher has {classes} outputs, which do not fit the {f'{len(names)} ' if others else ''}labels of"
            f" {task.name!r}; give a teacher of this task, or set classes in [student] where the teacher has no"
            " classifier."
        )


def refuse_length(recipe: Recipe, bert: Any, source: str, *splits: Sentences) -> None:
    """Raise :class:`ConfigError` where a sentence is longer than a BERT's table of positions, or of a text may be."""
    positions = bert.config.max_position_embeddings
    longest = max(int(np.diff(split.starts).max(initial=0)) for split in splits)
    if any(stage.text for stage in recipe.stages):
        longest = recipe.max_tokens  # its lines are cut to that
    if longest > positions:
        raise ConfigError(
            f"[task] max_tokens={recipe.max_tokens}: {source} has {positions} positions, and there are longer sentences"
            f" or texts; use max_tokens = {positions} or less."
        )


@dataclass
class _Current:
    """What belongs to the stage that runs."""

    teacher: Teacher | CachedTeacher | None = None
    augmenter: Augmenter | None = None
    texts: dict[tuple[str, ...], Sentences] = field(default_factory=dict)


class Distillation:
    """A student that learns from its teacher.

    Args:
        recipe: what to do.
        place: where.
    """

    def __init__(self, recipe: Recipe, place: Place) -> None:
        """Read the data, load the teacher, make the student."""
        self.recipe, self.place = recipe, place
        self.tokenizer = load_tokenizer(recipe.teacher)
        rows, self.train, self.dev = read_task(recipe, self.tokenizer)
        teacher = load_teacher(recipe.teacher)
        refuse_length(recipe, teacher, recipe.teacher, self.train, self.dev)
        student = SpikingBert.from_teacher(
            recipe.teacher, recipe.layers, _spread(rows, recipe.train.calibration), **recipe.student
        )
        if recipe.start is not None:
            take_start(student, recipe.start)
        refuse_labels(recipe, student.config.classes, self.train, self.dev)
        self.width = teacher.config.hidden_size
        self.teachers = {recipe.teacher: teacher.to(place.device)}
        self.model = Distiller(student, self.width, recipe.task.regression)
        self.trained = self.student = student
        self._now = _Current()
        for stage in recipe.stages:
            self._check(stage)
            self.sentences(stage)  # what cannot be read is better said now

    def begin(self, stage: Stage) -> None:
        """Set precision and mode, load the stage's teacher."""
        student = self.student
        if stage.weights != "" and weights_from_data(stage.weights) != student.config.weights:
            student.set_weights(stage.weights)
        student.mode = stage.mode  # type: ignore[assignment]
        self._now.teacher = self._teacher(stage) if stage.loss.needs_teacher else None
        self._now.augmenter = None
        if stage.augment:
            table = self._model(stage).get_input_embeddings().weight.detach()
            options = self.recipe.augment
            self._now.augmenter = Augmenter.of(self.tokenizer, table, self.sentences(stage), options, stage.augment)

    def _check(self, stage: Stage) -> None:
        """Refuse a stage that cannot run, before the first one does."""
        self.student.mode = stage.mode  # type: ignore[assignment]
        self.student.mode = "simulated"
        if stage.loss.needs_teacher:
            self._levels(stage)
        if stage.loss.logits:
            self._check_logits(stage)
        if stage.augment:
            size = self._model(stage).get_input_embeddings().num_embeddings
            Vocabulary.of(self.tokenizer, size).check(self.recipe.augment)

    def _check_logits(self, stage: Stage) -> None:
        """Refuse a teacher whose logits are not there, or are of other classes than the student's."""
        source, ours = stage.teacher or self.recipe.teacher, self.student.config.classes
        classifier = getattr(self._model(stage), "classifier", None)
        if classifier is None:
            raise ConfigError(
                f"stage {stage.name!r}: loss.logits compares with a classifier, and teacher {source} has none; set"
                " logits = 0, or name a teacher that was fine-tuned for the task."
            )
        if classifier.out_features != ours:
            raise ConfigError(
                f"stage {stage.name!r}: teacher {source} has {classifier.out_features} outputs, the student {ours}:"
                " their logits cannot be compared; set logits = 0, or name a teacher of this task."
            )

    def _levels(self, stage: Stage) -> tuple[int, ...]:
        """Return which of the teacher's levels are compared with the student's."""
        depth, ours = self._model(stage).config.num_hidden_layers, len(self.student.encoder)
        own = depth == self.teachers[self.recipe.teacher].config.num_hidden_layers
        levels = stage.loss.layer_map or (0, *teacher_layers(self.recipe.layers if own else ours, depth))
        if len(levels) != ours + 1:
            raise ConfigError(f"stage {stage.name!r}: layer_map needs {ours + 1} levels, from the input on.")
        if not all(0 <= level <= depth for level in levels):
            raise ConfigError(
                f"stage {stage.name!r}: layer_map={list(levels)}: the teacher has the levels 0 to {depth}."
            )
        if stage.loss.scores and 0 in levels[1:]:
            raise ConfigError(
                f"stage {stage.name!r}: layer_map={list(levels)}: level 0, the embeddings, has no attention scores;"
                " name a layer from 1 after the first entry, or set scores = 0."
            )
        return levels

    def _teacher(self, stage: Stage) -> Teacher | CachedTeacher:
        model = self._model(stage)
        teacher = Teacher(model, self._levels(stage), stage.loss.hidden > 0, stage.loss.scores > 0)
        if self.recipe.cache == "none" or stage.augment or stage.text or stage.teacher:
            return teacher
        place = self.place
        if not place.first:
            place.wait()
        cached = CachedTeacher(teacher, self.train, place.folder / "teacher_outputs", self.recipe.train.precision)
        if place.first:
            place.wait()
        return cached

    def _model(self, stage: Stage) -> Any:
        source = stage.teacher or self.recipe.teacher
        if source not in self.teachers:
            model = load_teacher(source)
            refuse_length(self.recipe, model, f"stage {stage.name!r}: teacher {source}", self.train, self.dev)
            found = (model.config.hidden_size, model.config.vocab_size)
            if found != (self.width, self.student.config.vocab):
                raise ConfigError(
                    f"stage {stage.name!r}: teacher {source} has width {found[0]} and vocabulary {found[1]}, but"
                    f" [teacher] has {self.width} and {self.student.config.vocab}; they must agree."
                )
            if stage.loss.scores and model.config.num_attention_heads != self.student.config.heads:
                raise ConfigError(
                    f"stage {stage.name!r}: teacher {source} has {model.config.num_attention_heads} heads, the student"
                    f" {self.student.config.heads}: their scores cannot be compared; set scores = 0."
                )
            self.teachers[source] = model.to(self.place.device)
        return self.teachers[source]

    def sentences(self, stage: Stage) -> Sentences:
        """Return the training sentences, or those of the stage's plain text."""
        if not stage.text:
            return self.train
        if stage.text not in self._now.texts:
            lines = read_text(stage.text)
            self._now.texts[stage.text] = Sentences.of_text(lines, self.tokenizer, self.recipe.max_tokens)
        return self._now.texts[stage.text]

    def batch(self, batch: Batch, stage: Stage, seed: Sequence[int]) -> Batch:  # noqa: ARG002 - the loop's signature
        """Return the batch, augmented where the stage asks for it."""
        return batch if self._now.augmenter is None else self._now.augmenter(batch, seed)

    def outputs(self, batch: Batch) -> TeacherOutputs:
        """Return what the stage's teacher says."""
        return TeacherOutputs(None, None, None) if self._now.teacher is None else self._now.teacher(batch)

    def evaluate(self) -> dict[str, float]:
        """Return the task's metrics and the firing rate on the dev set."""
        result = evaluate(self.student, self.dev, self.recipe.task)
        return {**result.metrics, "firing_rate": result.firing_rate}

    def keep(self, name: str) -> None:
        """Write the student, with its tokenizer."""
        self.student.save_pretrained(self.place.folder / name)
        self.tokenizer.save_pretrained(self.place.folder / name)

    def state(self) -> dict[str, Any]:
        """Return the precision that the student has."""
        return {"weights": self.student.config.to_dict()["weights"]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the precision back."""
        self.student.set_weights(state["weights"])

    def finish(self) -> dict[int, dict[str, float]]:
        """Return dev figures at 4 to 64 time steps."""
        return over_time_steps(self.student, self.dev, self.recipe.task, _STEPS_MEASURED)


def _spread(rows: Rows, count: int) -> list[str] | list[tuple[str, str]]:
    """Return so many sentences, or pairs, spread over all rows."""
    stride = max(1, len(rows) // count)
    texts = rows.texts[::stride][:count]
    return texts if rows.pairs is None else list(zip(texts, rows.pairs[::stride][:count], strict=True))
