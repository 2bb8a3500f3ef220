"""Checkpoints of a run: one file that appears whole or not at all."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch

from snn_extreme_quant.errors import CheckpointError
from snn_extreme_quant.output_files import write_whole
from snn_extreme_quant.training.recipe import Recipe

__all__ = ["read_state", "write_state"]

_FORMAT = "snn_extreme_quant.training.1"


def _plain(recipe: Recipe) -> Any:
    return json.loads(json.dumps(recipe.to_dict(), default=str))


def write_state(path: Path, recipe: Recipe, state: dict[str, Any]) -> None:
    """Write a run's state: tensors, numbers and texts."""
    buffer = io.BytesIO()
    torch.save({"format": _FORMAT, "recipe": json.dumps(_plain(recipe)), "state": state}, buffer)
    write_whole(path, buffer.getvalue())


def read_state(path: Path, recipe: Recipe) -> dict[str, Any]:
    """Read a run's state.

    Raises:
        CheckpointError: there is none, or it is of another recipe; the message names the first difference.
    """
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is nothing to resume: {path} does not exist.") from error
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged and cannot be resumed: {error}; start anew.") from error
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of a run of this version; start anew without --resume.")
    difference = _difference(json.loads(data["recipe"]), _plain(recipe), "recipe")
    if difference:
        raise CheckpointError(f"{path} belongs to another recipe: {difference}. Use that recipe, or another folder.")
    state: dict[str, Any] = data["state"]
    return state


def _difference(old: Any, new: Any, where: str) -> str:
    """Return the first difference in words, or ""."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            found = _difference(old.get(key), new.get(key), f"{where}.{key}")
            if found:
                return found
        return ""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return next(
            filter(None, (_difference(a, b, f"{where}.{i}") for i, (a, b) in enumerate(zip(old, new, strict=True)))), ""
        )
    return "" if old == new else f"{where} was {old!r}, is {new!r}"
