"""The spikes inside an exported file: which tensors they are, and how to see them."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from .functions import DOMAIN, is_neuron

__all__ = ["neuron_outputs", "with_outputs"]


def neuron_outputs(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Return the spike tensors of each neuron layer, in order of execution: one, or one a step if unrolled."""
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.domain == DOMAIN and is_neuron(node.op_type):
            found.setdefault(node.name.rpartition("@")[0] or node.name, []).append(node.output[0])
    return found


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a copy that gives inner tensors as outputs too."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    present = {output.name for output in exposed.graph.output}
    for name in names:
        if name not in present:
            exposed.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return exposed
