"""The operators of integer networks, as torch custom operators of the namespace ``snn_xq``.

They take and give whole numbers: spikes and counts are uint8, signed spikes int8, sums and membranes int32. Sums are
computed in float64, in which whole numbers up to 2**53 are exact, and refused where they leave 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snn_extreme_quant.deploy.lowering.operators import NAMESPACE, _codes, _convolve, _deconvolve
from snn_extreme_quant.errors import UnsupportedModelError
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.neurons.fixed_point_dynamics import fixed_point_sequence, fixed_point_step
from snn_extreme_quant.neurons.fixed_point_spec import fixed_point_parameters, spike_limits
from snn_extreme_quant.quantizers.packing import unpack

__all__ = [
    "fixed_neuron_sequence",
    "fixed_neuron_step",
    "packed_conv_sum",
    "packed_conv_transpose_sum",
    "packed_embedding_sum",
    "packed_linear_sum",
    "sum_pool_int",
]

_INPUTS = (torch.uint8, torch.int8, torch.int32)
_LARGEST = 2**31 - 1
#: What stands for the layer in messages about a pooling.
_POOL = "sum_pool_int"


def _real(x: Tensor, layer: str) -> Tensor:
    """Return whole numbers as float64, in which their sums are exact."""
    if x.dtype not in _INPUTS:
        raise UnsupportedModelError(f"Layer {layer!r} sums uint8, int8 or int32, not {x.dtype}.")
    return x.double()


def _whole(sums: Tensor, layer: str) -> Tensor:
    """Return sums as int32."""
    if sums.numel() and float(sums.abs().max()) > _LARGEST:
        raise UnsupportedModelError(f"Layer {layer!r}: a sum of {float(sums.abs().max()):.3g} does not fit 32 bits.")
    return sums.to(torch.int32).contiguous()


def _empty(like: Tensor, shape: Sequence[Any]) -> Tensor:
    return like.new_empty(tuple(shape), dtype=torch.int32)


# Neurons -----------------------------------------------------------------------------------------------------------
#
# Arguments of both operators: the input (int32); the states (int32, spikes fed back uint8), the parameters in the order
# of fixed_point_parameters (int32) and, with feedback by a layer, its packed codes, each as a list; their packing
# layout ("" without) and, for a convolution, weight shape and padding (begins, then ends); the bits behind the point of
# the decays; the name of the spec; the layer's name. They return the spikes and then the states but "s".


def _carried_out(
    run: Callable[..., tuple[Tensor, dict[str, Tensor]]],
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    weights: Sequence[Tensor],
    layout: str,
    geometry: Sequence[int],
    shift: int,
    operator: str,
) -> list[Tensor]:
    spec = NeuronSpec.from_operator(operator)
    named = dict(zip(fixed_point_parameters(spec), parameters, strict=True))
    shape = x.shape if run is fixed_point_step else x.shape[1:]
    state = {name: value.expand(shape) for name, value in zip(spec.states, states, strict=True)}
    recurrent = _recurrent(weights[0], layout, geometry) if weights else None
    spikes, after = run(spec, named, x, state, shift, recurrent)
    # An operator may not return its inputs, nor one tensor twice.
    return [spikes.clone(), *(after[name].clone() for name in spec.outputs[1:])]


def _recurrent(packed: Tensor, layout: str, geometry: Sequence[int]) -> Callable[[Tensor], Tensor]:
    axes = (len(geometry) - 2) // 3
    shape, padding = geometry[: axes + 2], geometry[axes + 2 :]

    def apply(spikes: Tensor) -> Tensor:
        real = spikes.double()
        if not geometry:
            codes = _codes(packed, (spikes.shape[-1], packed.shape[0]), layout, real.dtype)
            return F.linear(real, codes).long()
        codes = _codes(packed, shape, layout, real.dtype)
        return _convolve(real, codes, [1] * axes, padding, [1] * axes, 1).long()

    return apply


@torch.library.custom_op(f"{NAMESPACE}::fixed_neuron_step", mutates_args=())
def fixed_neuron_step(
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    weights: Sequence[Tensor],
    layout: str,
    geometry: Sequence[int],
    shift: int,
    operator: str,
    layer: str,
) -> list[Tensor]:
    """One time step of a layer of fixed-point neurons: spikes and states, all of ``x``'s shape."""
    return _carried_out(fixed_point_step, x, states, parameters, weights, layout, geometry, shift, operator)


@torch.library.custom_op(f"{NAMESPACE}::fixed_neuron_sequence", mutates_args=())
def fixed_neuron_sequence(
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    weights: Sequence[Tensor],
    layout: str,
    geometry: Sequence[int],
    shift: int,
    operator: str,
    layer: str,
) -> list[Tensor]:
    """All time steps of a layer of fixed-point neurons: spikes and states, all of ``x``'s shape ``(T, ...)``."""
    return _carried_out(fixed_point_sequence, x, states, parameters, weights, layout, geometry, shift, operator)


