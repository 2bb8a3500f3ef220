"""Recipes: a training run as data, checked before anything runs."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from snn_extreme_quant.data import Task
from snn_extreme_quant.data.metrics import METRICS
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models.config import weights_from_data
from snn_extreme_quant.training.recipe_text import Holdout, TextTask, Tokens

__all__ = ["Augment", "Base", "LossWeights", "Recipe", "Stage", "Start", "TrainOptions", "changes_weights"]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses of a stage, and how layers correspond.

    Args:
        hidden: of the carried rates against the teacher's hidden states.
        scores: of the attention scores.
        logits: of the soft cross-entropy.
        labels: of the cross-entropy (regression: squared error) of the labels.
        temperature: of the teacher's logits.
        layer_map: for the input neurons and each student layer, the teacher's (0: its embeddings); empty: the layers
            that the student was made from.
    """

    hidden: float = 0.0
    scores: float = 0.0
    logits: float = 0.0
    labels: float = 0.0
    temperature: float = 1.0
    layer_map: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        for name in ("hidden", "scores", "logits", "labels"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"[stage.loss] {name}={getattr(self, name)}: use 0 or a positive number.")
        if not 0.0 < self.temperature < float("inf"):
            raise ConfigError(f"[stage.loss] temperature={self.temperature}: use a positive number.")

    @property
    def needs_teacher(self) -> bool:
        """Whether one of the losses compares with a teacher."""
        return any((self.hidden, self.scores, self.logits))


@dataclass(frozen=True)
class Augment:
    """How sentences are altered; ``docs/spiking_bert.md`` (Augmentation) has the order.

    Args:
        replace: probability of a word to become one of its nearest in the teacher's embedding table.
        delete: of a word to be left out.
        swap: of a word to change places with the next one.
        neighbours: how many nearest words a word may become.
    """

    replace: float = 0.15
    delete: float = 0.05
    swap: float = 0.05
    neighbours: int = 15

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        for name in ("replace", "delete", "swap"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"[augment] {name}={getattr(self, name)}: use a probability from 0 to below 1.")
        if self.neighbours < 1:
            raise ConfigError(f"[augment] neighbours={self.neighbours}: use 1 or more.")
        if not (self.replace or self.delete or self.swap):
            raise ConfigError("[augment] replace, delete and swap are all 0: nothing would be altered.")


@dataclass(frozen=True)
class Base:
    """What a teacher is fine-tuned from.

    Args:
        path: a folder or hub id of a BERT.
        dropout: in the place of its own.
    """

    path: str = ""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not self.path:
            raise ConfigError("[base] path is missing: a folder or hub id of a BERT.")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"[base] dropout={self.dropout}: use a number from 0 to below 1.")


