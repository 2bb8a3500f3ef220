"""The golden model: an exported integer file, computed by a few lines of numpy.

It reads the graph of the file and carries it out node by node, by a short function for each operator: those of our
domain here, in :mod:`.golden_neurons`, :mod:`.golden_tokens` and :mod:`.golden_language`, ONNX's own in
:mod:`.golden_standard`. Neither onnxruntime nor torch nor the bodies that the file carries take part, so it is an
independent oracle for all of them. Between the first and the last integer operator all arrays hold whole numbers;
floats occur before (the encoding of the input) and behind (the decoding of the output) alone, and there, for operators
that no integer network has, onnx's reference evaluator helps out.

It is written to be read, not to be fast: sums are numpy's integer products.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from snn_extreme_quant.deploy.integer.functions import IntegerLayer
from snn_extreme_quant.deploy.integer.golden_language import run_language
from snn_extreme_quant.deploy.integer.golden_neurons import run_neurons
from snn_extreme_quant.deploy.integer.golden_standard import STANDARD
from snn_extreme_quant.deploy.integer.golden_tokens import run_tokens
from snn_extreme_quant.deploy.integer.neuron_functions import IntegerNeuron
from snn_extreme_quant.deploy.lowering.functions import (
    DOMAIN,
    is_integer_layer,
    is_integer_neuron,
    is_language_integer,
    is_neuron,
    is_token_integer,
    is_token_neuron,
)
from snn_extreme_quant.errors import ModelFileError, SampleError, SxqError
from snn_extreme_quant.quantizers.packing import unpack

__all__ = ["GoldenRun", "golden_run"]

Array = npt.NDArray[Any]
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class GoldenRun:
    """What the golden model gives.

    Args:
        outputs: the file's outputs by name.
        spikes: by name of a neuron layer's node, its spikes (uint8, or int8 with a sign).
    """

    outputs: dict[str, Array]
    spikes: dict[str, Array]


def golden_run(
    model: str | os.PathLike[str] | onnx.ModelProto,
    inputs: Array | Mapping[str, Array],
    spikes_of: Collection[str] | None = None,
) -> GoldenRun:
    """Compute an integer file in numpy.

    Args:
        model: the file, or what was read from it.
        inputs: the input, or each input by name.
        spikes_of: names of the neuron nodes whose spikes are wanted; all by default.

    Raises:
        ModelFileError: the file cannot be read, holds an operator that no integer file has, or a number leaves the
            type that holds it, for which it was not made.
        SampleError: an input is missing, or of another type than the file takes.

    Example:
        >>> report = sxq.export_onnx(model, sample, "net.onnx", integer=True)  # doctest: +SKIP
        >>> golden_run("net.onnx", spikes).outputs["output"]  # doctest: +SKIP
    """
    proto = model if isinstance(model, onnx.ModelProto) else _read(Path(model))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    values |= _given(proto, inputs)
    spikes: dict[str, Array] = {}
    for node in proto.graph.node:
        operands = [values[name] if name else None for name in node.input]
        results = _carried_out(proto, node, operands)
        values.update(zip(node.output, results, strict=False))
        fires = node.domain == DOMAIN and (is_integer_neuron(node.op_type) or is_token_neuron(node.op_type))
        if fires and (spikes_of is None or node.name in spikes_of):
            spikes[node.name] = results[0]
    return GoldenRun({output.name: values[output.name] for output in proto.graph.output}, spikes)


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path)
    except Exception as error:
        raise ModelFileError(f"{path} cannot be read as an ONNX model: {error}") from error


def _given(proto: onnx.ModelProto, inputs: Array | Mapping[str, Array]) -> dict[str, Array]:
    """Return the inputs by name, of the types that the file takes."""
    constant = {tensor.name for tensor in proto.graph.initializer}
    wanted = {value.name: value.type.tensor_type for value in proto.graph.input if value.name not in constant}
    named = dict(inputs) if isinstance(inputs, Mapping) else dict.fromkeys(list(wanted)[:1], inputs)
    if set(named) != set(wanted):
        raise SampleError(f"The file takes the inputs {', '.join(wanted)}; got {', '.join(named)}.")
    for name, kind in wanted.items():
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if named[name].dtype != dtype:
            raise SampleError(f"Input {name!r} is {named[name].dtype}; the file takes {dtype}.")
        if named[name].ndim != len(kind.shape.dim):
            raise SampleError(f"Input {name!r} has {named[name].ndim} axes; the file takes {len(kind.shape.dim)}.")
    return named


def _carried_out(proto: onnx.ModelProto, node: onnx.NodeProto, operands: Sequence[Array | None]) -> list[Array]:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    where = f"{node.op_type} {node.name!r}"
    if node.domain == DOMAIN and is_integer_neuron(node.op_type):
        return run_neurons(IntegerNeuron.from_name(node.op_type), _all(operands), attributes, where)
    if node.domain == DOMAIN and is_integer_layer(node.op_type):
        layer = IntegerLayer.from_name(node.op_type)
        return [_whole(_LAYERS[layer.kind](layer, _all(operands), attributes), where)]
    if node.domain == DOMAIN and is_language_integer(node.op_type):
        return run_language(node.op_type, _all(operands), attributes, where)
    if node.domain == DOMAIN and is_token_integer(node.op_type):
        return [run_tokens(node.op_type, _all(operands), attributes, where)]
    if node.domain == DOMAIN and is_neuron(node.op_type):
        raise ModelFileError(f"{where} computes in float; the golden model is one of files exported with integer=True.")
    if not node.domain and node.op_type in STANDARD:
        try:
            return STANDARD[node.op_type](operands, attributes)
        except OverflowError as error:
            raise _overflow(where, operands, error) from error
    if any(value is not None and value.dtype.kind == "f" for value in operands):
        return _decoded(proto, node, operands)
    raise ModelFileError(f"{where}: the golden model knows no such operator on whole numbers.")


def _overflow(where: str, operands: Sequence[Array | None], error: OverflowError) -> SxqError:
    """Say what leaves its type: an input, where it is encoded, or a number for which the file was not made."""
    if operands[0] is not None and operands[0].dtype.kind == "f":
        return SampleError(f"{where}: {error}; give the file inputs that it takes (0 and 1 with input='spikes').")
    return ModelFileError(
        f"{where}: {error}; the file was made for fewer time steps or for another input: export it again for more"
        " steps, with --max-steps (in Python IntegerOptions(max_steps=...))."
    )


def _all(operands: Sequence[Array | None]) -> list[Array]:
    """Return the operands of an operator of ours, none of which may be left out."""
    return [value for value in operands if value is not None]


def _decoded(proto: onnx.ModelProto, node: onnx.NodeProto, operands: Sequence[Array | None]) -> list[Array]:
    """Compute one node behind the integer network (or before it), in float, by onnx's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    named = {name: value for name, value in zip(node.input, operands, strict=True) if value is not None}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in named.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "decoding", inputs, outputs)
    model = helper.make_model(graph, functions=proto.functions, opset_imports=proto.opset_import)
    results: Any = ReferenceEvaluator(model).run(None, named)
    return list(results)


