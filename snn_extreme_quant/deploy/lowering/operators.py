"""The deployment operators, as torch custom operators of the namespace ``snn_xq``.

A captured model calls these in place of its quantised layers and its neurons. They compute what the layers and
neurons compute, operation for operation; the exporter translates each into one ONNX node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snn_extreme_quant.neurons import NeuronSpec, neuron_sequence, neuron_step
from snn_extreme_quant.quantizers.packing import unpack

__all__ = [
    "NAMESPACE",
    "byte_matmul",
    "fixed_point",
    "from_sums",
    "neuron_sequence_op",
    "neuron_step_op",
    "packed_conv",
    "packed_conv_transpose",
    "packed_embedding",
    "packed_linear",
    "sum_pool",
    "to_bytes",
    "transpose",
]

NAMESPACE = "snn_xq"
_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_TRANSPOSED = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}


# Neurons -----------------------------------------------------------------------------------------------------------
#
# Arguments of both operators: the input current; the states, parameters and (with feedback) the weights of the
# recurrent layer, each as a list; its packing layout ("float" if it is not quantised, "" without feedback) and, for a
# convolution, weight shape and padding; the spec's name; the layer's name. They return the spikes and then the states
# but "s" (NeuronSpec.outputs).


def _carried_out(
    run: Callable[..., tuple[Tensor, dict[str, Tensor]]],
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    weights: Sequence[Tensor],
    layout: str,
    geometry: Sequence[int],
    operator: str,
) -> list[Tensor]:
    spec = NeuronSpec.from_operator(operator)
    named = dict(zip(spec.parameter_names, parameters, strict=True))
    shape = x.shape if run is neuron_step else x.shape[1:]
    state = {name: value.expand(shape) for name, value in zip(spec.states, states, strict=True)}
    recurrent = _recurrent(spec, weights, layout, geometry) if weights else None
    spikes, after = run(spec, named, x, state, recurrent)
    # An operator may not return its inputs, nor one tensor twice.
    return [spikes.clone(), *(after[name].clone() for name in spec.outputs[1:])]


def _recurrent(
    spec: NeuronSpec, weights: Sequence[Tensor], layout: str, geometry: Sequence[int]
) -> Callable[[Tensor], Tensor]:
    axes = (len(geometry) - 2) // 3
    shape, padding = geometry[: axes + 2], geometry[axes + 2 :]

    def apply(spikes: Tensor) -> Tensor:
        if layout == "float":
            bias = weights[1] if len(weights) > 1 else None
            if spec.feedback == "linear":
                return F.linear(spikes, weights[0], bias)
            return _CONVOLUTIONS[spikes.dim()](spikes, weights[0], bias, padding=list(padding[:axes]))
        packed, scale, *biases = weights
        if spec.feedback == "linear":
            current = F.linear(spikes, _codes(packed, (scale.shape[0], packed.shape[0]), layout, spikes.dtype)) * scale
            return current if not biases else current + biases[0]
        codes = _codes(packed, shape, layout, spikes.dtype)
        current = _convolve(spikes, codes, [1] * axes, padding, [1] * axes, 1) * _by_channel(scale, codes)
        return current if not biases else current + _by_channel(biases[0], codes)

    return apply


def _by_channel(values: Tensor, codes: Tensor) -> Tensor:
    """Reshape ``(N,)`` to broadcast over the output of a convolution with these codes."""
    return values.view(-1, *(1,) * (codes.dim() - 2))


@torch.library.custom_op(f"{NAMESPACE}::neuron_step", mutates_args=())
def neuron_step_op(
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    weights: Sequence[Tensor],
    layout: str,
    geometry: Sequence[int],
    operator: str,
    layer: str,
) -> list[Tensor]:
    """One time step of a layer of neurons: spikes and states, all of ``x``'s shape."""
    return _carried_out(neuron_step, x, states, parameters, weights, layout, geometry, operator)


@torch.library.custom_op(f"{NAMESPACE}::neuron_sequence", mutates_args=())
def neuron_sequence_op(
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    weights: Sequence[Tensor],
    layout: str,
    geometry: Sequence[int],
    operator: str,
    layer: str,
) -> list[Tensor]:
    """All time steps of a layer of neurons: spikes and states, all of ``x``'s shape ``(T, ...)``."""
    return _carried_out(neuron_sequence, x, states, parameters, weights, layout, geometry, operator)


