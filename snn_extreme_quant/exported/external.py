"""Weights of a file that lie in a safetensors file beside it: ONNX external data at an offset."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from snn_extreme_quant.errors import CheckpointError, ModelFileError

__all__ = ["bytes_beside", "inlined", "point_into"]

#: Smaller constants stay where they are: what says where they lie is as large.
_LEAST_BYTES = 256
_HEADER = 8


def point_into(model: onnx.ModelProto, weights: Path) -> int:
    """Let constants of ``model`` be read from a safetensors file wherever it holds the same bytes.

    Args:
        model: an exported model; it is changed.
        weights: the safetensors file; the model will look for it by its name, in the folder that it lies in itself.

    Returns:
        How many bytes are left out of the model.

    Raises:
        CheckpointError: ``weights`` is no safetensors file.
    """
    places = _places(weights)
    saved = 0
    for tensor in model.graph.initializer:
        place = places.get(tensor.raw_data) if len(tensor.raw_data) >= _LEAST_BYTES else None
        if place is None:
            continue
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", weights.name), ("offset", place), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        saved += length
    return saved


def _places(weights: Path) -> dict[bytes, int]:
    """Return the offset in the file of each tensor's bytes."""
    try:
        data = weights.read_bytes()
        size = int.from_bytes(data[:_HEADER], "little")
        header = json.loads(data[_HEADER : _HEADER + size])
        spans = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{weights} cannot be read as safetensors: {error}.") from error
    start = _HEADER + size
    return {data[start + low : start + high]: start + low for low, high in spans}


def bytes_beside(tensor: TensorProto) -> int:
    """Return how many bytes of a constant lie in another file."""
    lengths = (entry.value for entry in tensor.external_data if entry.key == "length")
    return next((int(length) for length in lengths if length.isdecimal()), 0) if uses_external_data(tensor) else 0


def inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return ``model`` with all its constants in it; it is changed.

    Args:
        model: a model that was read from ``path``.
        path: its file; constants lie in files beside it.

    Raises:
        ModelFileError: a file that it refers to is missing, too short, or not beside it.
    """
    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            continue
        try:
            load_external_data_for_tensor(tensor, str(path.parent))
        except Exception as error:  # of each kind of damage a class of its own
            where = next((entry.value for entry in tensor.external_data if entry.key == "location"), "a file")
            raise ModelFileError(f"{path} reads {tensor.name!r} from {where}, which fails: {error}") from error
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    return model