# Integer sums: functions of the operator, its inputs and its attributes ----------------------------------------------


def _whole(sums: Array, where: str) -> Array:
    """Return sums as int32, in which every file's sums fit."""
    if sums.size and (sums.max() > _INT32.max or sums.min() < _INT32.min):
        raise ModelFileError(f"{where}: a sum leaves 32 bits, for which the file was not made.")
    return sums.astype(np.int32)


def _matmul(layer: IntegerLayer, inputs: list[Array], attributes: Mapping[str, Any]) -> Array:
    x, packed = inputs
    codes = unpack(packed, attributes["columns"][0], layer.layout)
    product: Array = x.astype(np.int64) @ codes.astype(np.int64)
    return product


def _embedding(layer: IntegerLayer, inputs: list[Array], attributes: Mapping[str, Any]) -> Array:
    ids, packed, multiplier = inputs
    if ids.size and not 0 <= ids.min() <= ids.max() < len(packed):
        raise SampleError(f"An index outside the {len(packed)} rows of an embedding: {ids.min()} to {ids.max()}.")
    codes = unpack(packed, attributes["columns"][0], layer.layout).astype(np.int64)
    rows: Array = codes[ids] * multiplier[ids].astype(np.int64)[..., None]
    return rows


def _kernel(layer: IntegerLayer, packed: Array, attributes: Mapping[str, Any]) -> Array:
    """Return the codes as ``(N, C / group, kernel positions...)``."""
    codes = unpack(packed, attributes["columns"][0], layer.layout)
    return codes.T.reshape(attributes["weight_shape"]).astype(np.int64)


