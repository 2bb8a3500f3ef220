"""What belongs to a file and lies beside it: weights in a safetensors file, as ONNX external data, and other files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from snn_extreme_quant.errors import CheckpointError, ModelEditedError, ModelFileError

__all__ = ["BESIDE_KEY", "COMPANIONS_KEY", "bytes_beside", "check_beside", "inlined", "point_into", "remember"]

#: Metadata: by the name of a file beside the model, its SHA-256. The model's own seal does not reach there.
BESIDE_KEY = "snn_extreme_quant.beside"
#: Metadata: the same of files that say what its numbers mean, as a tokenizer; the model runs without them.
COMPANIONS_KEY = "snn_extreme_quant.companions"

#: Smaller constants stay where they are: what says where they lie is as large.
_LEAST_BYTES = 256
_HEADER = 8


def point_into(model: onnx.ModelProto, weights: Path) -> int:
    """Let constants of ``model`` be read from a safetensors file wherever it holds the same bytes.

    The file's SHA-256 goes into the model's metadata, so seal the model afterwards; earlier exports have none.

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
    if saved:
        model.metadata_props.add(key=BESIDE_KEY, value=json.dumps({weights.name: _digest(weights)}))
    return saved


def remember(model: onnx.ModelProto, files: Iterable[Path]) -> None:
    """Put the SHA-256 of files that belong to a model into its metadata; they may be left out, but not be others.

    Args:
        model: an exported model; it is changed. Seal it afterwards.
        files: in the folder that the model will lie in.
    """
    model.metadata_props.add(key=COMPANIONS_KEY, value=json.dumps({path.name: _digest(path) for path in files}))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_beside(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a model if files beside it are not those that it was made with.

    Args:
        model: a model that was read from ``path``.
        path: its file.

    Raises:
        ModelEditedError: a file's SHA-256 is another one.
        ModelFileError: a file of weights is missing, or the metadata are damaged.
    """
    for key in (BESIDE_KEY, COMPANIONS_KEY):
        for name, digest in _told(model, key, path).items():
            beside = path.parent / name
            if key == COMPANIONS_KEY and not beside.exists():
                continue
            try:
                fits = _digest(beside) == digest
            except OSError as error:
                raise ModelFileError(f"{path} needs {beside}, which cannot be read: {error.strerror}.") from error
            if not fits:
                raise ModelEditedError(
                    f"{beside} is not the file that {path.name} was made with (its SHA-256 does not fit): it is"
                    " damaged, or of another model; make both again (sxq pack)."
                )


def _told(model: onnx.ModelProto, key: str, path: Path) -> dict[str, str]:
    """Return by name the digests that the metadata tell of."""
    told = next((entry.value for entry in model.metadata_props if entry.key == key), "{}")
    try:
        return {Path(str(name)).name: str(digest) for name, digest in json.loads(told).items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path} holds damaged metadata ({key!r}); export it again.") from error


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
