"""From a recorded graph to an ONNX model that holds packed weights and the bodies of its operators."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.integer.translations import integer_translations
from snn_extreme_quant.deploy.lowering import functions
from snn_extreme_quant.deploy.lowering.body_facts import body_facts
from snn_extreme_quant.deploy.lowering.byte_products import with_byte_products
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION, OPSET
from snn_extreme_quant.deploy.lowering.fusion_barriers import keep_sums_apart
from snn_extreme_quant.deploy.lowering.translations import LAYER_ATTRIBUTE, translations
from snn_extreme_quant.deploy.recording.capture import quiet_torch
from snn_extreme_quant.deploy.recording.exactness import Exactness
from snn_extreme_quant.deploy.recording.graphs import SEQUENCE
from snn_extreme_quant.deploy.recording.running import first_line
from snn_extreme_quant.deploy.shifts.translations import shift_translations
from snn_extreme_quant.deploy.streaming.graph import State
from snn_extreme_quant.deploy.synchronous.translations import synchronous_translations
from snn_extreme_quant.deploy.tokens.integer_translations import token_integer_translations
from snn_extreme_quant.errors import ExportError, SxqError
from snn_extreme_quant.exported.files import AFTER, METADATA_KEY

__all__ = ["IR_VERSION", "file_facts", "layer_facts", "lower", "lowering_error"]

#: The oldest format that holds functions; every onnxruntime from 1.17 on reads it.
IR_VERSION = 8
_OURS = torch.ops.snn_xq


def _states_used(graph: fx.Graph) -> set[str]:
    """Names of the neuron layers of which a state is an output or read by something."""
    return {
        str(node.args[-1])
        for node in graph.nodes
        if node.target in (SEQUENCE, _OURS.fixed_neuron_sequence.default)
        and any(user.args[1] != 0 and user.users for user in node.users)
    }


def lowering_error(error: Exception) -> ExportError:
    """Return what a failure to write or check a graph is to a user.

    That is what we said ourselves, however deep below torch's exporter, that the ONNX is invalid, or the root of
    torch's error.
    """
    if isinstance(error, onnx.checker.ValidationError):
        return ExportError(f"The exported model is not valid ONNX: {error}")
    root: BaseException = error
    while True:
        if isinstance(root, ExportError):
            return root
        if isinstance(root, SxqError):
            return ExportError(str(root))
        if root.__cause__ is None:
            break
        root = root.__cause__
    return ExportError(f"torch's exporter cannot translate the model: {first_line(root)}")


def lower(
    graph: fx.GraphModule,
    sample: Tensor | Mapping[str, Tensor],
    exactness: Exactness,
    output_names: Sequence[str],
    axes: dict[int, str],
    metadata: dict[str, Any],
    states: Sequence[State] = (),
    magnitudes: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """Return the ONNX model of a recorded graph, or of an integer graph.

    Args:
        graph: what :func:`~snn_extreme_quant.deploy.recording.capture.capture` recorded, folded or not.
        sample: the input it was recorded with, for its shape; several inputs by name, with the same open axes.
        exactness: what :func:`~snn_extreme_quant.deploy.recording.exactness.analyse` found.
        output_names: a name for each output.
        axes: names of the open axes of the input, or of each input.
        metadata: JSON-ready facts for the file; the list of layers is added.
        states: what a graph of one step takes besides its input, and gives besides its outputs.
        magnitudes: of an integer graph, by quantised layer, the largest magnitude of what it reads.
    """
    states_used = _states_used(graph.graph)
    table = {
        **translations(exactness.layers, states_used),
        **integer_translations(magnitudes or {}, states_used),
        **synchronous_translations(),
        **shift_translations(),
        **token_integer_translations(),
    }
    inputs = sample if isinstance(sample, Mapping) else {"input": sample}
    samples = next((next(iter(inputs.values())).shape[axis] for axis, name in axes.items() if name == "B"), 1)
    every = [
        *(axes for _ in inputs),
        *({axis: "B" for axis, size in enumerate(state.shape) if size is None} for state in states),
    ]
    with quiet_torch(), torch.no_grad():
        program: Any = torch.onnx.export(
            with_byte_products(graph, exactness),
            (*inputs.values(), *(state.start(samples) for state in states)),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            dynamic_shapes=tuple(dict.fromkeys(open_axes, torch.export.Dim.AUTO) for open_axes in every),
            custom_translation_table=table,
            input_names=[*inputs, *(state.name for state in states)],
            output_names=[*output_names, *(f"{state.name}{AFTER}" for state in states)],
            external_data=False,
        )
    return _finish(program.model, exactness, every, metadata)


def _finish(
    model: ir.Model, exactness: Exactness, axes: Sequence[Mapping[int, str]], metadata: dict[str, Any]
) -> onnx.ModelProto:
    """Name nodes after layers, attach bodies and metadata, and drop everything that tells of the exporting machine."""
    counts: dict[str, int] = {}
    steps: dict[str, int] = {}
    uses: dict[str, int] = {}
    layers: dict[str, dict[str, Any]] = {}
    used: list[str] = []
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        if node.domain != DOMAIN:
            node.name = _numbered(node.op_type, counts)
            continue
        layer = node.attributes.pop(LAYER_ATTRIBUTE).as_string()
        if node.op_type not in used:
            used.append(node.op_type)
        if not layer:
            node.name = _numbered(node.op_type, counts)  # an integer pooling
            continue
        if node.op_type.startswith("Step") and metadata.get("form") != "streaming":
            steps[layer] = steps.get(layer, -1) + 1
            node.name = f"{layer}@{steps[layer]}"
        else:
            # A multi-step neuron that takes several sequences, or a layer used twice (in a step).
            uses[layer] = uses.get(layer, -1) + 1
            node.name = f"{layer}@{uses[layer]}" if uses[layer] else layer
        _name_initializers(model, node, layer)
        layers.setdefault(layer, _describe(node, layer, exactness))
    for name in list(model.graph.initializers):
        shorter = name.removeprefix("inner.").removeprefix("model.")
        if shorter != name and shorter not in model.graph.initializers:
            _rename(model, name, shorter)
    model.graph.name, model.graph.doc_string, model.doc_string = "network", None, None
    model.opset_imports[DOMAIN] = DOMAIN_VERSION
    model.producer_name, model.producer_version = "snn_extreme_quant", metadata["version"]
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.functions.clear()

    proto: onnx.ModelProto = ir.to_proto(model)
    proto.ir_version = IR_VERSION
    proto.functions.extend(functions.function_body(name, body_facts(name, proto.graph)) for name in used)
    del proto.graph.value_info[:]
    # Integers are never scaled while they are added up; sums of the reference profile are of real numbers, not exact.
    if not metadata.get("integer") and metadata.get("profile") != "reference":
        keep_sums_apart(proto.graph)
    for item in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    _name_axes(proto, axes)
    entry = proto.metadata_props.add()
    entry.key = METADATA_KEY
    entry.value = json.dumps({**metadata, "layers": list(layers.values())}, separators=(",", ":"))
    return proto


def file_facts(proto: onnx.ModelProto) -> dict[str, Any]:
    """Return what the file says of itself."""
    text = next(entry.value for entry in proto.metadata_props if entry.key == METADATA_KEY)
    facts: dict[str, Any] = json.loads(text)
    return facts


def layer_facts(proto: onnx.ModelProto) -> list[dict[str, Any]]:
    """Return what the file says of each layer."""
    facts: list[dict[str, Any]] = file_facts(proto)["layers"]
    return facts


def _numbered(name: str, counts: dict[str, int]) -> str:
    counts[name] = counts.get(name, 0) + 1
    return f"{name}_{counts[name]}"


def _describe(node: ir.Node, layer: str, exactness: Exactness) -> dict[str, Any]:
    if layer in exactness.neurons:
        verdict = exactness.neurons[layer]
        return {"name": layer, "kind": "neuron", "op": node.op_type, "exact": verdict.exact, "why": verdict.reason}
    verdict = exactness.layers[layer]
    return {"name": layer, "kind": "layer", "op": node.op_type, "exact": verdict.exact, "why": verdict.reason}


def _name_initializers(model: ir.Model, node: ir.Node, layer: str) -> None:
    """Name the constants a node of ours reads after its layer and their part in it."""
    parts = ["", *(name.removeprefix("p_") for name in functions.function_body(node.op_type).input[1:])]
    for value, part in zip(node.inputs, parts, strict=True):
        if not part or value is None or value.name is None or value.name not in model.graph.initializers:
            continue
        if value.name.startswith("inner.") or "." not in value.name:
            _rename(model, value.name, _free_name(model, f"{layer}.{part}"))


def _free_name(model: ir.Model, name: str) -> str:
    """Return ``name``, numbered if it is taken: a layer with scales by group has several constants of a kind."""
    taken = [name, *(f"{name}.{i}" for i in range(1, len(model.graph.initializers) + 1))]
    return next(candidate for candidate in taken if candidate not in model.graph.initializers)


def _rename(model: ir.Model, old: str, new: str) -> None:
    value = model.graph.initializers.pop(old)
    value.name = new
    model.graph.initializers[new] = value


def _name_axes(proto: onnx.ModelProto, axes: Sequence[Mapping[int, str]]) -> None:
    """Call the open axes of inputs and outputs by their meaning instead of the exporter's symbols."""
    names: dict[str, str] = {}
    for value, known in zip(proto.graph.input, axes, strict=True):
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.dim_param and axis in known:
                names.setdefault(size.dim_param, known[axis])
    for value in (*proto.graph.input, *proto.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = names.get(size.dim_param, size.dim_param)
