"""Writing and reading exported files: whole or not at all, and sealed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from snn_extreme_quant.errors import ModelEditedError, ModelFileError, OutputPathError

from .lowering import METADATA_KEY

__all__ = ["DIGEST_KEY", "check_writable", "read_model", "seal", "write_whole"]

DIGEST_KEY = "snn_extreme_quant.sha256"


def check_writable(path: Path) -> None:
    """Raise :class:`OutputPathError` if a file cannot be written at ``path``; nothing is left behind."""
    try:
        special = path.exists() and not path.is_file()
    except (OSError, ValueError) as error:
        raise OutputPathError(f"{str(path)[:80]!r} is no name for a file: {error}.") from error
    if special:
        raise OutputPathError(f"{path} is a directory or a device; name a file.")
    if not path.parent.is_dir():
        raise OutputPathError(f"The directory {path.parent} does not exist; create it first.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputPathError(f"{path.parent} cannot be written to: {error.strerror}.") from error
    if path.exists() and not os.access(path, os.W_OK):
        raise OutputPathError(f"{path} exists and is read-only.")


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` under a temporary name beside ``path``, then rename: readers see the old file or the new one."""
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # noqa: PTH101 - mkstemp gives 0600
        os.replace(temporary, path)  # noqa: PTH105
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
        raise OutputPathError(f"{path} cannot be written: {error.strerror or error}.") from error


def _suffix(body: bytes) -> bytes:
    """Return the seal of ``body``: its SHA-256 as one more metadata entry (protobuf messages concatenate)."""
    entry = onnx.ModelProto()
    entry.metadata_props.add(key=DIGEST_KEY, value=hashlib.sha256(body).hexdigest())
    return bytes(entry.SerializeToString())


def seal(model: onnx.ModelProto) -> bytes:
    """Return the model's bytes with, at their end, the SHA-256 of all the others."""
    body = model.SerializeToString(deterministic=True)
    return bytes(body) + _suffix(body)


def _is_sealed(data: bytes) -> bool:
    length = len(_suffix(b""))
    return data[-length:] == _suffix(data[:-length])


def read_model(path: Path, *, allow_edited: bool = False) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Read an exported file.

    Args:
        path: the file.
        allow_edited: accept a file whose seal does not fit.

    Returns:
        The model and the facts that the exporter put into it.

    Raises:
        ModelFileError: the file is missing, is no ONNX model, or was not written by this package.
        ModelEditedError: it was changed after it was exported.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelFileError(
            f"{path} is not an ONNX model, or is truncated ({len(data)} bytes); export it again."
        ) from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in metadata:
        what = "is truncated or" if not model.producer_name else ""
        raise ModelFileError(
            f"{path} {what} was not written by sxq.export_onnx(); export the model with it.".replace("  ", " ")
        )
    if not allow_edited and not _is_sealed(data):
        raise ModelEditedError(
            f"{path} was changed after it was exported (its SHA-256 does not fit); export it again, or pass"
            " allow_edited=True to compare it as it is."
        )
    try:
        facts = json.loads(metadata[METADATA_KEY])
        names = [entry["name"] for entry in facts["layers"]]
        known = {"calling", "input", "neurons"} <= set(facts) and all(isinstance(name, str) for name in names)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path} holds damaged metadata; export it again.") from error
    if not known:
        raise ModelFileError(f"{path} holds damaged metadata; export it again.")
    return model, facts