def _neuron_fake(x: Tensor, states: Sequence[Tensor], *rest: object) -> list[Tensor]:
    return [torch.empty_like(x) for _ in NeuronSpec.from_operator(str(rest[-2])).outputs]


neuron_step_op.register_fake(_neuron_fake)
neuron_sequence_op.register_fake(_neuron_fake)


# Packed layers -----------------------------------------------------------------------------------------------------


def _codes(packed: Tensor, shape: Sequence[int], layout: str, dtype: torch.dtype) -> Tensor:
    """Unpack ``(K, bytes)`` into a weight of ``shape`` ``(N, ...)``."""
    return torch.from_numpy(unpack(packed.numpy(), shape[0], layout)).to(dtype).T.reshape(tuple(shape))


@torch.library.custom_op(f"{NAMESPACE}::packed_linear", mutates_args=())
def packed_linear(x: Tensor, packed: Tensor, scale: Tensor, out_features: int, layout: str, layer: str) -> Tensor:
    """Sum ``x`` ``(..., K)`` with codes packed as ``(K, bytes)``, then scale: ``(..., N)``."""
    codes = _codes(packed, (out_features, x.shape[-1]), layout, x.dtype)
    return F.linear(x, codes) * scale


@packed_linear.register_fake
def _(x: Tensor, packed: Tensor, scale: Tensor, out_features: int, layout: str, layer: str) -> Tensor:
    if x.shape[-1] != packed.shape[0]:
        raise ValueError(f"Layer {layer!r} reads {packed.shape[0]} features, not {x.shape[-1]}.")
    return x.new_empty((*x.shape[:-1], out_features))


@torch.library.custom_op(f"{NAMESPACE}::packed_embedding", mutates_args=())
def packed_embedding(ids: Tensor, packed: Tensor, scale: Tensor, columns: int, layout: str, layer: str) -> Tensor:
    """Look up rows of codes packed as ``(V, bytes)``, then scale each row: ``(..., D)``."""
    rows = unpack(packed[ids.flatten()].numpy(), columns, layout)
    return torch.from_numpy(rows).to(scale.dtype).reshape(*ids.shape, columns) * scale[ids].unsqueeze(-1)


@packed_embedding.register_fake
def _(ids: Tensor, packed: Tensor, scale: Tensor, columns: int, layout: str, layer: str) -> Tensor:
    return scale.new_empty((*ids.shape, columns))


@torch.library.custom_op(f"{NAMESPACE}::packed_conv", mutates_args=())
def packed_conv(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    weight_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    layout: str,
    layer: str,
) -> Tensor:
    """Convolve ``x`` ``(B, C, ...)`` with packed codes, then scale by channel: ``(B, N, ...)``.

    ``padding`` is that of ONNX: begins of all axes, then ends.
    """
    codes = _codes(packed, weight_shape, layout, x.dtype)
    return _convolve(x, codes, stride, padding, dilation, groups) * _by_channel(scale, codes)


@packed_conv.register_fake
def _(x: Tensor, packed: Tensor, scale: Tensor, weight_shape: Sequence[int], *geometry: Any) -> Tensor:
    *convolution, _layout, _layer = geometry
    return _convolve(x, x.new_empty(tuple(weight_shape)), *convolution)


