"""What is in an exported file: layers, precisions, bytes, operators. Nothing is run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import NodeProto, TensorProto

from snn_extreme_quant.errors import ModelFileError

from .external import bytes_beside
from .operators import DOMAIN, is_neuron
from .packed import layer_of, packed_weights, weight_layout
from .salvage import Salvaged, salvage_file

__all__ = ["FileReport", "LayerContents", "OperatorCount", "Sizes", "StateContents", "constant_sizes", "inspect_file"]

#: What a layout is called in a table of precisions, and the bits that a code takes.
_PRECISIONS = {
    "binary8": "binary, 1 bit",
    "ternary4": "ternary, 2 bit",
    "ternary5": "ternary, 1.6 bit",
    **{f"int{bits}": f"{bits} bit" for bits in range(3, 17)},
}
#: What a file said that lost its metadata.
_UNKNOWN = "unknown"
_SAID = ("name", "kind", "op", "exact", "why")
#: What an integer file says of a neuron layer, and of which type each is.
_FIXED_POINT: dict[str, tuple[type, ...]] = {
    "fraction": (int,),
    "decay_bits": (int,),
    "current": (int, float),
    "potential": (int, float),
    "headroom": (int, float),
    "max_steps": (int, type(None)),
}


@dataclass(frozen=True)
class LayerContents:
    """A layer as it is in a file.

    Args:
        name: its name in the model; for weights left in float, the constant's.
        kind: ``"layer"`` (packed), ``"neuron"`` or ``"float"``.
        operator: its operator.
        precision: of its weights; "" without weights.
        shape: of its weights, outputs first (an embedding: rows first), of all groups of inputs; () without.
        bytes: what the constants it reads take.
        exact: whether the file promises the same bits as in torch; None where it says nothing.
        why: why, or why not.
        fixed_point: of a neuron layer of an integer file its fixed-point position and the proof of no overflow, as
            :class:`~snn_extreme_quant.deploy.FixedPointReport` has them; else None.
        more: whatever else the file says of it.
    """

    name: str
    kind: str
    operator: str
    precision: str
    shape: tuple[int, ...]
    bytes: int
    exact: bool | None
    why: str
    fixed_point: Mapping[str, Any] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StateContents:
    """A state of a streaming file: input ``name``, output ``name.next``.

    Args:
        name: of the layer and of the state in it.
        shape: its axes; "B" is the number of samples.
        dtype: its type.
        initial: what every element is before the first step; in an integer file also a list that broadcasts to it.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    initial: float | list[Any]