def _neuron_fake(x: Tensor, states: Sequence[Tensor], *rest: object) -> list[Tensor]:
    spec = NeuronSpec.from_operator(str(rest[-2]))
    kind = torch.int8 if spike_limits(spec)[0] < 0 else torch.uint8
    return [x.new_empty(x.shape, dtype=kind), *(_empty(x, x.shape) for _ in spec.outputs[1:])]


fixed_neuron_step.register_fake(_neuron_fake)
fixed_neuron_sequence.register_fake(_neuron_fake)


# Packed layers -----------------------------------------------------------------------------------------------------


@torch.library.custom_op(f"{NAMESPACE}::packed_linear_sum", mutates_args=())
def packed_linear_sum(x: Tensor, packed: Tensor, out_features: int, layout: str, layer: str) -> Tensor:
    """Sum ``x`` ``(..., K)`` with codes packed as ``(K, bytes)``: int32 ``(..., N)``."""
    real = _real(x, layer)
    return _whole(F.linear(real, _codes(packed, (out_features, x.shape[-1]), layout, real.dtype)), layer)


@packed_linear_sum.register_fake
def _(x: Tensor, packed: Tensor, out_features: int, layout: str, layer: str) -> Tensor:
    if x.shape[-1] != packed.shape[0]:
        raise ValueError(f"Layer {layer!r} reads {packed.shape[0]} features, not {x.shape[-1]}.")
    return _empty(x, (*x.shape[:-1], out_features))


@torch.library.custom_op(f"{NAMESPACE}::packed_embedding_sum", mutates_args=())
def packed_embedding_sum(
    ids: Tensor, packed: Tensor, multiplier: Tensor, columns: int, layout: str, layer: str
) -> Tensor:
    """Look up rows of codes packed as ``(V, bytes)`` and multiply each row by its number: int32 ``(..., D)``."""
    rows = torch.from_numpy(unpack(packed[ids.flatten()].numpy(), columns, layout)).double()
    return _whole(rows.reshape(*ids.shape, columns) * multiplier[ids].unsqueeze(-1), layer)


@packed_embedding_sum.register_fake
def _(ids: Tensor, packed: Tensor, multiplier: Tensor, columns: int, layout: str, layer: str) -> Tensor:
    return _empty(ids, (*ids.shape, columns))


@torch.library.custom_op(f"{NAMESPACE}::packed_conv_sum", mutates_args=())
def packed_conv_sum(
    x: Tensor,
    packed: Tensor,
    weight_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    layout: str,
    layer: str,
) -> Tensor:
    """Convolve ``x`` ``(B, C, ...)`` with packed codes: int32 ``(B, N, ...)``.

    ``padding`` is that of ONNX: begins of all axes, then ends.
    """
    real = _real(x, layer)
    codes = _codes(packed, weight_shape, layout, real.dtype)
    return _whole(_convolve(real, codes, stride, padding, dilation, groups), layer)


@packed_conv_sum.register_fake
def _(x: Tensor, packed: Tensor, weight_shape: Sequence[int], *geometry: Any) -> Tensor:
    *convolution, _layout, _layer = geometry
    like = x.new_empty(x.shape, dtype=torch.float64)
    return _empty(x, _convolve(like, like.new_empty(tuple(weight_shape)), *convolution).shape)


@torch.library.custom_op(f"{NAMESPACE}::packed_conv_transpose_sum", mutates_args=())
def packed_conv_transpose_sum(
    x: Tensor,
    packed: Tensor,
    weight_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    layout: str,
    layer: str,
) -> Tensor:
    """Convolve transposed, in int32; ``weight_shape`` is output first: ``(N, C / groups, ...)``."""
    real = _real(x, layer)
    codes = _codes(packed, weight_shape, layout, real.dtype)
    return _whole(_deconvolve(real, codes, stride, padding, output_padding, dilation, groups), layer)


@packed_conv_transpose_sum.register_fake
def _(x: Tensor, packed: Tensor, weight_shape: Sequence[int], *geometry: Any) -> Tensor:
    *convolution, _layout, _layer = geometry
    like = x.new_empty(x.shape, dtype=torch.float64)
    return _empty(x, _deconvolve(like, like.new_empty(tuple(weight_shape)), *convolution).shape)


@torch.library.custom_op(f"{NAMESPACE}::sum_pool_int", mutates_args=())
def sum_pool_int(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], channels: int
) -> Tensor:
    """Sum over windows of ``x`` ``(B, channels, ...)``: int32. ``padding`` is one number an axis."""
    real = _real(x, _POOL)
    ones = real.new_ones((channels, 1, *kernel))
    return _whole(_convolve(real, ones, stride, [*padding, *padding], [1] * len(kernel), channels), _POOL)


@sum_pool_int.register_fake
def _(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], channels: int) -> Tensor:
    like = x.new_empty(x.shape, dtype=torch.float64)
    ones = like.new_empty((channels, 1, *kernel))
    return _empty(x, _convolve(like, ones, stride, [*padding, *padding], [1] * len(kernel), channels).shape)
