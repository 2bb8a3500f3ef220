"""Files of a language model that simulate step by step: spikes summed inside, and runs that go on where one ended.

On the schedule ``"step"`` a neuron without a leak holds, after k steps, its potential before them plus the currents of
these steps minus its spikes times the threshold. All of these are multiples of 1/4096 that float32 adds exactly, so a
run of 4 steps and then another of 4 give the spikes of one run of 8. ``docs/spiking_bert.md`` is the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import TensorProto, helper

from snn_extreme_quant.deploy.lowering.functions import is_neuron
from snn_extreme_quant.neurons.spec import NeuronSpec

__all__ = ["AFTER", "BEFORE", "SPIKES", "part_of_a_run", "why_no_parts", "with_spike_sums"]

#: Begin the names of what is added: outputs with the spikes of each layer, its potential before and after the run.
SPIKES, BEFORE, AFTER = "spikes:", "potential before:", "potential after:"
#: Operators with one input that is not constant and keep the mean of what they compute the same of the mean.
_AFFINE = {"Add", "Div", "Gather", "Gemm", "Identity", "MatMul", "Mul", "Squeeze"}


def with_spike_sums(model: onnx.ModelProto, nodes: Mapping[str, onnx.NodeProto]) -> onnx.ModelProto:
    """Return a copy that also gives, after its outputs, how many spikes each neuron gave in all steps.

    Args:
        model: of the form ``"sequence"``.
        nodes: by layer its neurons, which give ``(T, B, ...)``.

    Returns:
        A model with an output :data:`SPIKES` + layer for each, float32 ``(B, ...)``: spikes of either sign.
    """
    summed = onnx.ModelProto()
    summed.CopyFrom(model)
    graph = summed.graph
    graph.initializer.append(helper.make_tensor(f"{SPIKES}axis", TensorProto.INT64, [1], [0]))
    for name, node in nodes.items():
        out = SPIKES + name
        graph.node.append(helper.make_node("Abs", [node.output[0]], [f"{out}/either sign"]))
        graph.node.append(helper.make_node("ReduceSum", [f"{out}/either sign", f"{SPIKES}axis"], [out], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(out, TensorProto.FLOAT, None))
    return summed


def why_no_parts(model: onnx.ModelProto, nodes: Mapping[str, onnx.NodeProto]) -> str | None:
    """Return why a file's run cannot go on where another ended; None if it can.

    Args:
        model: of the form ``"sequence"``.
        nodes: by layer its neurons.
    """
    for name, node in nodes.items():
        if not is_neuron(node.op_type):
            return f"{name!r} is on the synchronous schedule: it fires when it has taken in all steps"
        spec = NeuronSpec.from_operator(node.op_type)
        if (spec.charge, spec.reset, spec.timing) != ("integrate", "subtract", "same_step"):
            return f"the neurons {name!r} leak, and the file does not give their potentials"
    return None if _gives_a_mean(model) else "its output is no linear function of a mean over time steps"


def _gives_a_mean(model: onnx.ModelProto) -> bool:
    """Whether the first output is affine in a sum over the first axis: that of steps."""
    constants: dict[str, Any] = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    name = model.graph.output[0].name
    while name in makers:
        node = makers[name]
        open_inputs = [given for given in node.input if given and given not in constants]
        if len(open_inputs) != 1 or (node.op_type == "Div" and node.input[0] != open_inputs[0]):
            return False
        if node.op_type == "ReduceSum":
            axes = constants.get(node.input[1]) if len(node.input) > 1 else None
            return axes is not None and list(onnx.numpy_helper.to_array(axes).reshape(-1)) == [0]
        if node.domain or node.op_type not in _AFFINE:
            return False
        name = open_inputs[0]
    return False


def part_of_a_run(
    model: onnx.ModelProto, nodes: Mapping[str, onnx.NodeProto], whole: onnx.ModelProto, *, first: bool
) -> onnx.ModelProto:
    """Return a copy that makes some steps of a longer run, and gives the potentials to go on from.

    Args:
        model: with the T of the part; :func:`why_no_parts` has nothing against it.
        nodes: by layer its neurons.
        whole: the same file with the T of the whole run. Its limits of currents, which depend on T, are taken.
        first: whether the run begins with this part; else potentials :data:`BEFORE` + layer are inputs.

    Returns:
        A model that gives, after its outputs, spikes as :func:`with_spike_sums` and potentials :data:`AFTER` + layer.
    """
    part = with_spike_sums(model, nodes)
    graph = part.graph
    limits = {tensor.name: tensor for tensor in whole.graph.initializer}
    taken = set()
    mine = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if node.op_type == "Clip" and index and name in limits:
                node.input[index] = f"{name}/of the whole run"
                taken.add(name)
    for name in sorted(taken):
        tensor = graph.initializer.add()
        tensor.CopyFrom(limits[name])
        tensor.name = f"{name}/of the whole run"
    if not first:
        graph.initializer.append(helper.make_tensor(f"{SPIKES}end", TensorProto.INT64, [1], [2**31]))
        graph.initializer.append(helper.make_tensor(f"{SPIKES}second", TensorProto.INT64, [1], [1]))
    lifted: dict[str, list[onnx.NodeProto]] = {}
    for layer, original in nodes.items():
        node = mine[original.output[0]]
        currents, before, threshold = node.input
        name = AFTER + layer
        if not first:
            start, before = before, BEFORE + layer
            graph.input.append(helper.make_tensor_value_info(before, TensorProto.FLOAT, None))
            lifted[node.output[0]] = _lift(node, before, start, name)
        made = [
            helper.make_node("ReduceSum", [currents, f"{SPIKES}axis"], [f"{name}/currents"], keepdims=0),
            helper.make_node("ReduceSum", [node.output[0], f"{SPIKES}axis"], [f"{name}/spikes"], keepdims=0),
            helper.make_node("Mul", [f"{name}/spikes", threshold], [f"{name}/spent"]),
            helper.make_node("Sub", [f"{name}/currents", f"{name}/spent"], [f"{name}/gained"]),
            helper.make_node("Add", [before, f"{name}/gained"], [name]),
        ]
        graph.node.extend(made)
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    ordered = [entry for node in graph.node for entry in (*lifted.get(node.output[0], ()), node)]
    del graph.node[:]
    graph.node.extend(ordered)
    return part


def _lift(node: onnx.NodeProto, before: str, start: str, name: str) -> list[onnx.NodeProto]:
    """Let a neuron begin with other potentials than its constant: what they differ by is added to the first current."""
    first, axis, end, currents = f"{SPIKES}axis", f"{SPIKES}axis", f"{SPIKES}end", node.input[0]
    second = f"{SPIKES}second"
    node.input[0] = f"{name}/from there"
    return [
        helper.make_node("Sub", [before, start], [f"{name}/lift"]),
        helper.make_node("Slice", [currents, first, second, axis], [f"{name}/first"]),
        helper.make_node("Slice", [currents, second, end, axis], [f"{name}/others"]),
        helper.make_node("Add", [f"{name}/first", f"{name}/lift"], [f"{name}/first lifted"]),
        helper.make_node("Concat", [f"{name}/first lifted", f"{name}/others"], [node.input[0]], axis=0),
    ]
