"""A file that serves several numbers of time steps: what differs in the graph for each, kept as metadata.

On the synchronous schedule T stands in a graph as attributes of neurons and as constants, most of which are a power of
two times those of another T. ``docs/spiking_bert.md`` is the contract.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from snn_extreme_quant.errors import ConfigError, ExportError, ModelFileError
from snn_extreme_quant.exported.alignment import align, unlike
from snn_extreme_quant.exported.files import METADATA_KEY

__all__ = ["TIME_STEPS_KEY", "at_time_steps", "offered_time_steps", "with_time_steps"]

TIME_STEPS_KEY = "snn_extreme_quant.time_steps"


def with_time_steps(models: Mapping[int, onnx.ModelProto], own: int) -> onnx.ModelProto:
    """Return one model with what differs in the others, so that :func:`at_time_steps` can make them.

    Args:
        models: the same model of the synchronous schedule, exported at each T, without its seal.
        own: the T that the file has by itself.

    Raises:
        ExportError: two models differ in more than attributes and constants.
    """
    together = onnx.ModelProto()
    together.CopyFrom(models[own])
    values = align(models, own, together)
    changes = {}
    for steps, other in sorted(models.items()):
        if steps != own:
            changes[str(steps)] = _changes(together, other, values[steps], steps)
    text = json.dumps(changes, separators=(",", ":"))
    together.metadata_props.add(key=TIME_STEPS_KEY, value=text)
    return together


def _changes(
    model: onnx.ModelProto, other: onnx.ModelProto, values: Mapping[str, TensorProto], steps: int
) -> dict[str, Any]:
    """Return the attributes and constants of ``other`` that ``model`` has otherwise."""
    attributes: dict[tuple[str, float], list[int]] = {}
    for index, (mine, yours) in enumerate(zip(model.graph.node, other.graph.node, strict=True)):
        if [a.name for a in mine.attribute] != [a.name for a in yours.attribute]:
            raise unlike(steps)
        for a, b in zip(mine.attribute, yours.attribute, strict=True):
            if a != b:
                attributes.setdefault((b.name, _number(b, steps)), []).append(index)
    factors: dict[float, list[str]] = {}
    data: dict[str, str] = {}
    for tensor in model.graph.initializer:
        new = values.get(tensor.name)
        if new is None or (tensor.raw_data == new.raw_data and tensor.dims == new.dims):
            continue
        if (tensor.data_type, tensor.dims) != (new.data_type, new.dims):
            raise unlike(steps)
        factor = _factor(tensor, new)
        if factor is None:
            data[tensor.name] = _text_of(new.raw_data)
        else:
            factors.setdefault(factor, []).append(tensor.name)
    return {
        "attributes": [[name, value, places] for (name, value), places in attributes.items()],
        "factors": [[factor, names] for factor, names in factors.items()],
        "values": data,
    }


def _text_of(data: bytes) -> str:
    """Return bytes as short text: those of one place in each four stand together, where floats are alike."""
    planes = np.frombuffer(data, np.uint8)
    planes = planes.reshape(-1, 4).T if len(data) % 4 == 0 else planes[None]
    return base64.b85encode(bytes([len(planes)]) + zlib.compress(planes.tobytes(), 9)).decode()


def _bytes_of(text: str) -> bytes:
    """Return what :func:`_text_of` was given."""
    data = base64.b85decode(text)
    return np.frombuffer(zlib.decompress(data[1:]), np.uint8).reshape(data[0], -1).T.tobytes()


def _number(attribute: AttributeProto, steps: int) -> float | int:
    if attribute.type == AttributeProto.FLOAT:
        return float(attribute.f)
    if attribute.type == AttributeProto.INT:
        return int(attribute.i)
    raise ExportError(f"The graph for T = {steps} differs in {attribute.name!r}, which is no number.")


def _factor(tensor: TensorProto, new: TensorProto) -> float | None:
    """Return the power of two that a float constant is multiplied by, exactly; None if there is none."""
    if tensor.data_type != TensorProto.FLOAT or tensor.dims != new.dims or len(tensor.raw_data) != len(new.raw_data):
        return None
    before, after = (np.frombuffer(t.raw_data, np.float32) for t in (tensor, new))
    with np.errstate(all="ignore"):
        factor = float(after[0] / before[0]) if before.size and before[0] else 0.0
        same = np.array_equal(before * np.float32(factor), after)
    return factor if same and np.frexp(factor)[0] == 0.5 else None


def _applied(model: onnx.ModelProto, changes: Mapping[str, Any]) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    nodes = changed.graph.node
    for name, value, places in changes["attributes"]:
        for place in places:
            attribute = next(a for a in nodes[place].attribute if a.name == name)
            if attribute.type == AttributeProto.INT:
                attribute.i = value
            else:
                attribute.f = value
    tensors = {tensor.name: tensor for tensor in changed.graph.initializer}
    for factor, names in changes["factors"]:
        for name in names:
            tensors[name].raw_data = (np.frombuffer(tensors[name].raw_data, "<f4") * np.float32(factor)).tobytes()
    for name, data in changes["values"].items():
        tensors[name].raw_data = _bytes_of(data)
    return changed


def _kept(model: onnx.ModelProto) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the facts, and the changes by T."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return json.loads(metadata[METADATA_KEY]), json.loads(metadata.get(TIME_STEPS_KEY, "{}"))


def offered_time_steps(model: onnx.ModelProto) -> tuple[int, ...]:
    """Return the numbers of time steps that a file can run with, in rising order; none if it counts no steps.

    Args:
        model: as :func:`~snn_extreme_quant.exported.files.read_model` gives it.
    """
    facts, changes = _kept(model)
    if "schedule" not in facts:
        return ()
    return tuple(sorted({int(facts["schedule"]["steps"]), *map(int, changes)}))


def at_time_steps(model: onnx.ModelProto, steps: int) -> onnx.ModelProto:
    """Return the model that runs with another number of time steps.

    Args:
        model: an exported model; constants that change must be in it, not beside it.
        steps: T.

    Raises:
        ConfigError: the file does not offer that T; the message names those that it does.
        ModelFileError: what the file says of that T does not fit its graph.
    """
    facts, changes = _kept(model)
    offered = offered_time_steps(model)
    if steps not in offered:
        known = ", ".join(map(str, offered)) or "none: it has no schedule"
        raise ConfigError(f"T = {steps} is not in the file; it offers {known}.")
    if str(steps) not in changes:
        return model
    try:
        changed = _applied(model, changes[str(steps)])
    except (KeyError, IndexError, StopIteration, TypeError, ValueError, zlib.error) as error:
        raise ModelFileError(f"What the file says of T = {steps} does not fit its graph; export it again.") from error
    facts["schedule"]["steps"] = steps
    facts["time"] = f"fixed by the model: {steps} steps"
    del changed.metadata_props[:]
    changed.metadata_props.add(key=METADATA_KEY, value=json.dumps(facts, separators=(",", ":")))
    return changed
