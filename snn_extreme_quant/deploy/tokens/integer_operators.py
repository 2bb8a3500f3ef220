"""What SpikingBERT's integer files compute with, as torch custom operators of the namespace ``snn_xq``.

``docs/operators.md`` (*Integers of SpikingBERT*) has the equations. Computed in 64 bits; what leaves the ranges named
there is an error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snn_extreme_quant.deploy.lowering.operators import NAMESPACE
from snn_extreme_quant.errors import UnsupportedModelError
from snn_extreme_quant.exported.shift_tables import (
    NORM_BITS,
    PROBABILITY_BITS,
    RESIDUAL_LIMIT,
    norm_factors,
    softmax_stairs,
    whole_norm_factors,
)
from snn_extreme_quant.neurons import spikes_first

__all__ = [
    "COUNTS",
    "PRODUCT",
    "RESIDUAL",
    "SCALE",
    "SHIFT_NORM",
    "SHIFT_SOFTMAX",
    "SPIKES",
    "int_counts",
    "int_product",
    "int_residual",
    "int_scale",
    "int_shift_norm",
    "int_shift_softmax",
    "int_spikes",
]

_PRODUCT_LIMIT, _RESULT_LIMIT = 2**61, 2**30
#: From here on down scores belong to pads.
_PAD_DISTANCE = -5000
_KINDS = {"uint8": torch.uint8, "int8": torch.int8, "int32": torch.int32}


def _checked(value: Tensor, limit: int, layer: str) -> Tensor:
    if value.numel() and int(value.abs().max()) >= limit:
        raise UnsupportedModelError(f"Layer {layer!r}: {int(value.abs().max())} is beyond the {limit} of the proof.")
    return value


def _scaled(x: Tensor, gain: Tensor, offset: Tensor, low: Tensor, high: Tensor, shift: int, layer: str) -> Tensor:
    exact = _checked(_checked(x.long() * gain + offset, _PRODUCT_LIMIT, layer) >> shift, _RESULT_LIMIT, layer)
    return torch.minimum(torch.maximum(exact, low.long()), high.long())


@torch.library.custom_op(f"{NAMESPACE}::int_counts", mutates_args=())
def int_counts(
    x: Tensor, gain: Tensor, offset: Tensor, low: Tensor, high: Tensor, shift: int, kind: str, layer: str
) -> Tensor:
    """Number of spikes of synchronous neurons: clip((x gain + offset) >> shift, low, high)."""
    return _scaled(x, gain, offset, low, high, shift, layer).to(_KINDS[kind])


@torch.library.custom_op(f"{NAMESPACE}::int_scale", mutates_args=())
def int_scale(x: Tensor, gain: Tensor, offset: Tensor, low: Tensor, high: Tensor, shift: int, layer: str) -> Tensor:
    """The same of what is no neuron."""
    return _scaled(x, gain, offset, low, high, shift, layer).int()


@torch.library.custom_op(f"{NAMESPACE}::int_spikes", mutates_args=())
def int_spikes(x: Tensor, steps: int, signed: bool, layer: str) -> Tensor:
    """All steps of synchronous neurons, the spikes first."""
    return spikes_first(x.float(), steps).to(torch.int8 if signed else torch.uint8)


@torch.library.custom_op(f"{NAMESPACE}::int_residual", mutates_args=())
def int_residual(
    x: Tensor, counts: Tensor, gain: Tensor, carried: Tensor, offset: Tensor, shift: int, layer: str
) -> Tensor:
    """(x gain + counts carried + offset) >> shift."""
    exact = _checked(x.long() * gain + counts.long() * carried + offset, _PRODUCT_LIMIT, layer)
    return _checked(exact >> shift, _RESULT_LIMIT, layer).int()


@torch.library.custom_op(f"{NAMESPACE}::int_shift_norm", mutates_args=())
def int_shift_norm(x: Tensor, layer: str) -> Tensor:
    """Normalise over the last axis: units of 2^-10 in, of 2^-14 out."""
    channels = x.shape[-1]
    units = x.long().clamp(-int(RESIDUAL_LIMIT), int(RESIDUAL_LIMIT))
    total = units.sum(-1, keepdim=True)
    centred = units - torch.div(2 * total + channels, 2 * channels, rounding_mode="floor")
    _, above, below = norm_factors()
    limits = torch.tensor([channels * a // b for a, b in zip(above, below, strict=True)])
    index = (centred.square().sum(-1, keepdim=True) <= limits).sum(-1, keepdim=True)
    factor = torch.tensor(whole_norm_factors())[index]
    product: Tensor = centred * factor + 2 ** (NORM_BITS - 1)
    return (product >> NORM_BITS).int()


@torch.library.custom_op(f"{NAMESPACE}::int_shift_softmax", mutates_args=())
def int_shift_softmax(x: Tensor, pads: Tensor, fraction: int, layer: str) -> Tensor:
    """Powers of two that sum to about 2^15, over the last axis."""
    r = ((x.long() + (2**fraction >> 1)) >> fraction) + pads
    exponent = r - r.amax(-1, keepdim=True)
    places = (exponent + PROBABILITY_BITS).clamp_min(0)
    power = torch.bitwise_left_shift(torch.ones_like(places), places) * (exponent > _PAD_DISTANCE)
    halvings = (power.sum(-1, keepdim=True) >= torch.tensor(softmax_stairs())).sum(-1, keepdim=True)
    return torch.bitwise_right_shift(power, halvings).int()


@torch.library.custom_op(f"{NAMESPACE}::int_product", mutates_args=())
def int_product(a: Tensor, b: Tensor, zero_point: int) -> Tensor:
    """A @ b; a + 256 zero_point fits two bytes."""
    shifted = a + 256 * zero_point
    if shifted.numel() and not 0 <= int(shifted.min()) <= int(shifted.max()) < 2**16:
        raise UnsupportedModelError(f"A product of {int(a.min())} to {int(a.max())} does not fit two bytes.")
    return (a.double() @ b.double()).to(torch.int32)


@int_counts.register_fake
def _(x: Tensor, gain: Tensor, offset: Tensor, low: Tensor, high: Tensor, shift: int, kind: str, layer: str) -> Tensor:
    return torch.empty_like(x, dtype=_KINDS[kind])


@int_scale.register_fake
def _(x: Tensor, gain: Tensor, offset: Tensor, low: Tensor, high: Tensor, shift: int, layer: str) -> Tensor:
    return torch.empty_like(x)


@int_spikes.register_fake
def _(x: Tensor, steps: int, signed: bool, layer: str) -> Tensor:
    return x.new_empty((steps, *x.shape), dtype=torch.int8 if signed else torch.uint8)


@int_residual.register_fake
def _(x: Tensor, counts: Tensor, gain: Tensor, carried: Tensor, offset: Tensor, shift: int, layer: str) -> Tensor:
    return torch.empty_like(x)


@int_shift_norm.register_fake
def _(x: Tensor, layer: str) -> Tensor:
    return torch.empty_like(x)


@int_shift_softmax.register_fake
def _(x: Tensor, pads: Tensor, fraction: int, layer: str) -> Tensor:
    return torch.empty_like(x)


@int_product.register_fake
def _(a: Tensor, b: Tensor, zero_point: int) -> Tensor:
    return a.new_empty((*a.shape[:-1], b.shape[-1]), dtype=torch.int32)


_OURS = torch.ops.snn_xq
COUNTS, SCALE, SPIKES = _OURS.int_counts.default, _OURS.int_scale.default, _OURS.int_spikes.default
RESIDUAL, PRODUCT = _OURS.int_residual.default, _OURS.int_product.default
SHIFT_NORM, SHIFT_SOFTMAX = _OURS.int_shift_norm.default, _OURS.int_shift_softmax.default
