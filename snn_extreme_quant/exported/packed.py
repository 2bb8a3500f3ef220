"""The packed weights in a file: where they are, what shape they have, and whether their bytes hold codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, numpy_helper
from onnx.external_data_helper import uses_external_data

from snn_extreme_quant.quantizers.packing import LAYOUTS, Layout, has_spare_codes

from .operators import DOMAIN, KINDS, is_layer, layout_of

__all__ = ["PackedWeights", "damaged_weights", "layer_of", "packed_weights", "weight_layout"]


@dataclass(frozen=True)
class PackedWeights:
    """The codes that a node reads.

    Args:
        tensor: their bytes.
        layout: how they are packed.
        shape: of the codes, outputs first as in torch; of an embedding rows first.
        columns: codes in a row of bytes.
    """

    tensor: TensorProto
    layout: Layout
    shape: tuple[int, ...]
    columns: int


def layer_of(node: NodeProto) -> str:
    """Return the layer of a node of ours: a layer that is called again has a number behind its name."""
    name, at, number = node.name.rpartition("@")
    return str(name if at and number.isdigit() else node.name)


def weight_layout(operator: str) -> str:
    """Return the packing layout of the weights that an operator of ours reads; "float" or "" for others.

    Example:
        >>> weight_layout("TernaryConv"), weight_layout("LIF_leak_gt_subtract_same_step_fed_linear_by_int4")
        ('ternary4', 'int4')
    """
    if is_layer(operator):
        return layout_of(operator)
    if operator == "FloatLinearRounded":
        return "float"
    by = operator.partition("_by_")[2]
    named = {kind.lower(): layout for layout, kind in KINDS.items()} | {"float": "float"}
    return named.get(by.partition("_")[0], "")


def packed_weights(node: NodeProto, constants: Mapping[str, TensorProto]) -> PackedWeights | None:
    """Return the packed codes that a node reads; None if it reads none."""
    packed = next(
        (constants[n] for n in node.input if n in constants and constants[n].data_type == TensorProto.UINT8), None
    )
    layout = LAYOUTS.get(weight_layout(node.op_type))
    if packed is None or len(packed.dims) != 2 or layout is None:
        return None
    rows, stored = packed.dims
    columns, shape = _attribute(node, "columns"), _attribute(node, "weight_shape")
    if "Embedding" in node.op_type:
        return PackedWeights(packed, layout, (rows, *columns), next(iter(columns), 0))
    if grouped := _attribute(node, "grouped_shape"):  # the weight itself has its inputs first
        groups, outputs, inputs, *_ = grouped
        return PackedWeights(packed, layout, (groups * outputs, inputs, *shape[2:]), groups * outputs)
    if shape or columns:
        whole = shape or (*columns, rows)
        return PackedWeights(packed, layout, whole, whole[0])
    most = layout.most_columns(stored)
    # The scales are as many as the outputs: among the constants that fit, the first vector behind the codes.
    behind = list(node.input)[list(node.input).index(packed.name) + 1 :]
    outputs = next((constants[n].dims[0] for n in behind if n in constants and len(constants[n].dims) == 1), most)
    return PackedWeights(packed, layout, (outputs, rows), outputs)


def _attribute(node: NodeProto, name: str) -> tuple[int, ...]:
    return next((tuple(a.ints) for a in node.attribute if a.name == name and a.type == AttributeProto.INTS), ())


def damaged_weights(model: onnx.ModelProto, folder: str | Path = "") -> Iterator[str]:
    """Give the layers whose packed bytes hold what is no code, as a stock runtime would not notice.

    Args:
        model: an exported model.
        folder: where bytes lie that are not in the model's file.
    """
    constants = {constant.name: constant for constant in model.graph.initializer}
    checked: set[str] = set()
    for node in model.graph.node:
        weights = packed_weights(node, constants) if node.domain == DOMAIN else None
        if weights is not None and weights.tensor.name not in checked:
            checked.add(weights.tensor.name)
            if not _holds_codes(weights, folder):
                yield layer_of(node)


def _holds_codes(weights: PackedWeights, folder: str | Path) -> bool:
    """Whether bytes are codes; digits that only fill up a row's last byte are free."""
    layout, tensor = weights.layout, weights.tensor
    if layout.wide or layout.sections or uses_external_data(tensor) or not tensor.HasField("raw_data"):
        return _each_holds_codes(weights, folder)
    if len(tensor.raw_data) != tensor.dims[0] * tensor.dims[1]:
        return False
    # Nearly always so, and ten times as fast as looking at each byte: nothing is left without the bytes of codes.
    return not tensor.raw_data.translate(None, _good_bytes(layout)) or _each_holds_codes(weights, folder)


def _good_bytes(layout: Layout) -> bytes:
    places = layout.base ** np.arange(layout.per_byte)
    digits = np.arange(layout.bytes_used)[:, None] // places % layout.base
    return bytes(np.flatnonzero((digits <= layout.top).all(1)).astype(np.uint8))


def _each_holds_codes(weights: PackedWeights, folder: str | Path) -> bool:
    layout = weights.layout
    try:
        packed = numpy_helper.to_array(weights.tensor, str(folder))
    except Exception:  # not as many bytes as the shape says; of each kind of damage a class of its own
        return False
    if packed.shape[1] != layout.packed_columns(weights.columns):
        return False
    if layout.sections:
        return not has_spare_codes(packed, weights.columns, layout)
    if layout.wide:
        return not bool((np.ascontiguousarray(packed).view("<u2") > layout.top).any())
    if bool((packed >= layout.bytes_used).any()):
        return False
    # Place by place: no copy of the codes is made, of which there are eight times as many as bytes.
    for place in range(layout.per_byte):
        used = packed[:, : -(-(weights.columns - place) // layout.per_byte)].astype(np.uint16)
        if bool((used // layout.base**place % layout.base > layout.top).any()):
            return False
    return True
