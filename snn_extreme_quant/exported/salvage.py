"""Reading what is left of a damaged file, field by field: protobuf itself gives all of a message or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto

from snn_extreme_quant.errors import ModelFileError

from .external import check_beside
from .files import METADATA_KEY, is_sealed
from .operators import DOMAIN
from .packed import damaged_weights

__all__ = ["Salvaged", "salvage_file"]

#: The field of a model that holds its graph, and what the fields of both are called (onnx.proto).
_GRAPH = 7
_MODEL_FIELDS = {8: "versions of operators", 14: "metadata", 25: "bodies of operators"}
_GRAPH_FIELDS = {1: "nodes", 5: "constants", 11: "inputs", 12: "outputs", 13: "shapes"}
_MODEL, _IN_GRAPH = "the file", "the graph"
#: Bytes that follow a field's tag, by the kind of the field that the tag's last three bits give.
_FIXED = {1: 8, 5: 4}
_VARINT, _WITH_LENGTH = 0, 2


@dataclass
class Salvaged:
    """What could be read of a file.

    Args:
        model: the parts that are whole.
        facts: the exporter's metadata; empty if it is lost.
        file_bytes: the file's size.
        edited: the file is not as it was exported.
        damage: what is damaged, in words; empty for a file that is whole.
    """

    model: onnx.ModelProto
    facts: dict[str, Any]
    file_bytes: int
    edited: bool
    damage: list[str] = field(default_factory=list)


def salvage_file(path: Path) -> Salvaged:
    """Read an exported file as far as it goes.

    Raises:
        ModelFileError: it cannot be read, nothing of a model can, or it was not written by this package.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    damage: list[str] = []
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError):
        model = _read_fields(data, damage)
    if not model.graph.node and not model.metadata_props:
        raise ModelFileError(
            f"{path} is not an ONNX model, or is truncated or damaged ({len(data)} bytes) beyond reading; export it"
            " again."
        )
    _drop_nameless(model, damage)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in metadata and not any(node.domain == DOMAIN for node in model.graph.node):
        raise ModelFileError(f"{path} was not written by sxq.export_onnx(); export the model with it.")
    facts = _facts(metadata, damage)
    beside = _beside(model, path)
    damage += beside or [
        f"the packed weights of layer {layer!r} hold what is no code, or are not as many as their shape says"
        for layer in damaged_weights(model, path.parent)
    ]
    return Salvaged(model, facts, len(data), not is_sealed(data), damage)


def _beside(model: onnx.ModelProto, path: Path) -> list[str]:
    """Say what is wrong with the file of weights beside a model."""
    try:
        check_beside(model, path)
    except ModelFileError as error:
        return [str(error).rstrip(".")]
    return []


def _facts(metadata: dict[str, str], damage: list[str]) -> dict[str, Any]:
    if METADATA_KEY not in metadata:
        damage.append("the metadata is missing: what the file says of its layers is lost")
        return {}
    try:
        facts = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        damage.append("the metadata is no JSON object: what the file says of its layers is lost")
        return {}
    layers = facts.get("layers")
    entries = layers if isinstance(layers, list) else []
    facts["layers"] = [e for e in entries if isinstance(e, dict) and isinstance(e.get("name"), str)]
    if not isinstance(layers, list) or len(facts["layers"]) != len(layers):
        damage.append("the metadata of some layers is damaged")
    return facts


def _read_fields(data: bytes, damage: list[str]) -> onnx.ModelProto:
    """Put together the fields of a model that are whole; of its graph, if that is not, those of the graph."""
    model = onnx.ModelProto()
    for number, whole, content in _fields(memoryview(data), _MODEL, damage):
        read = onnx.ModelProto()
        try:
            read.ParseFromString(bytes(whole))
        except (DecodeError, UnicodeDecodeError):
            if number == _GRAPH:
                _read_graph(content, model.graph, damage)
            else:
                _note(damage, f"a part of {_MODEL_FIELDS.get(number, _MODEL)} cannot be read")
            continue
        model.MergeFrom(read)
    return model


def _read_graph(content: memoryview, graph: onnx.GraphProto, damage: list[str]) -> None:
    for number, whole, _ in _fields(content, _IN_GRAPH, damage):
        read = onnx.GraphProto()
        try:
            read.ParseFromString(bytes(whole))
        except (DecodeError, UnicodeDecodeError):
            _note(damage, f"some {_GRAPH_FIELDS.get(number, 'parts')} of the graph cannot be read")
            continue
        graph.MergeFrom(read)


def _fields(data: memoryview, of: str, damage: list[str]) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Give number, bytes and content of each field of a message; the last may be cut off."""
    at = 0
    while at < len(data):
        begin = at
        tag, at = _varint(data, at)
        kind, start = tag & 7, at
        if kind == _WITH_LENGTH:
            length, start = _varint(data, at)
            at = start + length
        elif kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            _note(damage, f"{of} cannot be read from byte {begin} of {len(data)} on")
            return
        if at > len(data):
            _note(damage, f"{of} is cut off after {len(data)} bytes")
        yield tag >> 3, data[begin:at], data[start:at]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, the lowest first; one that is cut off ends where the data does."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            break
    return value, at


def _note(damage: list[str], what: str) -> None:
    if what not in damage:
        damage.append(what)


def _drop_nameless(model: onnx.ModelProto, damage: list[str]) -> None:
    """Leave out what has a name that is no text, or a type or shape that is none."""
    graph = model.graph
    groups: tuple[tuple[Any, Any, str], ...] = (
        (graph.node, _node_is_whole, "nodes"),
        (graph.initializer, _constant_is_whole, "constants"),
        (graph.input, _value_is_whole, "inputs"),
        (graph.output, _value_is_whole, "outputs"),
    )
    for entries, is_whole, what in groups:
        kept = [entry for entry in entries if _holds(is_whole, entry)]
        if len(kept) < len(entries):
            _note(damage, f"some {what} of the graph cannot be read")
            del entries[:]
            entries.extend(kept)
    for entries in (model.metadata_props, model.opset_import):
        kept = [entry for entry in entries if _holds(_entry_is_whole, entry)]
        del entries[:]
        entries.extend(kept)


def _holds(is_whole: Any, entry: Any) -> bool:
    try:
        return bool(is_whole(entry))
    except UnicodeDecodeError:  # protobuf gives bytes for what is no text, or raises
        return False


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _node_is_whole(node: onnx.NodeProto) -> bool:
    names = (node.name, node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute))
    return bool(node.op_type) and len(node.output) > 0 and all(map(_is_text, names))


def _constant_is_whole(tensor: TensorProto) -> bool:
    known = tensor.data_type in TensorProto.DataType.values() and tensor.data_type != TensorProto.UNDEFINED
    return _is_text(tensor.name) and known and all(size >= 0 for size in tensor.dims)


def _value_is_whole(value: onnx.ValueInfoProto) -> bool:
    return _is_text(value.name) and all(_is_text(d.dim_param) for d in value.type.tensor_type.shape.dim)


def _entry_is_whole(entry: Any) -> bool:
    texts = (entry.domain,) if isinstance(entry, onnx.OperatorSetIdProto) else (entry.key, entry.value)
    return all(map(_is_text, texts))
