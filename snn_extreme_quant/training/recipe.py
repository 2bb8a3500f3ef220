"""Recipes: a training run as data, read from TOML, checked before anything runs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from snn_extreme_quant.data import Task
from snn_extreme_quant.data.tasks import task_named
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models.config import weights_from_data
from snn_extreme_quant.registry import suggest

__all__ = ["LossWeights", "Recipe", "Stage", "TrainOptions", "load_recipe", "shipped_recipes"]

_T = TypeVar("_T")
_TASK_KEYS = ("name", "data", "max_tokens", "text", "pair", "label", "labels", "regression", "metrics", "dev")


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


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Args:
        name: how the log calls it.
        epochs: its length in epochs; or ``steps``, in steps of the optimiser.
        steps: 0 takes ``epochs``.
        lr: the highest learning rate.
        threshold_lr: of the logarithms of thresholds; 0 takes ``lr``.
        warmup: the part of the steps in which the rate rises.
        schedule: then it falls to 0 (``"linear"``) or stays (``"constant"``).
        weights: the precision from this stage on, as ``SpikingBertConfig.weights``; empty: as it was.
        mode: of the student, ``"simulated"``, ``"equilibrium"`` or ``"surrogate"``.
        freeze: shell patterns of parameters that stay as they are.
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
    loss: LossWeights = LossWeights()

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if (self.epochs > 0) == (self.steps > 0):
            raise ConfigError(f"stage {self.name!r}: give epochs or steps, one of them, above 0.")
        for name, good in (
            ("lr", self.lr > 0),
            ("warmup", 0 <= self.warmup < 1),
            ("threshold_lr", self.threshold_lr >= 0),
        ):
            if not good:
                raise ConfigError(f"stage {self.name!r}: {name}={getattr(self, name)} is out of range.")
        if self.schedule not in ("linear", "constant"):
            raise ConfigError(f"stage {self.name!r}: schedule={self.schedule!r}; use 'linear' or 'constant'.")
        if not any((self.loss.hidden, self.loss.scores, self.loss.logits, self.loss.labels)):
            raise ConfigError(f"stage {self.name!r}: all weights in [stage.loss] are 0; give one of them.")
        if self.weights != "":
            weights_from_data(self.weights)


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
        for name, least in (("batch", 1), ("accumulate", 1), ("eval_every", 0), ("save_every", 0), ("calibration", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"[train] {name}={getattr(self, name)}: use {least} or more.")
        if self.batch % self.accumulate:
            raise ConfigError(f"[train] accumulate={self.accumulate} does not divide batch={self.batch}.")


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    Args:
        task: texts, labels and metrics.
        data: a folder of tables, or ``"hub"``.
        max_tokens: longer sentences are truncated.
        teacher: a folder or hub id.
        cache: whether the teacher's outputs are kept: ``"none"`` or ``"all"``.
        layers: of the teacher that the student has; None: all.
        student: fields of :class:`~snn_extreme_quant.models.SpikingBertConfig`.
        train: what all stages share.
        stages: in order.
    """

    task: Task
    data: str
    teacher: str
    max_tokens: int = 64
    cache: str = "none"
    layers: int | tuple[int, ...] | None = None
    student: Mapping[str, Any] = field(default_factory=dict)
    train: TrainOptions = TrainOptions()
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not self.stages:
            raise ConfigError("The recipe has no [[stage]].")
        if self.cache not in ("none", "all"):
            raise ConfigError(f"[teacher] cache={self.cache!r}: use 'none' or 'all'.")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data that tells runs apart."""
        return asdict(self)


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    folder = Path(str(resources.files("snn_extreme_quant.training") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(source: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: a TOML file, or the name of a recipe that comes with the package.
        changes: values to set instead, as ``"train.seed=1"`` or ``"stage.0.steps=10"``; the value is TOML, or else
            text.

    Raises:
        ConfigError: the recipe cannot be read; a key is unknown; a value means nothing.
    """
    path = Path(source)
    if path.suffix != ".toml" or not path.exists():
        shipped = shipped_recipes()
        if path.stem not in shipped or (path.suffix == ".toml" and len(path.parts) > 2):
            raise ConfigError(f"There is no recipe {str(source)!r}: no such file. {suggest(path.stem, shipped)}")
        path = shipped[path.stem]
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"The recipe {path} cannot be read: {error}.") from error
    for change in changes:
        _change(data, change)
    return _recipe(data)


def _change(data: Any, change: str) -> None:
    name, found, text = change.partition("=")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = name.split(".")
    place = data
    try:
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
        if not found or not isinstance(place, dict):
            raise TypeError
        place[last] = value
    except (IndexError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"--set {change!r}: write it as train.seed=1 or stage.0.steps=10.") from error


def _build(cls: type[_T], data: Any, where: str) -> _T:
    """Build a dataclass, with errors that name the key."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} is no table.")
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    values = {}
    for key, value in data.items():
        if key not in known:
            raise ConfigError(f"{where} has no key {key!r}. {suggest(key, known)}")
        hint = hints[key]
        right = {int: int, float: (int, float), str: str}.get(hint, object)
        if not isinstance(value, right) or (isinstance(value, bool) and hint in (int, float)):  # type: ignore[arg-type]
            raise ConfigError(f"{where} {key} = {value!r}: use a value of type {hint.__name__}.")
        values[key] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def _recipe(data: Mapping[str, Any]) -> Recipe:
    sections = {"task", "teacher", "student", "train", "stage"}
    for key in data:
        if key not in sections:
            raise ConfigError(f"The recipe has no section [{key}]. {suggest(key, sections)}")
    task = dict(data.get("task", {}))
    for key in task:
        if key not in _TASK_KEYS:
            raise ConfigError(f"[task] has no key {key!r}. {suggest(key, _TASK_KEYS)}")
    if "data" not in task:
        raise ConfigError('[task] data is missing: a folder with train.tsv and dev.tsv, or "hub".')
    teacher = dict(data.get("teacher", {}))
    if set(teacher) - {"path", "cache"} or "path" not in teacher:
        raise ConfigError("[teacher] has the keys path (needed) and cache.")
    student = dict(data.get("student", {}))
    layers = student.pop("layers", None)
    stages = []
    for number, stage in enumerate(data.get("stage", ())):
        where = f"[[stage]] {number}"
        loss = _build(LossWeights, stage.get("loss", {}), f"{where} loss")
        stages.append(_build(Stage, {**stage, "loss": loss}, where))
    return Recipe(
        task=_task(task),
        data=str(task["data"]),
        teacher=str(teacher["path"]),
        max_tokens=int(task.get("max_tokens", 64)),
        cache=str(teacher.get("cache", "none")),
        layers=tuple(layers) if isinstance(layers, list) else layers,
        student=student,
        train=_build(TrainOptions, data.get("train", {}), "[train]"),
        stages=tuple(stages),
    )


def _task(data: Mapping[str, Any]) -> Task:
    columns = {key: value for key, value in data.items() if key not in ("data", "max_tokens")}
    if set(columns) == {"name"}:
        return task_named(columns["name"])
    return _build(Task, {"name": "own", **columns}, "[task]")
