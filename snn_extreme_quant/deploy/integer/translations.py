"""How the torch operators of integer graphs become nodes of the ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import torch
from onnx import defs
from onnxscript import opset18 as op18
from onnxscript.values import Op, Opset

from snn_extreme_quant.deploy.integer import nodes
from snn_extreme_quant.deploy.integer.functions import IntegerLayer
from snn_extreme_quant.deploy.integer.neuron_functions import IntegerNeuron
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION
from snn_extreme_quant.deploy.lowering.translations import LAYER_ATTRIBUTE
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.neurons.fixed_point_spec import spike_limits

__all__ = ["integer_translations"]

_OURS = torch.ops.snn_xq
_Table = dict[Any, Callable[..., Any]]
_Formal, _Attribute = defs.OpSchema.FormalParameter, defs.OpSchema.Attribute
_KINDS = defs.OpSchema.AttrType


def _operator(node: nodes.IntegerNode, inputs: Sequence[tuple[str, str]], outputs: Sequence[tuple[str, str]]) -> Any:
    """An operator of our domain for the exporter to emit, with the types that it takes and gives."""
    kinds = {"group": _KINDS.INT, "shift": _KINDS.INT, LAYER_ATTRIBUTE: _KINDS.STRING}
    schema = defs.OpSchema(
        node.operator,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[_Formal(name, f"tensor({kind})") for name, kind in inputs],
        outputs=[_Formal(name, f"tensor({kind})") for name, kind in outputs],
        attributes=[
            _Attribute(name, kinds.get(name, _KINDS.INTS), "", required=True)
            for name in (*node.attributes, LAYER_ATTRIBUTE)
        ],
    )
    return Op(Opset(DOMAIN, DOMAIN_VERSION), node.operator, schema)


def _kind(value: Any) -> str:
    """Return the name of a tensor's type."""
    return str(value.dtype.name).lower()


def integer_translations(magnitudes: Mapping[str, int], states_used: set[str]) -> _Table:
    """Return what torch's exporter emits for each operator of integer graphs.

    Args:
        magnitudes: by quantised layer, the largest magnitude of what it reads; "" for poolings.
        states_used: names of the neuron layers of which a state is read by something.
    """
    return {**_layers(magnitudes), **_neurons(states_used), **_standard()}


def _layers(magnitudes: Mapping[str, int]) -> _Table:
    def layer_node(node: nodes.IntegerNode, name: str, x: Any, *weights: Any) -> Any:
        layer = IntegerLayer.from_name(node.operator)
        kinds = {"x": _kind(x), "packed": "uint8", "multiplier": "int32"}
        emit = _operator(node, [(i, kinds[i]) for i in layer.inputs], [("y", "int32")])
        return emit(x, *weights, **node.attributes, **{LAYER_ATTRIBUTE: name})

    def packed_linear_sum(x, packed, out_features: int, layout: str, layer: str):  # type: ignore[no-untyped-def]
        return layer_node(nodes.linear_node(_kind(x), out_features, layout, magnitudes[layer]), layer, x, packed)

    def packed_conv_sum(  # type: ignore[no-untyped-def]
        x,
        packed,
        weight_shape: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        layout: str,
        layer: str,
    ):
        node = nodes.conv_node(_kind(x), weight_shape, stride, padding, dilation, groups, layout, magnitudes[layer])
        return layer_node(node, layer, x, packed)

    def packed_conv_transpose_sum(  # type: ignore[no-untyped-def]
        x,
        packed,
        weight_shape: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        output_padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        layout: str,
        layer: str,
    ):
        node = nodes.conv_transpose_node(
            _kind(x), weight_shape, stride, padding, output_padding, dilation, groups, layout, magnitudes[layer]
        )
        return layer_node(node, layer, x, packed)

    def packed_embedding_sum(  # type: ignore[no-untyped-def]
        ids, packed, multiplier, columns: int, layout: str, layer: str
    ):
        return layer_node(nodes.embedding_node(columns, layout), layer, ids, packed, multiplier)

    def sum_pool_int(  # type: ignore[no-untyped-def]
        x, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], channels: int
    ):
        return layer_node(nodes.sum_pool_node(_kind(x), kernel, stride, padding, channels, magnitudes[""]), "", x)

    return {
        _OURS.packed_linear_sum.default: packed_linear_sum,
        _OURS.packed_conv_sum.default: packed_conv_sum,
        _OURS.packed_conv_transpose_sum.default: packed_conv_transpose_sum,
        _OURS.packed_embedding_sum.default: packed_embedding_sum,
        _OURS.sum_pool_int.default: sum_pool_int,
    }