@dataclass(frozen=True)
class Start:
    """A model that the run starts from: a student, or a SpikeGPT.

    Args:
        path: the folder of an earlier run's model, as ``last/``.
        take: shell patterns of the parameters that are taken; the others start as they would without it.
    """

    path: str = ""
    take: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not self.path:
            raise ConfigError("[start] path is missing: the folder of a model.")
        if not self.take:
            raise ConfigError("[start] take is empty: leave out [start], or name parameters.")

    def takes(self, name: str) -> bool:
        """Whether a parameter is taken."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.take)


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Args:
        name: how the log calls it; no two of a run are the same.
        epochs: its length in epochs; or ``steps``, in steps of the optimiser.
        steps: 0 takes ``epochs``.
        lr: the highest learning rate.
        threshold_lr: of the logarithms of thresholds; 0 takes ``lr``.
        warmup: the part of the steps in which the rate rises.
        schedule: then it falls to 0 (``"linear"``) or stays (``"constant"``).
        weights: the precision from this stage on, as ``SpikingBertConfig.weights``; empty: as it was.
        mode: of the student, ``"simulated"``, ``"equilibrium"`` or ``"surrogate"``.
        freeze: shell patterns of parameters that stay as they are.
        augment: probability of a sentence to be altered (:class:`Augment`).
        text: files of plain text in the place of the training sentences.
        teacher: a folder or hub id in the place of the recipe's; empty: that one.
        loss: weights of the losses.
    """

    name: str = "train"
    epochs: float = 0.0
    steps: int = 0
    lr: float = 4e-4
    threshold_lr: float = 0.0
    warmup: float = 0.05
    schedule: str = "linear"
    weights: Any = ""
    mode: str = "simulated"
    freeze: tuple[str, ...] = ()
    augment: float = 0.0
    text: tuple[str, ...] = ()
    teacher: str = ""
    loss: LossWeights = LossWeights()

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if (self.epochs > 0) == (self.steps > 0):
            raise ConfigError(f"stage {self.name!r}: give epochs or steps, one of them, above 0.")
        for name, good in (
            ("lr", self.lr > 0),
            ("warmup", 0 <= self.warmup < 1),
            ("threshold_lr", self.threshold_lr >= 0),
            ("steps", self.steps >= 0),
            ("epochs", self.epochs >= 0),
            ("augment", 0 <= self.augment <= 1),
        ):
            if not good:
                raise ConfigError(f"stage {self.name!r}: {name}={getattr(self, name)} is out of range.")
        if self.schedule not in ("linear", "constant"):
            raise ConfigError(f"stage {self.name!r}: schedule={self.schedule!r}; use 'linear' or 'constant'.")
        if not any((self.loss.hidden, self.loss.scores, self.loss.logits, self.loss.labels)):
            raise ConfigError(f"stage {self.name!r}: all weights in [stage.loss] are 0; give one of them.")
        if self.weights != "":
            try:
                weights_from_data(self.weights)
            except ConfigError as error:
                raise ConfigError(f"stage {self.name!r}: {error}") from error
        for name in ("augment", "text"):
            if getattr(self, name) and self.loss.labels:
                raise ConfigError(
                    f"stage {self.name!r}: {name} and the loss of labels: there are no labels for such sentences; set"
                    " loss.labels = 0 and let the teacher answer (hidden, scores, logits)."
                )

    def refuse(self, names: tuple[str, ...], what: str, logits: bool = False) -> None:
        """Raise :class:`ConfigError` if one of these fields, the mode or a teacher's loss is given.

        ``logits``: whether that loss may be.
        """
        taken = [name for name in names if getattr(self, name)]
        taken += ["mode"] if self.mode != "simulated" else []
        compared = self.loss.hidden or self.loss.scores or (self.loss.logits and not logits)
        taken += ["loss"] if compared or self.loss.layer_map else []
        if taken:
            raise ConfigError(f"stage {self.name!r}: {taken[0]} has no meaning with {what}.")


def changes_weights(weights: Sequence[Any], number: int) -> bool:
    """Whether a stage has another precision than those before it.

    Args:
        weights: of the stages, as :class:`Stage` has them.
        number: of the stage, from 0.

    Example:
        >>> [changes_weights(["", "ternary", "", "binary"], number) for number in range(4)]
        [False, True, False, True]
    """
    before = [kind for kind in weights[:number] if kind != ""]
    return number > 0 and weights[number] not in ("", *before[-1:])


