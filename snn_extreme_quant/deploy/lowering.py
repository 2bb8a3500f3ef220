"""From a recorded graph to an ONNX model that holds packed weights and the bodies of its operators."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import defs
from onnxscript import opset18 as op18
from onnxscript.values import Op, Opset
from torch import Tensor, fx

from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.quantizers.packing import LAYOUTS

from . import functions
from .capture import quiet_torch
from .exactness import Exactness, LayerExactness
from .functions import DOMAIN, DOMAIN_VERSION, OPSET, NeuronFunction

__all__ = ["IR_VERSION", "METADATA_KEY", "layer_facts", "lower"]

#: The oldest format that holds functions; every onnxruntime from 1.17 on reads it.
IR_VERSION = 8
METADATA_KEY = "snn_extreme_quant"
_LAYER = "sxq_layer"

_Formal, _Attribute = defs.OpSchema.FormalParameter, defs.OpSchema.Attribute
_TYPES = [
    ("T", ["tensor(float)"], ""),
    ("U", ["tensor(uint8)"], ""),
    ("I", ["tensor(int64)", "tensor(int32)"], ""),
]
_PACKED = [("x", "T"), ("packed", "U"), ("scale", "T")]


def _operator(
    name: str, inputs: Sequence[tuple[str, str]], outputs: Sequence[str], attributes: Sequence[str] = ()
) -> Any:
    """An operator of our domain for the exporter to emit; ``sxq_layer`` carries the layer's name to :func:`_finish`."""
    kinds = defs.OpSchema.AttrType
    types = {"group": kinds.INT, "grid": kinds.FLOAT, "inverse_grid": kinds.FLOAT, _LAYER: kinds.STRING}
    schema = defs.OpSchema(
        name,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[_Formal(n, t) for n, t in inputs],
        outputs=[_Formal(n, "T") for n in outputs],
        type_constraints=_TYPES,
        attributes=[_Attribute(n, types.get(n, kinds.INTS), "", required=True) for n in (*attributes, _LAYER)],
    )
    return Op(Opset(DOMAIN, DOMAIN_VERSION), name, schema)


