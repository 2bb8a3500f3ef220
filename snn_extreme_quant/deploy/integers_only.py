"""Proves of a finished file that nothing between the encoding of its input and the decoding of its outputs is float."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto

from snn_extreme_quant.errors import ExportError

from .functions import DOMAIN, is_integer_layer, is_integer_neuron
from .step_graph import AFTER

__all__ = ["check_integers_only"]

_FLOATS = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16, TensorProto.COMPLEX64}
)
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


def check_integers_only(model: onnx.ModelProto) -> None:
    """Refuse a file in which an operator of the integer network depends on a float that was computed from integers.

    Functions of integer operators must hold no float at all. What comes before the first integer operator must be
    elementwise.

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
    floats = {value.name for value in values if value.type.tensor_type.elem_type in _FLOATS}
    constants = {tensor.name for tensor in inferred.graph.initializer}
    origins = {}
    for value in inferred.graph.input[1:]:  # the states of a step
        if value.name in floats:
            raise ExportError(f"The state {value.name!r} of a step is float.")
        origins[value.name] = _Origin(True, "", "")
    after = {f"{value.name}{AFTER}" for value in inferred.graph.input[1:]}
    if after & floats:
        raise ExportError(f"The state {min(after & floats)!r} of a step is float.")
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
            origins[name] = origin.after(node, name) if name in floats else replace(origin, integers=True)


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


def _is_integer(operator: str) -> bool:
    return is_integer_layer(operator) or is_integer_neuron(operator)


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Walk through nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g.node)


def _makes_float(node: onnx.NodeProto) -> bool:
    """Whether a node makes floats of what holds none: by a cast, a constant, or the declared type of a subgraph."""
    if node.op_type == "Cast":
        return any(a.name == "to" and a.i in _FLOATS for a in node.attribute)
    for attribute in node.attribute:
        if attribute.name in ("value_float", "value_floats"):
            return True
        if attribute.HasField("t") and attribute.t.data_type in _FLOATS:
            return True
        if attribute.HasField("g"):
            values = (*attribute.g.input, *attribute.g.output, *attribute.g.value_info)
            if any(value.type.tensor_type.elem_type in _FLOATS for value in values):
                return True
    return node.op_type in ("DequantizeLinear", "RandomNormal", "RandomUniform")
