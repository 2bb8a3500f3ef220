"""What a folder of ``sxq train`` tells of its run, without the places of the machine that it ran on."""

from __future__ import annotations

import contextlib
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_extreme_quant.data.tasks import Task
from snn_extreme_quant.errors import CheckpointError
from snn_extreme_quant.training.recipe import changes_weights
from snn_extreme_quant.training.recipe_text import LOWER_IS_BETTER, TextTask

__all__ = ["RunFolder", "logged_seconds", "read_run"]

#: What a card tells of the recipe of a SpikeGPT: of a text without ``max_tokens``.
_OF_LANGUAGE = ("gpt", "text", "tokens", "train", "stages")


@dataclass(frozen=True)
class RunFolder:
    """A run.

    Args:
        task: what it was trained for.
        max_tokens: the longest text.
        data: where its data were.
        facts: recipe, seed, steps and seconds, for a model card.
        text: of a run of language modelling, which text it was.
    """

    task: Task
    max_tokens: int
    data: Path
    facts: dict[str, Any]
    text: TextTask | None = None


def read_run(folder: Path, which: str) -> RunFolder | None:
    """Read a run, finished or not; None if the folder is of none.

    Args:
        folder: where ``sxq train`` wrote.
        which: ``"best"`` or ``"last"``: the model whose steps are told.

    Raises:
        CheckpointError: a file of the run is damaged.
    """
    try:
        result = _object(folder / "result.json")
        recipe: dict[str, Any] | None = result.get("recipe") or _recipe_of_checkpoint(folder / "checkpoint.pt")
        if recipe is None:
            return None
        task = {**recipe["task"], "labels": tuple(recipe["task"]["labels"])}
        task["metrics"] = tuple(task["metrics"])
        log = [json.loads(line) for line in _text(folder / "log.jsonl").splitlines()]
        text = None if recipe.get("text") is None else TextTask(**recipe["text"])
        facts = _facts(recipe, log, which)
        return RunFolder(Task(**task), int(recipe["max_tokens"]), Path(recipe["data"]), facts, text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}: result.json, log.jsonl or checkpoint.pt is damaged: {error!r}.") from error


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _object(path: Path) -> dict[str, Any]:
    return dict(json.loads(_text(path) or "{}"))


def _recipe_of_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the recipe of a run that has not ended."""
    if not path.is_file():
        return None
    import torch

    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return dict(json.loads(data["recipe"]))


def _first_of_precision(stages: list[dict[str, Any]], log: list[dict[str, Any]]) -> int:
    """Return the first line of the stages that have the last line's precision: ``best`` is one of them."""
    reached = next(i for i, stage in enumerate(stages) if stage["name"] == log[-1]["stage"])
    weights = [stage.get("weights", "") for stage in stages]
    start = max((i for i in range(reached + 1) if changes_weights(weights, i)), default=0)
    names = {stage["name"] for stage in stages[start:]}
    return next(i for i, line in enumerate(log) if line["stage"] in names)


def _facts(recipe: dict[str, Any], log: list[dict[str, Any]], which: str) -> dict[str, Any]:
    metric = recipe["task"]["metrics"][0]
    of_language = recipe.get("gpt") is not None
    kept = _OF_LANGUAGE if of_language else ("max_tokens", "layers", "student", "train", "augment", "stages")
    facts: dict[str, Any] = {
        "seed": recipe["train"]["seed"],
        "batch": recipe["train"]["batch"],
        "recipe": {key: _placeless(recipe[key]) for key in kept if recipe.get(key) is not None},
    }
    if recipe.get("start") is not None:
        facts["start"] = _start(recipe["start"])
    if not log:
        return facts
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    end = len(log)
    if which == "best":
        first = _first_of_precision(recipe["stages"], log)
        end = 1 + max(range(first, end), key=lambda i: (sign * log[i]["dev"][metric], -i))
    last: dict[str, int] = {}
    for line in log[:end]:
        last[line["stage"]] = line["step"]
    facts["steps"] = sum(last.values())
    facts["seconds"] = round(logged_seconds(log[:end]), 1)
    facts["dev_in_training"] = log[end - 1]["dev"]
    selected = f"the best of {len(log)} measurements on the dev set" if which == "best" else "the last"
    facts["selection"] = f"{selected}, after {last[log[end - 1]['stage']]} steps of stage {log[end - 1]['stage']!r}"
    return facts


def _start(start: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of the student that a run began with: the facts of its own run, if that is still there."""
    model = Path(start["path"])
    facts: dict[str, Any] = {"model": "/".join(model.parts[-2:]), "take": start.get("take")}
    if model.name in ("best", "last"):
        with contextlib.suppress(CheckpointError):
            before = read_run(model.parent, model.name)
            facts |= {} if before is None else before.facts
    return facts


def _placeless(value: Any) -> Any:
    """Leave of paths their last part: where a file lay on some machine is no part of a recipe."""
    if isinstance(value, dict):
        return {key: _placeless(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_placeless(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and ("/" in value or "\\" in value) else value


def logged_seconds(log: list[dict[str, Any]]) -> float:
    """Return what the logged steps took: each stage counts from 0, in logs of earlier versions also a run that goes on.

    Args:
        log: the lines of a run's ``log.jsonl``.

    Example:
        >>> log = [("a", 2.0), ("a", 3.0), ("b", 3.5), ("b", 1.5)]
        >>> logged_seconds([{"stage": stage, "seconds": seconds} for stage, seconds in log])
        8.0
    """
    total = 0.0
    for line, after in zip(log, [*log[1:], None], strict=True):
        if after is None or after["stage"] != line["stage"] or after["seconds"] < line["seconds"]:
            total += line["seconds"]
    return total
