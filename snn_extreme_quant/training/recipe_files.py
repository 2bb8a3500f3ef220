"""Recipes as TOML files: read, changed by ``--set``, and checked key by key before anything runs."""

from __future__ import annotations

import itertools
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from snn_extreme_quant.data import GLUE, Task
from snn_extreme_quant.data.tasks import task_named
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.registry import suggest
from snn_extreme_quant.training.recipe import Augment, Base, LossWeights, Recipe, Stage, Start, TrainOptions
from snn_extreme_quant.training.recipe_text import Holdout, TextTask, Tokens

__all__ = ["load_recipe", "shipped_recipes"]

_T = TypeVar("_T")
_TASK_KEYS = ("name", "data", "max_tokens", "text", "pair", "label", "labels", "regression", "metrics", "dev")
#: Keys of [task] for dev rows out of the training table.
_HOLDOUT = ("table", "holdout", "fold")


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
        values[key] = _typed(value, hints[key], f"{where} {key}")
    return cls(**values)


#: What a key of each type may be, and how that is said; a list stands for a tuple.
_KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    int: (lambda value: type(value) is int, "a whole number"),
    float: (lambda value: type(value) in (int, float) and abs(value) <= sys.float_info.max, "a number that is finite"),
    bool: (lambda value: type(value) is bool, "true or false"),
    str: (lambda value: isinstance(value, str), "a text"),
    str | None: (lambda value: isinstance(value, str), "a text"),
    tuple[str, ...]: (lambda value: _all(value, str), "a text, or a list of texts"),
    tuple[int, ...]: (lambda value: _all(value, int), "a list of whole numbers"),
}


def _all(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(part) is kind for part in value)


def _typed(value: Any, hint: Any, where: str) -> Any:
    """Return a value as a dataclass has it; raises :class:`ConfigError` where it is of another type."""
    if hint == tuple[str, ...] and isinstance(value, str):
        value = [value]  # one text where a list of them may stand
    fits, remedy = _KINDS.get(hint, (lambda _: True, ""))
    if not fits(value):
        raise ConfigError(f"{where} = {value!r}: use {remedy}.")
    return tuple(value) if isinstance(value, list) else value


def _check_sections(data: Mapping[str, Any]) -> None:
    """Refuse sections that are unknown or no tables, and what has the wrong type in those that are no dataclass."""
    sections = {"task", "teacher", "student", "start", "base", "gpt", "tokens", "train", "augment", "stage"}
    for key, section in data.items():
        if key not in sections:
            raise ConfigError(f"The recipe has no section [{key}]. {suggest(key, sections)}")
        if key == "stage" and not (isinstance(section, list) and all(isinstance(part, dict) for part in section)):
            raise ConfigError("The recipe's stages are tables: [[stage]].")
        if key != "stage" and not isinstance(section, Mapping):
            raise ConfigError(f"[{key}] is a table, not {section!r}.")
    layers, longest = data.get("student", {}).get("layers", 0), data.get("task", {}).get("max_tokens", 0)
    if not all(type(layer) is int for layer in (layers if isinstance(layers, list) else [layers])):
        raise ConfigError(f"[student] layers = {layers!r}: use a whole number, or a list of them.")
    if type(longest) is not int:
        raise ConfigError(f"[task] max_tokens = {longest!r}: use a whole number.")
    for section, key in (("task", "data"), ("task", "name"), ("teacher", "path"), ("teacher", "cache")):
        value = data.get(section, {}).get(key, "")
        if not isinstance(value, str):
            raise ConfigError(f"[{section}] {key} = {value!r}: use a text.")


def _recipe(data: Mapping[str, Any]) -> Recipe:
    _check_sections(data)
    task = dict(data.get("task", {}))
    gpt = data.get("gpt")
    text = _text(task) if gpt is not None and task.get("name") == "text" else None
    given = {key: task.pop(key) for key in _HOLDOUT if gpt is not None and text is None and key in task}
    holdout = _build(Holdout, given, "[task]") if given else None
    for key in task if text is None else ():
        if key not in _TASK_KEYS:
            raise ConfigError(f"[task] has no key {key!r}. {suggest(key, _TASK_KEYS)}")
    if holdout is not None and "dev" in task:
        raise ConfigError("[task] dev names a table, and holdout takes dev rows from the other: leave one of them out.")
    if "data" not in task:
        raise ConfigError('[task] data is missing: a folder with train.tsv and dev.tsv, or "hub".')
    teacher = dict(data.get("teacher", {}))
    if gpt is None and "tokens" in data:
        raise ConfigError("[tokens] is for [gpt]: a teacher brings its tokenizer.")
    if set(teacher) - {"path", "cache"} or ("path" not in teacher and "base" not in data and gpt is None):
        raise ConfigError("[teacher] has the keys path (needed) and cache; or give [base] to fine-tune a teacher.")
    student = dict(data.get("student", {}))
    layers = student.pop("layers", None)
    stages = []
    for number, stage in enumerate(_named(data.get("stage", ()))):
        where = f"[[stage]] {number}"
        default = {} if gpt is None else {"labels": 1.0}
        loss = _build(LossWeights, stage.get("loss", default), f"{where} loss")
        stages.append(_build(Stage, {**stage, "loss": loss}, where))
    return Recipe(
        task=_task(task) if text is None else Task("text", metrics=("bits_per_character",)),
        data=str(task["data"]),
        teacher=str(teacher.get("path", "")),
        base=_build(Base, data["base"], "[base]") if "base" in data else None,
        gpt=None if gpt is None else dict(gpt),
        text=text,
        holdout=holdout,
        tokens=_build(Tokens, data.get("tokens", {}), "[tokens]"),
        max_tokens=task.get("max_tokens", 64),
        cache=str(teacher.get("cache", "none")),
        layers=tuple(layers) if isinstance(layers, list) else layers,
        student=student,
        start=_build(Start, data["start"], "[start]") if "start" in data else None,
        train=_build(TrainOptions, data.get("train", {}), "[train]"),
        augment=_build(Augment, data.get("augment", {}), "[augment]"),
        stages=tuple(stages),
    )


def _named(stages: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Name the stages without a name: train, train-2, ..."""
    given = list(stages)
    taken = [stage["name"] for stage in given if "name" in stage]
    for stage in given:
        if "name" in stage:
            yield stage
            continue
        free = itertools.chain(["train"], (f"train-{number}" for number in itertools.count(2)))
        name = next(name for name in free if name not in taken)
        taken.append(name)
        yield {**stage, "name": name}


def _text(task: Mapping[str, Any]) -> TextTask:
    return _build(TextTask, {key: value for key, value in task.items() if key not in ("name", "data")}, "[task]")


def _task(data: Mapping[str, Any]) -> Task:
    given = {key: value for key, value in data.items() if key not in ("data", "max_tokens")}
    known = task_named(given["name"]) if given.get("name") in GLUE or set(given) == {"name"} else None
    if known is None:
        return _build(Task, {"name": "own", **given}, "[task]")
    if given.get("regression", known.regression) != known.regression:
        raise ConfigError(f"[task] regression does not fit {known.name!r}; leave name out, or choose another.")
    changed = _build(Task, given, "[task]")
    return replace(known, **{key: getattr(changed, key) for key in given})
