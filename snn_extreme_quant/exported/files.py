"""Sealing and reading exported files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from snn_extreme_quant.errors import ModelEditedError, ModelFileError
from snn_extreme_quant.exported.external import check_beside, inlined

__all__ = ["AFTER", "DIGEST_KEY", "METADATA_KEY", "is_sealed", "read_model", "seal"]

METADATA_KEY = "snn_extreme_quant"
DIGEST_KEY = "snn_extreme_quant.sha256"
#: What the name of a state after the step ends in.
AFTER = ".next"


def _suffix(body: bytes) -> bytes:
    """Return the seal of ``body``: its SHA-256 as one more metadata entry (protobuf messages concatenate)."""
    entry = onnx.ModelProto()
    entry.metadata_props.add(key=DIGEST_KEY, value=hashlib.sha256(body).hexdigest())
    return bytes(entry.SerializeToString())


def seal(model: onnx.ModelProto) -> bytes:
    """Return the model's bytes with, at their end, the SHA-256 of all the others."""
    body = model.SerializeToString(deterministic=True)
    return bytes(body) + _suffix(body)


def is_sealed(data: bytes) -> bool:
    """Whether a file is as it was exported."""
    length = len(_suffix(b""))
    return data[-length:] == _suffix(data[:-length])


def read_model(path: Path, *, allow_edited: bool = False) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Read an exported file, with what it keeps in a file beside it.

    Args:
        path: the file.
        allow_edited: accept a file whose seal, or that of the weights beside it, does not fit.

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
        metadata = {entry.key: entry.value for entry in model.metadata_props}
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelFileError(
            f"{path} is not an ONNX model, or is truncated or damaged ({len(data)} bytes); export it again."
        ) from error
    if METADATA_KEY not in metadata:
        what = "is truncated or" if not model.producer_name else ""
        raise ModelFileError(
            f"{path} {what} was not written by sxq.export_onnx(); export the model with it.".replace("  ", " ")
        )
    if not allow_edited and not is_sealed(data):
        raise ModelEditedError(
            f"{path} was changed after it was exported (its SHA-256 does not fit); export it again, or take it as"
            " it is with --allow-edited (in Python allow_edited=True)."
        )
    try:
        facts = json.loads(metadata[METADATA_KEY])
        names = [entry["name"] for entry in facts["layers"]]
        known = {"calling", "input", "neurons"} <= set(facts) and all(isinstance(name, str) for name in names)
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # of a text, or of bytes that are no text
        raise ModelFileError(f"{path} holds damaged metadata; export it again.") from error
    if not known:
        raise ModelFileError(f"{path} holds damaged metadata; export it again.")
    if allow_edited and not is_sealed(data):
        _check_edited(path, model, facts)
    if not allow_edited:
        check_beside(model, path)
    return inlined(model, path), facts


_FACTS: dict[str, type | tuple[type, ...]] = {
    "calling": str, "input": str, "neurons": list, "batch_norms": dict, "time": str, "layers": list,
}  # fmt: skip
#: Of files that carry a form or a schedule, in addition.
_STREAMING: dict[str, type | tuple[type, ...]] = {
    "time_axis": (int, type(None)), "steps": (int, type(None)), "states": list, "outputs": list,
}  # fmt: skip


def _check_edited(path: Path, model: onnx.ModelProto, facts: dict[str, Any]) -> None:
    """Refuse an edited file that cannot be read: its seal no longer vouches for names and facts.

    Raises:
        ModelFileError: a name is no text, a node has no output, or a fact is missing.
    """
    wanted = {**_FACTS, **(_STREAMING if facts.get("form") == "streaming" else {})}
    for key, kind in wanted.items():
        if not isinstance(facts.get(key), kind) or (key not in facts):
            raise ModelFileError(f"{path} holds damaged metadata ({key!r}); export it again.")
    states = [*facts["states"], *facts["outputs"]] if "states" in wanted else []
    for entries, keys in ((facts["layers"], ("name", "kind", "op", "why")), (states, ("name",))):
        for entry in entries:
            if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in keys):
                raise ModelFileError(f"{path} holds damaged metadata (of a layer or state); export it again.")
    # protobuf gives bytes for a string that is no UTF-8, or raises.
    try:
        texts = [value.name for value in (*model.graph.input, *model.graph.output, *model.graph.initializer)]
        texts += [function.name for function in model.functions]
        for node in model.graph.node:
            texts += [node.name, node.op_type, node.domain, *node.input, node.output[0], *node.output]
    except (UnicodeDecodeError, IndexError) as error:
        raise ModelFileError(f"{path} is damaged (a node or a name in it); export it again.") from error
    if not all(isinstance(text, str) for text in texts):
        raise ModelFileError(f"{path} is damaged (a name in it is no text); export it again.")
    if not model.graph.input or not model.graph.output:
        raise ModelFileError(f"{path} is damaged (it has no input or no output); export it again.")
