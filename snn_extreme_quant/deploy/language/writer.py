"""Writes an ONNX graph node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from snn_extreme_quant.deploy.lowering.body_facts import body_facts
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION, OPSET, function_body
from snn_extreme_quant.deploy.lowering.model import IR_VERSION

__all__ = ["Writer"]

Array = npt.NDArray[Any]


class Writer:
    """A graph that grows; values are known by their names.

    Example:
        >>> writer = Writer()
        >>> x = writer.input("x", np.float32, ("B", 3))
        >>> writer.output(writer.op("Add", x, writer.constant(np.float32(1))), "y", np.float32, ("B", 3))
        >>> [node.op_type for node in writer.model({}).graph.node]
        ['Add']
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._known: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._renamed: dict[str, str] = {}
        self._shapes: dict[str, onnx.ValueInfoProto] = {}
        self._count = 0
        #: What the file says of each layer, by its name.
        self.layers: dict[str, dict[str, Any]] = {}

    def input(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> str:
        """Add an input."""
        self._inputs.append(_value(name, dtype, shape))
        return name

    def output(self, value: str, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> None:
        """Give a value that a node makes as an output, under its name there."""
        if value in self._renamed or value in {entry.name for entry in self._inputs}:
            value = self.op("Identity", value)
        self._renamed[value] = name
        self._outputs.append(_value(name, dtype, shape))

    def shaped(self, value: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> str:
        """Say of a value which shape it has, where a runtime cannot tell; returns the value."""
        self._shapes[value] = _value(value, dtype, shape)
        return value

    def constant(self, value: npt.ArrayLike, name: str = "") -> str:
        """Add a constant; one that is there already, under whatever name, is used again unless it is given one."""
        array = np.ascontiguousarray(value) if np.ndim(value) else np.array(value)
        key = (str(array.dtype), array.tobytes(), array.shape) if not name else ("", b"", ())
        if not name and key in self._known:
            return self._known[key]
        name = name or f"constant_{len(self._known)}"
        self._constants[name] = numpy_helper.from_array(array, name)
        if key[0]:
            self._known[key] = name
        return name

    def op(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of ONNX's own with one output, and return that."""
        (found,) = self.ops(operator, inputs, 1, **attributes)
        return found

    def ops(
        self, operator: str, inputs: Sequence[str], outputs: int, *, domain: str = "", name: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node, and return its outputs."""
        made = [f"value_{self._count + i}" for i in range(outputs)]
        self._count += outputs
        node = helper.make_node(operator, inputs, made, name or f"{operator}_{len(self._nodes)}", domain=domain)
        # An empty list of floats has no type of its own.
        node.attribute.extend(
            helper.make_attribute(key, value, attr_type=onnx.AttributeProto.FLOATS if value == [] else None)
            for key, value in sorted(attributes.items())
        )
        self._nodes.append(node)
        return made

    def ours(
        self, operator: str, inputs: Sequence[str], outputs: int = 1, name: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node of our domain."""
        return self.ops(operator, inputs, outputs, domain=DOMAIN, name=name, **attributes)

    def layer(self, name: str, kind: str, operator: str, why: str) -> None:
        """Say of a layer what the file guarantees."""
        self.layers.setdefault(name, {"name": name, "kind": kind, "op": operator, "exact": True, "why": why})

    def model(self, facts: dict[str, str]) -> onnx.ModelProto:
        """Return the model, with the bodies of our operators and metadata."""
        for node in self._nodes:
            for values in (node.input, node.output):
                for place, value in enumerate(values):
                    values[place] = self._renamed.get(value, value)
        graph = helper.make_graph(self._nodes, "network", self._inputs, self._outputs, list(self._constants.values()))
        operators = dict.fromkeys(node.op_type for node in self._nodes if node.domain == DOMAIN)
        proto: onnx.ModelProto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
            ir_version=IR_VERSION,
            producer_name="snn_extreme_quant",
            functions=[function_body(name, body_facts(name, graph)) for name in operators],
        )
        proto.graph.value_info.extend(shape for value, shape in self._shapes.items() if value not in self._renamed)
        for key, text in facts.items():
            proto.metadata_props.add(key=key, value=text)
        return proto


def _value(name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, list(shape))
