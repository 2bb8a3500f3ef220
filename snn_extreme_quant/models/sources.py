"""Where a model is to be loaded from: what cannot be there is said at once, before anybody asks the hub."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from snn_extreme_quant.errors import CheckpointError, ModelSourceError
from snn_extreme_quant.models import zoo

__all__ = ["check_source", "saved_folder"]


def check_source(source: object) -> None:
    """Raise if neither a folder nor the hub can have a model of this name; a folder that is there is not looked into.

    Args:
        source: a folder, or the id of a model on the hub. A ``Path`` is a folder.

    Raises:
        ModelSourceError: there is no such folder, and it is no id, or there is no hub to ask.

    Example:
        >>> check_source("runs/mrpc_teacher/best/")
        Traceback (most recent call last):
        snn_extreme_quant.errors.ModelSourceError: The folder runs/mrpc_teacher/best/ does not exist.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise ModelSourceError(
            f"{source!r} is no source of a model: give a folder, a hub id, or a model of transformers."
        )
    text, path = str(source), Path(source)
    if not text.strip():
        raise ModelSourceError("The source of a model is empty: give a folder or a hub id.")
    if path.is_dir():
        return
    if path.exists():
        raise ModelSourceError(f"{text} is a file; name the folder that it lies in.")
    if not isinstance(source, str) or not _is_id(text):
        raise ModelSourceError(f"The folder {text} does not exist.{_near(path)}")
    if _in_cache(text):
        return
    if len(path.parts) > 1 and path.parent.is_dir():
        raise ModelSourceError(
            f"The folder {text} does not exist, though {path.parent} does.{_near(path)} (A model of the hub with that"
            f" id is loaded where no folder {path.parent} is.)"
        )
    if _offline():
        raise ModelSourceError(
            f"The folder {text} does not exist, and the hub is switched off (HF_HUB_OFFLINE) and has left no copy of a"
            f" model with that id.{_near(path)}"
        )


def saved_folder(source: object) -> Path:
    """Return the folder of a model that ``save_pretrained`` wrote.

    Raises:
        CheckpointError: there is no such folder; a model that comes with the package has a loader of its own.

    Example:
        >>> saved_folder("sst2-ternary")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        snn_extreme_quant.errors.CheckpointError: The folder sst2-ternary does not exist. ...zoo.load('sst2-ternary').
    """
    if not isinstance(source, (str, os.PathLike)):
        raise CheckpointError(f"{source!r} is no folder of a model; give its path.")
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; name the folder with config.json and model.safetensors.")
    text = str(source)
    hint = _near(path)
    if text in zoo.names():
        hint = (
            " The model of that name that comes with the package is loaded by"
            f" snn_extreme_quant.models.zoo.load({text!r})."
        )
    raise CheckpointError(f"The folder {text} does not exist.{hint}")


def _near(path: Path) -> str:
    """Suggest folders whose names are like the first one of the path that is not there."""
    while path.parent != path and not path.parent.is_dir():
        path = path.parent
    try:
        beside = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except OSError:
        return ""
    names = [str(path.parent / name) for name in difflib.get_close_matches(path.name, beside)]
    return f" Did you mean {' or '.join(names)}?" if names else ""


def _is_id(text: str) -> bool:
    """Whether the hub could have a model of that name."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def _in_cache(name: str) -> bool:
    """Whether the hub's cache holds a model's configuration, which it can be loaded by without asking."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