def _convolve(
    x: Tensor, codes: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    axes = len(padding) // 2
    begins, ends = padding[:axes], padding[axes:]
    if list(begins) == list(ends):
        before: Sequence[int] = begins
    else:
        pairs = [(b, e) for b, e in zip(begins, ends, strict=True)][::-1]
        x, before = F.pad(x, [p for pair in pairs for p in pair]), [0] * axes
    return _CONVOLUTIONS[codes.dim()](x, codes, None, stride=stride, padding=before, dilation=dilation, groups=groups)


@torch.library.custom_op(f"{NAMESPACE}::packed_conv_transpose", mutates_args=())
def packed_conv_transpose(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    weight_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    layout: str,
    layer: str,
) -> Tensor:
    """Convolve transposed, then scale by channel; ``weight_shape`` is output first: ``(N, C / groups, ...)``."""
    codes = _codes(packed, weight_shape, layout, x.dtype)
    return _deconvolve(x, codes, stride, padding, output_padding, dilation, groups) * _by_channel(scale, codes)


@packed_conv_transpose.register_fake
def _(x: Tensor, packed: Tensor, scale: Tensor, weight_shape: Sequence[int], *geometry: Any) -> Tensor:
    *convolution, _layout, _layer = geometry
    return _deconvolve(x, x.new_empty(tuple(weight_shape)), *convolution)


def _deconvolve(
    x: Tensor,
    codes: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    outputs, inputs, *kernel = codes.shape
    grouped = codes.reshape(groups, outputs // groups, inputs, *kernel).transpose(1, 2)
    weight = grouped.reshape(groups * inputs, outputs // groups, *kernel)
    return _TRANSPOSED[codes.dim()](
        x,
        weight,
        None,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
    )


# Other operators ---------------------------------------------------------------------------------------------------


@torch.library.custom_op(f"{NAMESPACE}::fixed_point", mutates_args=())
def fixed_point(x: Tensor, bits: int, fraction: int) -> Tensor:
    """:class:`~snn_extreme_quant.layers.FixedPointInput` without its gradient."""
    scale = 2.0**fraction
    return (x.clamp(0.0, (2**bits - 1) / scale) * scale).round() * (1 / scale)


@fixed_point.register_fake
def _(x: Tensor, bits: int, fraction: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op(f"{NAMESPACE}::transpose", mutates_args=())
def transpose(x: Tensor, order: Sequence[int]) -> Tensor:
    """``x.permute(order)``, contiguous: torch's own is exported with strides, which ONNX does not know."""
    return x.permute(tuple(order)).contiguous().clone()


@transpose.register_fake
def _(x: Tensor, order: Sequence[int]) -> Tensor:
    return x.new_empty(tuple(x.shape[axis] for axis in order))


@torch.library.custom_op(f"{NAMESPACE}::sum_pool", mutates_args=())
def sum_pool(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], channels: int) -> Tensor:
    """Sum over windows of ``x`` ``(B, channels, ...)``: average pooling before its division."""
    return _CONVOLUTIONS[x.dim()](
        x, x.new_ones((channels, 1, *kernel)), None, stride=stride, padding=padding, groups=channels
    )


@sum_pool.register_fake
def _(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], channels: int) -> Tensor:
    return _CONVOLUTIONS[x.dim()](
        x, x.new_empty((channels, 1, *kernel)), None, stride=stride, padding=padding, groups=channels
    )


# Products of bytes -------------------------------------------------------------------------------------------------


@torch.library.custom_op(f"{NAMESPACE}::to_bytes", mutates_args=())
def to_bytes(x: Tensor, inverse: float, signed: bool) -> Tensor:
    """Whole numbers ``x * inverse`` as signed or unsigned bytes; ``inverse`` is 1 for integer ``x``."""
    return (x if inverse == 1 else x * inverse).to(torch.int8 if signed else torch.uint8)


@to_bytes.register_fake
def _(x: Tensor, inverse: float, signed: bool) -> Tensor:
    return torch.empty_like(x, dtype=torch.int8 if signed else torch.uint8)


@torch.library.custom_op(f"{NAMESPACE}::byte_matmul", mutates_args=())
def byte_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Product of unsigned bytes ``(..., M, K)`` with signed ones ``(..., K, N)``, in 32 bits."""
    return torch.matmul(a.int(), b.int())


@byte_matmul.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a.float(), b.float()).to(torch.int32)


@torch.library.custom_op(f"{NAMESPACE}::from_sums", mutates_args=())
def from_sums(sums: Tensor, unit: float) -> Tensor:
    """Integers as floats, times a power of two."""
    return sums.float() if unit == 1 else sums.float() * unit


@from_sums.register_fake
def _(sums: Tensor, unit: float) -> Tensor:
    return torch.empty_like(sums, dtype=torch.float32)
