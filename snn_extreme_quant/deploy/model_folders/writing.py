"""Writing a model folder: all of it or nothing, with its ``run.json``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from snn_extreme_quant.errors import OutputPathError
from snn_extreme_quant.exported.files import DIGEST_KEY
from snn_extreme_quant.output_files import write_whole

__all__ = ["unsealed", "whole_folder", "write_run"]


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder, whose files are moved to ``folder`` at the end; one that is there stays whole until then.

    Raises:
        OutputPathError: the folder cannot be made.
    """
    if folder.exists() and not folder.is_dir():  # before the work, not after it
        raise OutputPathError(f"{folder} cannot be made: a file of that name is there.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder, so that files can be moved.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
            yield Path(place)
            folder.mkdir(exist_ok=True)
            for made in sorted(Path(place).iterdir()):
                made.replace(folder / made.name)
    except OSError as error:
        raise OutputPathError(f"{folder} cannot be made: {error.strerror or error}.") from error


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Write a folder's ``run.json``."""
    write_whole(folder / "run.json", (json.dumps(run, indent=2, ensure_ascii=False) + "\n").encode())


def unsealed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Take off the digest of a file that is going to be changed, and sealed again; it is changed."""
    kept = [(entry.key, entry.value) for entry in proto.metadata_props if entry.key != DIGEST_KEY]
    del proto.metadata_props[:]
    for key, value in kept:
        proto.metadata_props.add(key=key, value=value)
    return proto