@dataclass(frozen=True)
class TrainOptions:
    """What all stages share.

    Args:
        seed: of order, dropout and new parameters.
        batch: sentences in a step, over all processes and accumulated parts.
        accumulate: parts a batch is computed in.
        precision: ``"bf16"`` autocast or ``"no"``.
        eval_every: steps between dev figures; 0: at the end of each stage alone.
        save_every: steps between checkpoints; 0: at the end of each stage alone.
        weight_decay: of weight matrices.
        clip: largest norm of the gradient.
        calibration: training sentences from which thresholds start.
    """

    seed: int = 0
    batch: int = 64
    accumulate: int = 1
    precision: str = "bf16"
    eval_every: int = 0
    save_every: int = 0
    weight_decay: float = 0.01
    clip: float = 1.0
    calibration: int = 256

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.precision not in ("bf16", "no"):
            raise ConfigError(f"[train] precision={self.precision!r}: use 'bf16' or 'no'.")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"[train] seed={self.seed}: use a whole number from 0 to 2^63 - 1.")
        for name, least in (("batch", 1), ("accumulate", 1), ("eval_every", 0), ("save_every", 0), ("calibration", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"[train] {name}={getattr(self, name)}: use {least} or more.")
        if self.weight_decay < 0.0:
            raise ConfigError(f"[train] weight_decay={self.weight_decay}: use 0 or a positive number.")
        if not self.clip > 0.0:
            raise ConfigError(f"[train] clip={self.clip}: use a positive number.")
        if self.batch % self.accumulate:
            raise ConfigError(f"[train] accumulate={self.accumulate} does not divide batch={self.batch}.")


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    Args:
        task: texts, labels and metrics.
        data: a folder of tables, or ``"hub"``.
        max_tokens: longer sentences are truncated.
        teacher: a folder or hub id; empty with ``base``.
        base: what a teacher is fine-tuned from, in the place of ``teacher`` and ``student``.
        gpt: fields of :class:`~snn_extreme_quant.models.SpikeGPTConfig`, of a model that is trained from scratch, or
            from ``start``, in the place of ``student`` and ``base``; ``teacher`` is then a SpikeGPT, or empty.
        text: what a ``gpt`` learns to predict; None: the labels of ``task``.
        holdout: dev rows of a ``gpt`` without ``text``, where there is no table of them; None: there is.
        tokens: what a token of ``gpt`` is.
        cache: whether the teacher's outputs are kept: ``"none"`` or ``"all"``.
        layers: of the teacher that the student has; None: all.
        student: fields of :class:`~snn_extreme_quant.models.SpikingBertConfig`.
        start: a student, or a SpikeGPT, that this one starts from; None: the teacher alone, or from scratch.
        train: what all stages share.
        augment: how the stages that ask for it alter sentences.
        stages: in order.
    """

    task: Task
    data: str
    teacher: str = ""
    base: Base | None = None
    gpt: Mapping[str, Any] | None = None
    text: TextTask | None = None
    holdout: Holdout | None = None
    tokens: Tokens = field(default_factory=Tokens)
    max_tokens: int = 64
    cache: str = "none"
    layers: int | tuple[int, ...] | None = None
    student: Mapping[str, Any] = field(default_factory=dict)
    start: Start | None = None
    train: TrainOptions = TrainOptions()
    augment: Augment = Augment()
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not self.stages:
            raise ConfigError("The recipe has no [[stage]].")
        if self.cache not in ("none", "all"):
            raise ConfigError(f"[teacher] cache={self.cache!r}: use 'none' or 'all'.")
        called = [stage.name for stage in self.stages]
        if twice := [name for name in called if called.count(name) > 1]:
            raise ConfigError(f"Two stages are called {twice[0]!r}: the log tells them by their names; use others.")
        for stage in self.stages:
            if self.cache == "all" and stage.loss.scores and not (stage.augment or stage.text or stage.teacher):
                raise ConfigError(
                    f"stage {stage.name!r}: [teacher] cache='all' keeps no attention scores: use cache='none', or"
                    " scores = 0."
                )
        unknown = set(self.task.metrics) - set(METRICS) if self.text is None else set()
        if unknown or not self.task.metrics:
            raise ConfigError(f"[task] metrics={list(self.task.metrics)}: use {', '.join(METRICS)}.")
        names = self.task.labels
        if names and (self.task.regression or len(set(names)) < max(2, len(names))):
            what = "none: a task of regression has no classes" if self.task.regression else "two or more, each once"
            raise ConfigError(f"[task] labels={list(names)}: name {what}.")
        if self.max_tokens < 3:
            raise ConfigError(f"[task] max_tokens={self.max_tokens}: use 3 or more; two are [CLS] and [SEP].")
        if self.gpt is not None:
            self._check_gpt()
        elif self.base is not None:
            self._check_base()
        elif not self.teacher:
            raise ConfigError("The recipe has neither [teacher] path nor [base] path.")

    def _check_gpt(self) -> None:
        """Refuse what has no meaning for a SpikeGPT."""
        if self.student or self.base or self.layers is not None:
            raise ConfigError("[gpt] takes the place of [student] and [base]: leave them out.")
        if self.cache != "none":
            raise ConfigError(f"[teacher] cache={self.cache!r} is for [student]; leave it out with [gpt].")
        for stage in self.stages:
            stage.refuse(("threshold_lr", "augment", "text", "teacher"), "[gpt]", logits=True)
            if stage.loss.logits and not self.teacher:
                raise ConfigError(
                    f"stage {stage.name!r}: loss.logits compares with a teacher; give [teacher] path, the folder of a"
                    " SpikeGPT, or leave the loss out."
                )

    def _check_base(self) -> None:
        """Refuse what only a student has."""
        if self.teacher or self.student or self.start or self.layers is not None:
            raise ConfigError(
                "[base] fine-tunes a teacher: leave out [teacher], [student] and [start], or leave out [base]."
            )
        for stage in self.stages:
            stage.refuse(
                ("weights", "threshold_lr", "augment", "text", "teacher"), "[base], which is trained on labels alone"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data that tells runs apart."""
        return asdict(self)