def _translations(exactness: dict[str, LayerExactness], states_used: set[str]) -> dict[Any, Callable[..., Any]]:
    """Return how each of our torch operators becomes a node."""

    def packed_linear(x, packed, scale, out_features: int, layout: str, layer: str):  # type: ignore[no-untyped-def]
        verdict = exactness[layer]
        inputs = _PACKED
        if verdict.unsigned_byte and verdict.grid is not None and _fits_pairs(verdict.grid.units, layout):
            name = functions.layer_operator("Linear", layout, integer_input=True)
            grid = 2.0**-verdict.grid.fraction
            node = _operator(name, inputs, ["y"], ["grid", "inverse_grid"])
            return node(x, packed, scale, grid=grid, inverse_grid=1 / grid, sxq_layer=layer)
        node = _operator(functions.layer_operator("Linear", layout), inputs, ["y"])
        return node(x, packed, scale, sxq_layer=layer)

    def packed_conv(  # type: ignore[no-untyped-def]
        x,
        packed,
        scale,
        weight_shape: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        layout: str,
        layer: str,
    ):
        attributes = ["weight_shape", "scale_shape", "strides", "pads", "dilations", "group"]
        node = _operator(functions.layer_operator("Conv", layout), _PACKED, ["y"], attributes)
        return node(
            x,
            packed,
            scale,
            weight_shape=list(weight_shape),
            scale_shape=[-1] + [1] * (len(weight_shape) - 1),
            strides=list(stride),
            pads=list(padding),
            dilations=list(dilation),
            group=groups,
            sxq_layer=layer,
        )

    def packed_conv_transpose(  # type: ignore[no-untyped-def]
        x,
        packed,
        scale,
        weight_shape: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        output_padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        layout: str,
        layer: str,
    ):
        attributes = [
            "weight_shape", "grouped_shape", "scale_shape", "strides", "pads", "dilations", "output_padding", "group",
        ]  # fmt: skip
        outputs, inputs, *kernel = weight_shape
        node = _operator(functions.layer_operator("ConvTranspose", layout), _PACKED, ["y"], attributes)
        return node(
            x,
            packed,
            scale,
            weight_shape=[inputs * groups, outputs // groups, *kernel],
            grouped_shape=[groups, outputs // groups, inputs, -1],
            scale_shape=[-1] + [1] * (len(weight_shape) - 1),
            strides=list(stride),
            pads=[*padding, *padding],
            dilations=list(dilation),
            output_padding=list(output_padding),
            group=groups,
            sxq_layer=layer,
        )

    def packed_embedding(ids, packed, scale, columns: int, layout: str, layer: str):  # type: ignore[no-untyped-def]
        node = _operator(
            functions.layer_operator("Embedding", layout),
            [("x", "I"), ("packed", "U"), ("scale", "T")],
            ["y"],
            ["columns"],
        )
        return node(ids, packed, scale, columns=[columns], sxq_layer=layer)

    def neuron(  # type: ignore[no-untyped-def]
        x, states, parameters, weights, layout: str, geometry: Sequence[int], operator: str, layer: str, step: bool
    ):
        function = NeuronFunction(
            NeuronSpec.from_operator(operator),
            step=step,
            vector=any(len(p.shape) > 0 for p in parameters),
            states=step or layer in states_used,
            layout=layout,
            biased=len(weights) > (1 if layout == "float" else 2),
        )
        types = {"packed": "U"}
        inputs = [(name, types.get(name, "T")) for name in function.inputs]
        attributes: dict[str, list[int]] = {}
        if function.attributes:
            rank = (len(geometry) + 4) // 3
            attributes = {
                "weight_shape": list(geometry[:rank]),
                "channel_shape": [-1] + [1] * (rank - 2),
                "pads": list(geometry[rank:]),
            }
        node = _operator(function.name, inputs, function.outputs, list(attributes))
        result = node(x, *states, *parameters, *weights, **attributes, sxq_layer=layer)
        # Nothing reads the states of an operator that does not give them.
        spikes = result if len(function.outputs) == 1 else result[0]
        rest = [spikes] * (len(function.spec.outputs) - 1) if len(function.outputs) == 1 else result[1:]
        return (spikes, *rest)

    def neuron_sequence(  # type: ignore[no-untyped-def]
        x, states, parameters, weights, layout: str, geometry: Sequence[int], operator: str, layer: str
    ):
        return neuron(x, states, parameters, weights, layout, geometry, operator, layer, step=False)

    def neuron_step(  # type: ignore[no-untyped-def]
        x, states, parameters, weights, layout: str, geometry: Sequence[int], operator: str, layer: str
    ):
        return neuron(x, states, parameters, weights, layout, geometry, operator, layer, step=True)

    def fixed_point(x, bits: int, fraction: int):  # type: ignore[no-untyped-def]
        scale = 2.0**fraction
        clipped = op18.Clip(x, op18.Constant(value_float=0.0), op18.Constant(value_float=(2**bits - 1) / scale))
        rounded = op18.Round(op18.Mul(clipped, op18.Constant(value_float=scale)))
        return op18.Mul(rounded, op18.Constant(value_float=1 / scale))

    def transpose(x, order: Sequence[int]):  # type: ignore[no-untyped-def]
        return op18.Transpose(x, perm=list(order))

    def sum_pool(  # type: ignore[no-untyped-def]
        x, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], channels: int
    ):
        ones = op18.ConstantOfShape(
            op18.Constant(value_ints=[channels, 1, *kernel]), value=onnx.numpy_helper.from_array(np.ones(1, np.float32))
        )
        return op18.Conv(x, ones, strides=list(stride), pads=[*padding, *padding], group=channels)

    ops = torch.ops.snn_xq
    return {
        ops.sum_pool.default: sum_pool,
        ops.packed_linear.default: packed_linear,
        ops.packed_conv.default: packed_conv,
        ops.packed_conv_transpose.default: packed_conv_transpose,
        ops.packed_embedding.default: packed_embedding,
        ops.neuron_sequence.default: neuron_sequence,
        ops.neuron_step.default: neuron_step,
        ops.fixed_point.default: fixed_point,
        ops.transpose.default: transpose,
    }


def _fits_pairs(units: float, layout: str) -> bool:
    """Whether products of bytes may be added in pairs of 16 bit, as onnxruntime does on processors without VNNI."""
    largest = LAYOUTS[layout].largest
    return layout != "int16" and 2 * units * largest < 2**15


def _states_used(graph: fx.Graph) -> set[str]:
    """Names of the neuron layers of which a state is an output or read by something."""
    return {
        str(node.args[-1])
        for node in graph.nodes
        if node.target is torch.ops.snn_xq.neuron_sequence.default
        and any(user.args[1] != 0 and user.users for user in node.users)
    }


def lower(
    graph: fx.GraphModule,
    sample: Tensor,
    exactness: Exactness,
    output_names: Sequence[str],
    axes: dict[int, str],
    metadata: dict[str, Any],
) -> onnx.ModelProto:
    """Return the ONNX model of a recorded graph.

    Args:
        graph: what :func:`~snn_extreme_quant.deploy.capture.capture` recorded, folded or not.
        sample: the input it was recorded with, for its shape.
        exactness: what :func:`~snn_extreme_quant.deploy.exactness.analyse` found.
        output_names: a name for each output.
        axes: names of the input's open axes.
        metadata: JSON-ready facts for the file; the list of layers is added.
    """
    with quiet_torch(), torch.no_grad():
        program: Any = torch.onnx.export(
            graph,
            (sample,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            dynamic_shapes=(dict.fromkeys(axes, torch.export.Dim.AUTO),),
            custom_translation_table=_translations(exactness.layers, _states_used(graph.graph)),
            input_names=["input"],
            output_names=list(output_names),
            external_data=False,
        )
    return _finish(program.model, exactness, axes, metadata)


def _finish(model: ir.Model, exactness: Exactness, axes: dict[int, str], metadata: dict[str, Any]) -> onnx.ModelProto:
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
        layer = node.attributes.pop(_LAYER).as_string()
        if node.op_type not in used:
            used.append(node.op_type)
        if node.op_type.startswith("Step"):
            steps[layer] = steps.get(layer, -1) + 1
            node.name = f"{layer}@{steps[layer]}"
        else:
            # A multi-step neuron that takes several sequences, or a layer used twice.
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
    proto.functions.extend(functions.function_body(name) for name in used)
    del proto.graph.value_info[:]
    for item in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    _name_axes(proto, axes)
    entry = proto.metadata_props.add()
    entry.key = METADATA_KEY
    entry.value = json.dumps({**metadata, "layers": list(layers.values())}, separators=(",", ":"))
    return proto


def layer_facts(proto: onnx.ModelProto) -> list[dict[str, Any]]:
    """Return what the file says of each layer."""
    text = next(entry.value for entry in proto.metadata_props if entry.key == METADATA_KEY)
    facts: list[dict[str, Any]] = json.loads(text)["layers"]
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
    if functions.is_layer(node.op_type):
        parts = ["", "packed", "scale"]
    else:
        parts = ["", *(name.removeprefix("p_") for name in NeuronFunction.from_name(node.op_type).inputs[1:])]
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


def _name_axes(proto: onnx.ModelProto, axes: dict[int, str]) -> None:
    """Call the open axes of inputs and outputs by their meaning instead of the exporter's symbols."""
    names: dict[str, str] = {}
    for axis, size in enumerate(proto.graph.input[0].type.tensor_type.shape.dim):
        if size.dim_param and axis in axes:
            names[size.dim_param] = axes[axis]
    for value in (*proto.graph.input, *proto.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = names.get(size.dim_param, size.dim_param)
