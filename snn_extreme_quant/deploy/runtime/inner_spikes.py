"""The spikes inside an exported file: which tensors they are, and how to see them."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from snn_extreme_quant.deploy.integer.neuron_functions import IntegerNeuron
from snn_extreme_quant.deploy.lowering.functions import (
    DOMAIN,
    is_integer_neuron,
    is_neuron,
    is_synchronous,
    is_token_neuron,
)
from snn_extreme_quant.neurons.fixed_point_spec import spike_limits

__all__ = ["neuron_nodes", "neuron_outputs", "spike_type", "with_outputs"]

#: Synchronous neurons that give floats; the others give bytes.
_IN_FLOAT = ("SynchronousRates", "SynchronousSpikes")


def spike_type(operator: str) -> int:
    """Return ONNX's number of the type of what a neuron operator gives."""
    if is_token_neuron(operator):
        kinds = {"Signed": onnx.TensorProto.INT8, "Wide": onnx.TensorProto.INT32}
        return int(next((kind for end, kind in kinds.items() if operator.endswith(end)), onnx.TensorProto.UINT8))
    if is_synchronous(operator) and operator not in _IN_FLOAT:
        return int(onnx.TensorProto.UINT8)
    if not is_integer_neuron(operator):
        return int(onnx.TensorProto.FLOAT)
    signed = spike_limits(IntegerNeuron.from_name(operator).spec)[0] < 0
    return int(onnx.TensorProto.INT8 if signed else onnx.TensorProto.UINT8)


def _fires(node: onnx.NodeProto) -> bool:
    fires = (is_neuron, is_synchronous, is_token_neuron)
    return node.domain == DOMAIN and any(found(node.op_type) for found in fires)


def neuron_nodes(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes of each neuron layer, in order of execution: one, one a call, or one a step if unrolled."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in filter(_fires, model.graph.node):
        found.setdefault(node.name.rpartition("@")[0] or node.name, []).append(node)
    return found


def neuron_outputs(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Return the spike tensors of each neuron layer, in order of execution: one, or one a step if unrolled."""
    return {layer: [node.output[0] for node in nodes] for layer, nodes in neuron_nodes(model).items()}


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a copy that gives inner tensors as outputs too."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    present = {output.name for output in exposed.graph.output}
    kinds = {node.output[0]: spike_type(node.op_type) for node in filter(_fires, model.graph.node)}
    for name in names:
        if name not in present:
            exposed.graph.output.append(onnx.helper.make_tensor_value_info(name, kinds[name], None))
    return exposed
