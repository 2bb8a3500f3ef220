"""The deployment operators, as torch custom operators of the namespace ``snn_xq``.

A captured model calls these in place of its quantised layers and its neurons. They compute what the layers and
neurons compute, operation for operation; the exporter translates each into one ONNX node.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from snn_extreme_quant.neurons import NeuronSpec, neuron_sequence, neuron_step
from snn_extreme_quant.quantizers.packing import unpack

__all__ = [
    "NAMESPACE",
    "fixed_point",
    "neuron_sequence_op",
    "neuron_step_op",
    "packed_conv",
    "packed_linear",
    "transpose",
]

NAMESPACE = "snn_xq"
_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d}


def _parameters(operator: str, values: Sequence[Tensor]) -> tuple[NeuronSpec, dict[str, Tensor]]:
    spec = NeuronSpec.from_operator(operator)
    return spec, dict(zip(spec.parameter_names, values, strict=True))


@torch.library.custom_op(f"{NAMESPACE}::neuron_step", mutates_args=())
def neuron_step_op(
    x: Tensor, v: Tensor, parameters: Sequence[Tensor], operator: str, layer: str
) -> tuple[Tensor, Tensor]:
    """One time step of a layer of neurons: spikes and membrane potential, both of ``x``'s shape."""
    spec, named = _parameters(operator, parameters)
    spikes, potential = neuron_step(spec, named, x, v.expand_as(x))
    return spikes, potential.clone()


@neuron_step_op.register_fake
def _(x: Tensor, v: Tensor, parameters: Sequence[Tensor], operator: str, layer: str) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


@torch.library.custom_op(f"{NAMESPACE}::neuron_sequence", mutates_args=())
def neuron_sequence_op(
    x: Tensor, v: Tensor, parameters: Sequence[Tensor], operator: str, layer: str
) -> tuple[Tensor, Tensor]:
    """All time steps of a layer of neurons: spikes and membrane potentials, both of ``x``'s shape ``(T, ...)``."""
    spec, named = _parameters(operator, parameters)
    return neuron_sequence(spec, named, x, v)


@neuron_sequence_op.register_fake
def _(x: Tensor, v: Tensor, parameters: Sequence[Tensor], operator: str, layer: str) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


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
    return _convolve(x, codes, stride, padding, dilation, groups) * scale.view(-1, *(1,) * (codes.dim() - 2))


@packed_conv.register_fake
def _(
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
    return _convolve(x, x.new_empty(tuple(weight_shape)), stride, padding, dilation, groups)


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