def _positions(kernel: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Give each place in a kernel, and the codes ``(N, C / group)`` there."""
    flat = kernel.reshape(*kernel.shape[:2], -1)
    for index, position in enumerate(np.ndindex(*kernel.shape[2:])):
        yield position, flat[:, :, index]


def _conv(layer: IntegerLayer, inputs: list[Array], attributes: Mapping[str, Any]) -> Array:
    x, packed = inputs
    return _correlate(x, _kernel(layer, packed, attributes), attributes)


def _sum_pool(_layer: IntegerLayer, inputs: list[Array], attributes: Mapping[str, Any]) -> Array:
    return _correlate(inputs[0], np.ones(attributes["weight_shape"], np.int64), attributes)


def _correlate(x: Array, kernel: Array, attributes: Mapping[str, Any]) -> Array:
    """Sum over kernel positions: what lies there in the padded input, a stride apart, times the codes there."""
    axes = kernel.ndim - 2
    strides, pads, group = attributes["strides"], attributes["pads"], attributes["group"]
    dilations = attributes.get("dilations", [1] * axes)
    x = np.pad(x.astype(np.int64), [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    sizes = [(x.shape[2 + a] - dilations[a] * (kernel.shape[2 + a] - 1) - 1) // strides[a] + 1 for a in range(axes)]
    y = np.zeros((x.shape[0], kernel.shape[0], *sizes), np.int64)
    for position, codes in _positions(kernel):
        begins = [position[a] * dilations[a] for a in range(axes)]
        window = [slice(b, b + (n - 1) * s + 1, s) for b, n, s in zip(begins, sizes, strides, strict=True)]
        y += _by_group(x[:, :, *window], codes, group)
    return y


def _by_group(x: Array, codes: Array, group: int) -> Array:
    """Multiply the channels of ``x`` ``(B, C, ...)`` by codes ``(N, C / group)``, each group its own outputs."""
    batch, channels, *sizes = x.shape
    grouped = x.reshape(batch, group, channels // group, math.prod(sizes))
    products = codes.reshape(group, -1, codes.shape[1]) @ grouped
    return products.reshape(batch, codes.shape[0], *sizes)


def _conv_transpose(layer: IntegerLayer, inputs: list[Array], attributes: Mapping[str, Any]) -> Array:
    """Each input is multiplied by the whole kernel, whose positions lie where the input's neighbours' do not."""
    x, packed = inputs
    kernel = _kernel(layer, packed, attributes)
    axes = kernel.ndim - 2
    strides, pads, dilations = attributes["strides"], attributes["pads"], attributes["dilations"]
    sizes = x.shape[2:]
    full = [
        (sizes[a] - 1) * strides[a] + dilations[a] * (kernel.shape[2 + a] - 1) + 1 + attributes["output_padding"][a]
        for a in range(axes)
    ]
    y = np.zeros((x.shape[0], kernel.shape[0], *full), np.int64)
    for position, codes in _positions(kernel):
        begins = [position[a] * dilations[a] for a in range(axes)]
        window = [slice(b, b + (n - 1) * s + 1, s) for b, n, s in zip(begins, sizes, strides, strict=True)]
        y[:, :, *window] += _by_group(x.astype(np.int64), codes, attributes["group"])
    inner = [slice(pads[a], full[a] - pads[axes + a]) for a in range(axes)]
    return y[:, :, *inner]


_LAYERS: dict[str, Callable[[IntegerLayer, list[Array], Mapping[str, Any]], Array]] = {
    "MatMul": _matmul,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Embedding": _embedding,
    "SumPool": _sum_pool,
}
