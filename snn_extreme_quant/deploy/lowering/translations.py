"""How the deployment operators of torch become nodes of the ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import defs
from onnxscript import opset18 as op18
from onnxscript.values import Op, Opset

from snn_extreme_quant.deploy.lowering import functions
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION, NeuronFunction
from snn_extreme_quant.deploy.recording.exactness import LayerExactness
from snn_extreme_quant.deploy.recording.grid import BYTE
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.quantizers.packing import LAYOUTS

__all__ = ["LAYER_ATTRIBUTE", "fits_pairs", "translations"]

#: Carries the layer's name from the recorded operator to the finished node.
LAYER_ATTRIBUTE = "sxq_layer"
_Table = dict[Any, Callable[..., Any]]
_OURS = torch.ops.snn_xq

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
    """An operator of our domain for the exporter to emit."""
    kinds = defs.OpSchema.AttrType
    types = {"group": kinds.INT, "grid": kinds.FLOAT, "inverse_grid": kinds.FLOAT, LAYER_ATTRIBUTE: kinds.STRING}
    schema = defs.OpSchema(
        name,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[_Formal(n, t) for n, t in inputs],
        outputs=[_Formal(n, "T") for n in outputs],
        type_constraints=_TYPES,
        attributes=[_Attribute(n, types.get(n, kinds.INTS), "", required=True) for n in (*attributes, LAYER_ATTRIBUTE)],
    )
    return Op(Opset(DOMAIN, DOMAIN_VERSION), name, schema)


def translations(exactness: Mapping[str, LayerExactness], states_used: set[str]) -> _Table:
    """Return what torch's exporter emits for each of our operators.

    Args:
        exactness: what is known of each packed layer's input.
        states_used: names of the neuron layers of which a state is read by something.
    """
    return {**_layers(exactness), **_neurons(states_used), **_others()}


def fits_pairs(units: float, layout: str) -> bool:
    """Whether products of bytes may be added in pairs of 16 bit, as onnxruntime does on processors without VNNI."""
    return not LAYOUTS[layout].wide and 2 * units * LAYOUTS[layout].largest < 2**15


def _layers(exactness: Mapping[str, LayerExactness]) -> _Table:
    def packed_linear(x, packed, scale, out_features: int, layout: str, layer: str):  # type: ignore[no-untyped-def]
        verdict = exactness[layer]
        inputs = _PACKED
        grid = verdict.grid
        unsigned = grid is not None and verdict.unsigned_byte and fits_pairs(grid.units, layout)
        signed = not unsigned and verdict.signed_byte and fits_pairs(BYTE, layout)
        if grid is not None and (unsigned or signed):
            name = functions.layer_operator("Linear", layout, integer_input=True, signed=signed)
            unit = 2.0**-grid.fraction
            node = _operator(name, inputs, ["y"], ["grid", "inverse_grid"])
            return node(x, packed, scale, grid=unit, inverse_grid=1 / unit, sxq_layer=layer)
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
        # Less padding at the end is more output; onnxruntime takes no output_padding from the stride on.
        taken = [min(p, extra) for p, extra in zip(padding, output_padding, strict=True)]
        node = _operator(functions.layer_operator("ConvTranspose", layout), _PACKED, ["y"], attributes)
        return node(
            x,
            packed,
            scale,
            weight_shape=[inputs * groups, outputs // groups, *kernel],
            grouped_shape=[groups, outputs // groups, inputs, -1],
            scale_shape=[-1] + [1] * (len(weight_shape) - 1),
            strides=list(stride),
            pads=[*padding, *(p - t for p, t in zip(padding, taken, strict=True))],
            dilations=list(dilation),
            output_padding=[extra - t for extra, t in zip(output_padding, taken, strict=True)],
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

    return {
        _OURS.packed_linear.default: packed_linear,
        _OURS.packed_conv.default: packed_conv,
        _OURS.packed_conv_transpose.default: packed_conv_transpose,
        _OURS.packed_embedding.default: packed_embedding,
    }


def _neurons(states_used: set[str]) -> _Table:
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

    return {_OURS.neuron_sequence.default: neuron_sequence, _OURS.neuron_step.default: neuron_step}


def _others() -> _Table:
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
        shape: Any = op18.Constant(value_ints=[channels, 1, *kernel])
        ones = op18.ConstantOfShape(shape, value=onnx.numpy_helper.from_array(np.ones(1, np.float32)))
        return op18.Conv(x, ones, strides=list(stride), pads=[*padding, *padding], group=channels)

    def to_bytes(x, inverse: float, signed: bool):  # type: ignore[no-untyped-def]
        factor: Any = op18.Constant(value_float=inverse)
        units = x if inverse == 1 else op18.Mul(x, factor)
        return op18.Cast(units, to=onnx.TensorProto.INT8 if signed else onnx.TensorProto.UINT8)

    def byte_matmul(a, b):  # type: ignore[no-untyped-def]
        return op18.MatMulInteger(a, b)

    def from_sums(sums, unit: float):  # type: ignore[no-untyped-def]
        value, factor = op18.Cast(sums, to=onnx.TensorProto.FLOAT), op18.Constant(value_float=unit)
        return value if unit == 1 else op18.Mul(value, cast("Any", factor))

    def float_embedding(  # type: ignore[no-untyped-def]
        weight, indices, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
    ):
        # Gather counts a negative index from the end, torch refuses it: one that no table has takes its place.
        ids: Any = op18.Cast(indices, to=onnx.TensorProto.INT64)
        first, none = op18.Constant(value_int=0), op18.Constant(value_int=2**62)
        negative: Any = op18.Less(ids, cast("Any", first))
        return op18.Gather(weight, op18.Where(negative, cast("Any", none), ids), axis=0)

    return {
        torch.ops.aten.embedding.default: float_embedding,
        _OURS.to_bytes.default: to_bytes,
        _OURS.byte_matmul.default: byte_matmul,
        _OURS.from_sums.default: from_sums,
        _OURS.fixed_point.default: fixed_point,
        _OURS.transpose.default: transpose,
        _OURS.sum_pool.default: sum_pool,
    }