@dataclass(frozen=True)
class OperatorCount:
    """How many nodes of the graph are of an operator; ``domain`` is "" for ONNX's own."""

    domain: str
    operator: str
    count: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of codes, how many codes they are, and (an estimate) of the file with each code as a float32."""

    packed_bytes: int
    codes: int
    float_bytes: int
    ratio: float


@dataclass(frozen=True)
class FileReport:
    """What is in an exported file.

    Args:
        path: the file.
        file_bytes: its size.
        edited: it was changed after it was exported.
        damage: what of it is damaged, in words; what is told is then what could be read.
        form: ``"sequence"``, ``"streaming"`` or ``"counts"``.
        integer: it computes with integers only.
        takes: what its input holds, in words.
        facts: what the exporter wrote of it, without the layers.
        inputs: by name, the axes; open ones by name. Those of a streaming file are the step's input and the states.
        outputs: the same.
        types: of inputs and outputs.
        states: of a streaming file.
        opset: of ONNX's own operators.
        ir_version: of the ONNX format.
        layers: in order of execution.
        operators: of the graph; those of our domain first.
        sizes: of the packed weights.
    """

    path: Path
    file_bytes: int
    edited: bool
    damage: tuple[str, ...]
    form: str
    integer: bool
    takes: str
    facts: Mapping[str, Any]
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]
    types: Mapping[str, str]
    states: tuple[StateContents, ...]
    opset: int
    ir_version: int
    layers: tuple[LayerContents, ...]
    operators: tuple[OperatorCount, ...]
    sizes: Sizes


def inspect_file(path: str | Path) -> FileReport:
    """Say what is in an exported file, without running it.

    Args:
        path: a file of :func:`~snn_extreme_quant.export_onnx`; an edited or damaged one will do.

    Raises:
        ModelFileError: nothing of it can be read, or it was not written by this package.

    Example:
        >>> inspect_file("net.onnx").sizes.ratio  # doctest: +SKIP
        0.064
    """
    path = Path(path)
    found = salvage_file(path)
    try:
        return _report(path, found)
    except Exception as error:  # what an edited file holds can be anything
        raise ModelFileError(f"{path} is damaged ({type(error).__name__}: {error}); export it again.") from error


def constant_sizes(path: Path) -> tuple[int, int]:
    """Return the bytes of a file's constants, and those of all of it, with what lies beside it.

    Raises:
        ModelFileError: nothing of it can be read, or it was not written by this package.
    """
    found = salvage_file(path)
    constants = found.model.graph.initializer
    everything = found.file_bytes + sum(bytes_beside(tensor) for tensor in constants)
    return sum(_constant_bytes(tensor) for tensor in constants), everything


def _report(path: Path, found: Salvaged) -> FileReport:
    model, facts = found.model, dict(found.facts)
    constants = {constant.name: constant for constant in model.graph.initializer}
    nodes: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        if node.domain == DOMAIN:
            nodes.setdefault(layer_of(node), []).append(node)
    said = {entry["name"]: entry for entry in facts.pop("layers", ())}
    fixed_point = _fixed_point(facts.get("fixed_point"))
    layers = [
        replace(_contents(name, group, said.get(name, {}), constants), fixed_point=fixed_point.get(name))
        for name, group in nodes.items()
    ]
    layers += _float_weights(model, constants)
    inputs = [value for value in model.graph.input if value.name not in constants]
    return FileReport(
        path=path,
        file_bytes=found.file_bytes,
        edited=found.edited,
        damage=tuple(found.damage),
        form=str(facts.get("form", "sequence" if facts else _UNKNOWN)),
        integer=facts.get("integer") is True,
        takes=_takes(facts, inputs),
        facts=facts,
        inputs={value.name: _axes(value) for value in inputs},
        outputs={value.name: _axes(value) for value in model.graph.output},
        types={value.name: _type(value) for value in (*inputs, *model.graph.output)},
        states=_states(facts.get("states")),
        opset=next((entry.version for entry in model.opset_import if entry.domain == ""), 0),
        ir_version=model.ir_version,
        layers=tuple(layers),
        operators=_operators(model),
        sizes=_sizes(found.file_bytes, [node for group in nodes.values() for node in group], constants),
    )


def _entries(said: object) -> list[Mapping[str, Any]]:
    """Return the objects of a list in the metadata, which an edited file may have lost."""
    return [entry for entry in said if isinstance(entry, dict)] if isinstance(said, list) else []


def _fixed_point(said: object) -> dict[str, dict[str, Any]]:
    """Return what an integer file says of each neuron layer; of one that it says nonsense of, nothing."""
    return {
        entry["name"]: {name: entry[name] for name in _FIXED_POINT}
        for entry in _entries(said)
        if isinstance(entry.get("name"), str)
        and all(name in entry and isinstance(entry[name], kinds) for name, kinds in _FIXED_POINT.items())
    }


def _states(said: object) -> tuple[StateContents, ...]:
    return tuple(
        StateContents(str(entry["name"]), tuple(entry["shape"]), str(entry.get("dtype", "float32")), entry["initial"])
        for entry in _entries(said)
        if isinstance(entry.get("shape"), list)
        and isinstance(entry.get("initial"), (int, float, list))
        and "name" in entry
    )


def _takes(facts: Mapping[str, Any], inputs: list[onnx.ValueInfoProto]) -> str:
    """Say what the first input holds."""
    if "input" not in facts:
        return _UNKNOWN
    if facts.get("input") != "spikes":
        whole = inputs and inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT
        return "whole numbers" if whole else "real numbers"
    if facts.get("form") != "counts":
        return "spikes, 0 and 1"
    schedule = facts.get("schedule")
    steps = schedule.get("steps", "T") if isinstance(schedule, dict) else "T"
    return f"rates of spikes, multiples of 1/{steps} from 0 to 1"


def _axes(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)


def _type(value: onnx.ValueInfoProto) -> str:
    """Return a type as numpy names it; "" where the file leaves it out."""
    kind = value.type.tensor_type.elem_type
    known = kind in TensorProto.DataType.values() and kind != TensorProto.UNDEFINED
    return str(onnx.helper.tensor_dtype_to_np_dtype(kind)) if known else ""


def _operators(model: onnx.ModelProto) -> tuple[OperatorCount, ...]:
    counts = Counter((node.domain, node.op_type) for node in model.graph.node)
    found = (OperatorCount(domain, operator, count) for (domain, operator), count in counts.items())
    return tuple(sorted(found, key=lambda e: (e.domain != DOMAIN, e.domain, -e.count, e.operator)))


def _constant_bytes(tensor: TensorProto) -> int:
    """Return the bytes of a constant's values."""
    return int(math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _contents(
    name: str, group: list[NodeProto], said: Mapping[str, Any], constants: Mapping[str, TensorProto]
) -> LayerContents:
    node = group[0]
    read = {n: constants[n] for member in group for n in member.input if n in constants}
    parts = {found.tensor.name: found.shape for m in group if (found := packed_weights(m, constants)) is not None}
    layout = weight_layout(node.op_type)
    shape = next(iter(parts.values()), ())
    if len(parts) > 1:  # scales by group of inputs: one part after the other
        shape = (shape[0], sum(part[1] for part in parts.values()), *shape[2:])
    if layout == "float":
        shape = next((tuple(t.dims) for t in read.values() if len(t.dims) > 1), ())
    exact = said.get("exact")
    return LayerContents(
        name=name,
        kind=str(said.get("kind", "neuron" if is_neuron(node.op_type) else "layer")),
        operator=node.op_type,
        precision="float" if layout == "float" else _PRECISIONS.get(layout, ""),
        shape=tuple(int(size) for size in shape),
        bytes=sum(_constant_bytes(tensor) for tensor in read.values()),
        exact=exact if isinstance(exact, bool) else None,
        why=str(said.get("why", "")),
        more={key: value for key, value in said.items() if key not in _SAID},
    )


_PRODUCTS = ("Conv", "ConvTranspose", "Gather", "Gemm", "MatMul")


def _float_weights(model: onnx.ModelProto, constants: Mapping[str, TensorProto]) -> list[LayerContents]:
    """Return the weights of layers left in float: matrices that a product of ONNX's own reads."""
    found: dict[str, LayerContents] = {}
    for node in model.graph.node:
        for name in node.input if node.domain == "" and node.op_type in _PRODUCTS else ():
            tensor = constants.get(name)
            if tensor is None or len(tensor.dims) < 2 or tensor.data_type != TensorProto.FLOAT:
                continue
            shape, size = tuple(tensor.dims), _constant_bytes(tensor)
            found.setdefault(name, LayerContents(name, "float", node.op_type, "float", shape, size, None, ""))
    return list(found.values())


def _sizes(file_bytes: int, nodes: list[NodeProto], constants: Mapping[str, TensorProto]) -> Sizes:
    found = {part.tensor.name: part for node in nodes if (part := packed_weights(node, constants)) is not None}
    packed = sum(_constant_bytes(part.tensor) for part in found.values())
    codes = sum(math.prod(part.shape) for part in found.values())
    stored = file_bytes + sum(bytes_beside(tensor) for tensor in constants.values())
    whole = stored - packed + 4 * codes
    return Sizes(packed, codes, whole, stored / whole)
