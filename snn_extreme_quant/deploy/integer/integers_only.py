"""Proves of a finished file that nothing between the encoding of its input and the decoding of its outputs is float."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto

from snn_extreme_quant.deploy.lowering.functions import (
    DOMAIN,
    is_integer_layer,
    is_integer_neuron,
    is_language_integer,
    is_token_integer,
)
from snn_extreme_quant.errors import ExportError
from snn_extreme_quant.exported.files import AFTER

__all__ = ["check_integers_only"]

#: All other types are floats, also those that are yet to come.
_INTEGERS = frozenset(
    {
        TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16, TensorProto.UINT32,
        TensorProto.INT32, TensorProto.UINT64, TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT4, TensorProto.INT4,
    }
)  # fmt: skip
#: They give lengths, whatever the type of what they read.
_LENGTHS = frozenset({"Shape", "Size"})
#: What may be done to the input in float: elementwise operations, and moves.
_ENCODING = frozenset(
    {
        "Abs", "Add", "Cast", "Clip", "Concat", "Div", "Expand", "Flatten", "Gather", "Identity", "Max", "Min", "Mul",
        "Neg", "Pad", "Relu", "Reshape", "Round", "Slice", "Split", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze",
        "Where",
    }
)  # fmt: skip

#: Operators that make whole numbers of whole numbers. Any other, and any of another domain, counts as one in float.
_WHOLE = frozenset(
    {
        "Abs", "Add", "And", "ArgMax", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast",
        "Clip", "Concat", "Constant", "ConstantOfShape", "ConvInteger", "Div", "Equal", "Expand", "Flatten", "Gather",
        "GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Identity", "If", "Less", "LessOrEqual", "Loop",
        "MatMul", "MatMulInteger", "Max", "MaxPool", "Min", "Mod", "Mul", "Neg", "NonZero", "Not", "Or", "Pad", "Range",
        "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Reshape", "Scan", "Shape", "Sign", "Size",
        "Slice", "Split", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where", "Xor",
    }
)  # fmt: skip


def check_integers_only(model: onnx.ModelProto, *, encodes: bool = True) -> None:
    """Refuse a file in which an operator of the integer network depends on a float that was computed from integers.

    Functions of integer operators must hold no float at all. What comes before the first integer operator must be
    elementwise.

    Args:
        model: the file.
        encodes: its first input is encoded, perhaps by floats, and all others are states of a step. Without it all
            inputs are whole numbers, of which no float may be made that an integer operator depends on.

    Raises:
        ExportError: there is such a float; the message names it.
    """
    for function in model.functions:
        if function.domain == DOMAIN and _is_integer(function.name):
            for node in _all_nodes(function.node):
                if _makes_float(node):
                    raise ExportError(
                        f"The function {function.name} computes in float ({node.op_type} {node.output[0]!r})."
                    )
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    integers = {value.name for value in values if value.type.tensor_type.elem_type in _INTEGERS}
    constants = {tensor.name for tensor in inferred.graph.initializer}
    origins = {}
    states = inferred.graph.input[1:] if encodes else inferred.graph.input
    for value in states:
        if value.name not in integers:
            what = f"The state {value.name!r} of a step" if encodes else f"The input {value.name!r}"
            raise ExportError(f"{what} is float.")
        origins[value.name] = _Origin(True, "", "")
    floats = {f"{value.name}{AFTER}" for value in states} - integers
    if floats and encodes:
        raise ExportError(f"The state {min(floats)!r} of a step is float.")
    for node in inferred.graph.node:
        inputs = [name for name in node.input if name and name not in constants]
        known = [origins[name] for name in inputs if name in origins]
        origin = _Origin(
            any(o.integers for o in known),
            next((o.float_after for o in known if o.float_after), ""),
            next((o.odd for o in known if o.odd), ""),
        )
        if node.domain == DOMAIN and _is_integer(node.op_type):
            _refuse(node, origin)
        if node.op_type in _LENGTHS or not inputs:
            continue
        for name in node.output:
            # What has no type that is known is taken for a float, and so is what a subgraph may compute in float.
            whole = (name in integers or _gives_integers(node)) and not _hides_float(node)
            origins[name] = replace(origin, integers=True) if whole else origin.after(node, name)


@dataclass(frozen=True)
class _Origin:
    """What a tensor is computed from.

    Args:
        integers: whether from integers.
        float_after: a float that was computed from integers; "" if there is none.
        odd: a float operation that no encoding of an input has; "" likewise.
    """

    integers: bool
    float_after: str
    odd: str

    def after(self, node: onnx.NodeProto, name: str) -> _Origin:
        """Return the origin of the float that a node computes of this."""
        if self.integers:
            return replace(self, float_after=self.float_after or name)
        if node.domain or node.op_type not in _ENCODING:
            return replace(self, odd=self.odd or f"what {node.op_type} {node.name!r} gives")
        return self


def _refuse(node: onnx.NodeProto, origin: _Origin) -> None:
    if origin.float_after:
        raise ExportError(
            f"{node.name!r} ({node.op_type}) depends on the float {origin.float_after!r} between integers."
        )
    if origin.odd:
        raise ExportError(f"{node.name!r} ({node.op_type}) depends on {origin.odd}, which is no encoding of an input.")


def _gives_integers(node: onnx.NodeProto) -> bool:
    """Whether all that a node gives is whole whatever is inferred: our own integer operators."""
    return node.domain == DOMAIN and _is_integer(node.op_type)


def _hides_float(node: onnx.NodeProto) -> bool:
    """Whether floats are made in the subgraphs of a node."""
    graphs = [a.g for a in node.attribute if a.HasField("g")] + [g for a in node.attribute for g in a.graphs]
    return any(_makes_float(inner) for graph in graphs for inner in _all_nodes(graph.node))


def _is_integer(operator: str) -> bool:
    kinds = (is_integer_layer, is_integer_neuron, is_token_integer, is_language_integer)
    return any(found(operator) for found in kinds)


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Walk through nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _all_nodes(graph.node)


def _makes_float(node: onnx.NodeProto) -> bool:
    """Whether a node may make floats of what holds none: all may that are not known to make none."""
    if node.domain or node.op_type not in _WHOLE:
        return not (node.domain == DOMAIN and _is_integer(node.op_type))
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "Cast":
        return attributes["to"].i not in _INTEGERS
    if node.op_type == "ConstantOfShape" and "value" not in attributes:
        return True
    for attribute in node.attribute:
        if attribute.name in ("value_float", "value_floats", "sparse_value"):
            return True
        if attribute.HasField("t") and attribute.t.data_type not in _INTEGERS:
            return True
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            values = (*graph.input, *graph.output, *graph.value_info)
            known = (value.type.tensor_type.elem_type for value in values)
            # A subgraph's values without a type are judged by the nodes that make them.
            if any(kind not in _INTEGERS and kind != TensorProto.UNDEFINED for kind in known):
                return True
            if any(tensor.data_type not in _INTEGERS for tensor in graph.initializer):
                return True
    return False