def _neurons(states_used: set[str]) -> _Table:
    def neuron(  # type: ignore[no-untyped-def]
        x,
        states,
        parameters,
        weights,
        layout: str,
        geometry: Sequence[int],
        shift: int,
        operator: str,
        layer: str,
        step: bool,
    ):
        spec = NeuronSpec.from_operator(operator)
        node = nodes.neuron_node(operator, layout, geometry, shift, step=step, states=layer in states_used)
        function = IntegerNeuron.from_name(node.operator)
        kinds = {"packed": "uint8", "s0": "uint8"}
        spikes = "int8" if spike_limits(spec)[0] < 0 else "uint8"
        emit = _operator(
            node,
            [(name, kinds.get(name, "int32")) for name in function.inputs],
            [(name, spikes if name == "spikes" else "int32") for name in function.outputs],
        )
        result = emit(x, *states, *parameters, *weights, **node.attributes, **{LAYER_ATTRIBUTE: layer})
        if len(function.outputs) > 1:
            return tuple(result)
        # Nothing reads the states of an operator that does not give them.
        return (result, *(result for _ in function.spec.outputs[1:]))

    def fixed_neuron_sequence(  # type: ignore[no-untyped-def]
        x,
        states,
        parameters,
        weights,
        layout: str,
        geometry: Sequence[int],
        shift: int,
        operator: str,
        layer: str,
    ):
        return neuron(x, states, parameters, weights, layout, geometry, shift, operator, layer, step=False)

    def fixed_neuron_step(  # type: ignore[no-untyped-def]
        x,
        states,
        parameters,
        weights,
        layout: str,
        geometry: Sequence[int],
        shift: int,
        operator: str,
        layer: str,
    ):
        return neuron(x, states, parameters, weights, layout, geometry, shift, operator, layer, step=True)

    return {
        _OURS.fixed_neuron_sequence.default: fixed_neuron_sequence,
        _OURS.fixed_neuron_step.default: fixed_neuron_step,
    }


def _standard() -> _Table:
    def encode_fixed_point(x, bits: int, fraction: int):  # type: ignore[no-untyped-def]
        scale = 2.0**fraction
        clipped = op18.Clip(x, op18.Constant(value_float=0.0), op18.Constant(value_float=(2**bits - 1) / scale))
        rounded = op18.Round(op18.Mul(clipped, op18.Constant(value_float=scale)))
        return op18.Cast(rounded, to=onnx.TensorProto.UINT8 if bits <= 8 else onnx.TensorProto.INT32)

    def matmul_int(a, b):  # type: ignore[no-untyped-def]
        return op18.MatMulInteger(a, b) if _kind(a) == "uint8" else op18.MatMul(a, b)

    def max_pool_int(  # type: ignore[no-untyped-def]
        x, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
    ):
        largest, _places = op18.MaxPool(
            x, kernel_shape=list(kernel), strides=list(stride), pads=list(padding), dilations=list(dilation)
        )
        return largest

    return {
        _OURS.encode_fixed_point.default: encode_fixed_point,
        _OURS.matmul_int.default: matmul_int,
        _OURS.max_pool_int.default: max_pool_int,
    }
