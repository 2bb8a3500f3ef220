"""What is computed of whole rows of currents, or with values beside them, for kernels; the lengths of rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import TensorProto, helper

from snn_extreme_quant.deploy.lowering.functions import (
    DOMAIN,
    is_integer_layer,
    is_layer,
    is_neuron,
    is_shift,
    is_synchronous,
)
from snn_extreme_quant.deploy.runtime.graph_readers import GraphReaders, is_standard

__all__ = ["OPERATIONS", "Step", "is_number", "last_length", "row_step", "shift_norm_step"]

#: Of single values, in the order of the kernels' numbers; each with how many constants it takes.
OPERATIONS = {"Add": 1, "Sub": 1, "Mul": 1, "Div": 1, "Clip": 2, "Round": 0, "Floor": 0, "Relu": 0}
#: What has the last axis of its first input; sums and products too, if one of both is known.
_KEEPS_LAST = frozenset({*OPERATIONS, "Cast", "DequantizeLinear", "Erf", "Gelu", "Neg", "Sigmoid", "Softmax", "Tanh"})
#: What ONNX takes where a norm says none.
_EPSILON = 1e-5


@dataclass(frozen=True)
class Step:
    """An operation on currents.

    Args:
        operation: what the kernel calls it.
        source: the value that it reads.
        constants: what else it reads.
        nodes: its nodes.
        attributes: what the kernel is told beside.
    """

    operation: str
    source: str
    constants: list[str]
    nodes: list[onnx.NodeProto]
    attributes: dict[str, Any] = field(default_factory=dict)


def is_number(name: str, look: GraphReaders) -> bool:
    """Whether a value is a constant that is one float."""
    return name in look.floats and (name in look.numbers or look.lengths.get(name, 0) == 1)


def last_length(value: str, look: GraphReaders) -> int | None:
    """Return the length of a value's last axis, if the constants before it tell.

    Args:
        value: its name.
        look: the graph.
    """
    if value not in look.last_lengths:
        node = look.makers.get(value)
        look.last_lengths[value] = None if node is None else _last_length_of(node, look)
    return look.last_lengths[value]


def _last_length_of(node: onnx.NodeProto, look: GraphReaders) -> int | None:
    name, found = node.op_type, None
    if node.domain == DOMAIN:
        if is_layer(name) and not is_integer_layer(name):
            columns = next((attribute.ints for attribute in node.attribute if attribute.name == "columns"), ())
            found = int(columns[0]) if columns else look.lengths.get(node.input[2]) if "Linear" in name else None
        elif is_neuron(name) or is_shift(name) or is_synchronous(name):
            found = last_length(node.input[0], look)
    elif node.domain:
        found = None
    elif name == "LayerNormalization":
        found = look.lengths.get(node.input[1])
    elif name == "Reshape":
        found = look.last_of_shape(node.input[1])
    elif name in ("Add", "Sub", "Mul", "Div"):
        known = {n for value in node.input if (n := look.lengths.get(value) or last_length(value, look)) is not None}
        found = max(known) if known and max(known) > 1 else None  # one of length 1 is repeated
    elif name in _KEEPS_LAST:
        found = last_length(node.input[0], look)
    return found


def row_step(node: onnx.NodeProto, look: GraphReaders) -> Step | None:
    """Return the operation of a node that adds other values than constants, or norms rows.

    Args:
        node: the node.
        look: the graph that it is of.
    """
    if is_standard(node, "Add"):
        return _residual(node, look)
    if is_standard(node, "LayerNormalization"):
        return _layer_norm(node, look)
    if is_standard(node, "Cast") and helper.get_node_attr_value(node, "to") == TensorProto.FLOAT:
        return shift_norm_step(node.input[0], look, [node])
    return None


def shift_norm_step(value: str, look: GraphReaders, behind: list[onnx.NodeProto]) -> Step | None:
    """Return the norm by shifts that makes a value which nothing else reads; ``behind`` goes with it."""
    maker = look.maker(value)
    if maker is None or maker.domain != DOMAIN or maker.op_type != "ShiftNorm":
        return None
    return Step("RowShiftNorm", maker.input[0], [], [maker, *behind])


def _residual(node: onnx.NodeProto, look: GraphReaders) -> Step | None:
    """A sum of two values, one of which is perhaps a multiple of spikes or counts."""
    lengths = {last_length(name, look) for name in node.input}
    if len(lengths) != 1 or None in lengths or node.input[0] == node.input[1]:
        return None
    for place in (0, 1):
        carried = _carried(node.input[place], look)
        if carried is not None:
            operation, constants, nodes = carried
            return Step(operation, node.input[1 - place], constants, [*nodes, node])
    return Step("Residual", node.input[0], [node.input[1]], [node])


def _carried(value: str, look: GraphReaders) -> tuple[str, list[str], list[onnx.NodeProto]] | None:
    """A product with constants that nothing else reads, of floats or of the rates of counts in bytes."""
    maker = look.maker(value)
    if maker is None or not is_standard(maker, "Mul"):
        return None
    for place in (0, 1):
        factor, source = maker.input[place], maker.input[1 - place]
        if factor not in look.floats or source in look.floats or look.lengths.get(factor, 1) not in {
            1, last_length(source, look)
        }:  # fmt: skip
            continue
        rates = look.makers.get(source)
        if rates is None or not is_standard(rates, "DequantizeLinear") or len(rates.input) != 3:
            return ("Carried", [source, factor], [maker]) if last_length(source, look) else None
        counts, scale, zero = rates.input
        if is_number(scale, look) and zero in look.numbers & look.bytes:
            nodes = [rates, maker] if look.uses[source] == 1 else [maker]
            return "Counted", [counts, scale, zero, factor], nodes
    return None


def _layer_norm(node: onnx.NodeProto, look: GraphReaders) -> Step | None:
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    constants = list(node.input[1:])
    if given.get("axis", -1) != -1 or len(node.output) != 1 or len(constants) != 2:
        return None
    if given.get("stash_type", 1) != 1 or not set(constants) <= look.floats:
        return None
    if len({look.lengths.get(name) for name in constants} | {last_length(node.input[0], look)}) != 1:
        return None
    return Step("RowNorm", node.input[0], constants, [node], {"epsilon": float(given.get("epsilon", _EPSILON))})
