r"""The parts of SpikeGPT's integer profile with their gradients: numbers on grids in, numbers on grids out.

Between parts whole numbers are float32 in their real units, multiples of a power of two below 24 bits, so that a
gradient can pass. The gradient of a part is that of the reference profile's form at the same inputs, and 0 where a
limit is reached. States are integers and hand on no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from snn_extreme_quant.exported.token_tables import (
    AVERAGE_FRACTION,
    CURRENT_FRACTION,
    GATE_BITS,
    GATE_OCTAVES,
    KEY_FRACTION,
    KEY_LIMIT,
    LOGIT_FRACTION,
    MOST_CURRENT,
    MOST_INPUT,
    MOST_NORM,
    MOST_VALUE,
    NORM_OUT,
    OCTAVE_BITS,
    SQUARED_FRACTION,
)
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.models.gpt import chains
from snn_extreme_quant.models.gpt import integer_tokens as whole
from snn_extreme_quant.models.gpt.exact import PIECE, STREAM_BITS, norm, rounded_weight
from snn_extreme_quant.models.gpt.wkv import weighted_average
from snn_extreme_quant.neurons.token_lif import TokenLIF

__all__ = [
    "CURRENT", "GATE", "KEY", "LOGIT", "NORM", "SQUARED", "VALUE", "IntegerTokenLIF", "Units", "input_units",
    "scaling_of", "whole_average", "whole_gated", "whole_mean", "whole_mixed", "whole_norm", "whole_product",
    "whole_squared",
]  # fmt: skip

_LN2 = math.log(2.0)


class Units(NamedTuple):
    """A grid of whole numbers.

    Args:
        fraction: they are multiples of 2^-fraction.
        most: the limit on either side, in multiples.
        factor: what a product is multiplied with before it is put there.
    """

    fraction: int
    most: int
    factor: float = 1.0

    def of(self, x: Tensor) -> Tensor:
        """Return the multiples of numbers on the grid."""
        return (x * 2.0**self.fraction).long()

    def real(self, units: Tensor) -> Tensor:
        """Return the numbers of some multiples."""
        return units.float() * 2.0**-self.fraction


#: Exponents of 2, of keys and of gates.
KEY = Units(OCTAVE_BITS, KEY_LIMIT, 1.0 / _LN2)
GATE = Units(OCTAVE_BITS, (GATE_OCTAVES << OCTAVE_BITS) - 1, 1.0 / _LN2)
VALUE = Units(AVERAGE_FRACTION, MOST_VALUE)
SQUARED = Units(SQUARED_FRACTION, MOST_INPUT)
NORM = Units(NORM_OUT, MOST_NORM)
CURRENT = Units(CURRENT_FRACTION, MOST_CURRENT)
LOGIT = Units(LOGIT_FRACTION, 2**23)
_STREAM = Units(STREAM_BITS, 2 ** (2 * STREAM_BITS))
#: How far inputs of products reach, as a power of two.
_REACH = {"norm": 4, "square": 6}


def input_units(layer: nn.Module, kind: str) -> Units:
    """Return the grid of a product's inputs, which are of a norm or of a square."""
    bits = whole.input_bits(layer, cast("nn.Linear", layer).in_features)
    return Units(bits - _REACH[kind], (1 << bits) - 1)


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hard: Tensor, _soft: Tensor, most: float) -> Tensor:
        ctx.most = most
        ctx.save_for_backward(hard)
        return hard.view_as(hard)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (hard,) = ctx.saved_tensors
        return None, torch.ops.aten.hardtanh_backward(gradients[0], hard, -ctx.most, ctx.most), None


def _straight(units: Units, hard: Tensor, soft: Callable[[], Tensor]) -> Tensor:
    """Return numbers on a grid with the gradient of another form."""
    if not torch.is_grad_enabled():
        return hard
    reference = soft()
    if not reference.requires_grad:
        return hard
    straight: Tensor = _Straight.apply(hard, reference.float(), units.most * 2.0**-units.fraction)  # type: ignore[no-untyped-call]
    return straight


@torch.no_grad()
def _in_pieces(chain: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Carry out a chain of operations on pieces of some tensors of one shape, which stay in a processor's cache."""
    found = torch.empty(tensors[0].shape, device=tensors[0].device)
    rows = [tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors]
    size = max(1, PIECE // rows[0].shape[1] if found.device.type == "cpu" else len(rows[0]))
    for into, *parts in zip(*(torch.split(row, size) for row in (found.view(rows[0].shape), *rows)), strict=True):
        into.copy_(chain(*parts))
    return found


def whole_norm(layer: nn.LayerNorm, stream: Tensor, units: Units) -> Tensor:
    """Normalise a stream by 16 mantissas, in the units that its reader has."""
    scaling = whole.norm_scaling(layer, units.fraction, units.most)
    hard = _in_pieces(lambda x: units.real(whole.scaled(whole.norm_sums(_STREAM.of(x)), scaling)), stream)
    return _straight(units, hard, lambda: norm(layer, stream))


def whole_mixed(y: Tensor, before: Tensor, shares: Sequence[Tensor], grids: Sequence[Units]) -> tuple[Tensor, ...]:
    """Return what some products read of each token and its predecessor.

    Args:
        y: of :func:`whole_norm` in units of :data:`NORM`, ``(T, B, d)``.
        before: what was before the first token, in whole numbers, ``(B, d)``.
        shares: of this token, d numbers for each product.
        grids: of the products' inputs.
    """
    first = NORM.real(before)
    past = torch.cat((first.unsqueeze(0), y[:-1].detach()))
    found = [_mixed(y, past, whole.shares(share), grid) for share, grid in zip(shares, grids, strict=True)]
    if not torch.is_grad_enabled():
        return tuple(found)
    soft = chains.mixed(y, first, shares)
    return tuple(_straight(g, hard, lambda s=s: s) for g, hard, s in zip(grids, found, soft, strict=True))  # type: ignore[misc]


def _mixed(now: Tensor, past: Tensor, share: Tensor, grid: Units) -> Tensor:
    places = NORM.fraction - grid.fraction
    return _in_pieces(lambda n, p: grid.real(whole.mixing(NORM.of(n), NORM.of(p), share, places)), now, past)


def whole_product(layer: nn.Module, x: Tensor, reads: Units, gives: Units) -> Tensor:
    """Multiply by a layer's weights.

    Codes of up to 8 bits are summed in whole numbers, and scaled by a whole number and a shift. Other weights are
    rounded to 22 bits and summed exactly, in training mode as torch does.

    Args:
        layer: a linear layer without bias.
        x: ``(..., K)``, in the units ``reads``.
        reads: of what it reads.
        gives: of what it gives.
    """
    return _straight(gives, _product(layer, x, reads, gives), lambda: layer(x) * gives.factor)


@torch.no_grad()
def _product(layer: Any, x: Tensor, reads: Units, gives: Units) -> Tensor:
    if not whole.packed(layer):
        worth, sums = _worth(reads, gives), _real_sums(layer, x, reads)
        return _in_pieces(lambda s: gives.real(whole.limited(torch.floor(s * worth + 0.5), gives.most)), sums)
    codes, _ = layer.integer_weight()
    scaling, largest = scaling_of(layer, reads, gives), int(layer.quantizer.largest)
    size, bits = layer.quantizer.granularity.group_size or codes.shape[1], reads.most.bit_length()
    units = x.float() * 2.0**reads.fraction
    parts = [
        whole.sums_of(units[..., start : start + size], codes[:, start : start + size], bits, largest)
        for start in range(0, codes.shape[1], size)
    ]

    def chain(*sums: Tensor) -> Tensor:
        total = scaling.offset[:, 0].expand(sums[0].shape).clone()
        for group, of in enumerate(sums):
            total.addcmul_(of.long(), scaling.gain[:, group])
        return gives.real(whole.limited(total.bitwise_right_shift_(scaling.shift), gives.most))

    return _in_pieces(chain, *parts)


def scaling_of(layer: Any, reads: Units, gives: Units) -> whole.Scaling:
    """Return what makes the results of a packed layer's sums, ``(N, G)``: for each output and group of inputs."""
    codes, scale = layer.integer_weight()
    scale = scale.reshape(len(codes) if scale.numel() > 1 else 1, -1).expand(len(codes), -1)
    return whole.product_scaling(scale, _worth(reads, gives), gives.most)


def _worth(reads: Units, gives: Units) -> float:
    return gives.factor * 2.0 ** (gives.fraction - reads.fraction)


def _real_sums(layer: Any, x: Tensor, reads: Units) -> Tensor:
    """Return products with weights that have no codes of up to 8 bits, in multiples of the input's grid."""
    if layer.training:
        return cast("Tensor", layer(x).double() * 2.0**reads.fraction)
    weight = layer.dequantised() if isinstance(layer, IntegerFirst) else layer.weight
    return torch.nn.functional.linear(x.double() * 2.0**reads.fraction, rounded_weight(weight))


def whole_mean(x: Tensor, counts: Tensor, units: Units) -> Tensor:
    """Return sums over the first axis divided by counts of its entries, ``(B,)``, rounded."""
    with torch.no_grad():
        count = counts.unsqueeze(1)
        found = units.real(torch.div(2 * units.of(x).sum(0) + count, 2 * count, rounding_mode="floor"))
    return _straight(units, found, lambda: x.sum(0) / counts.unsqueeze(1))


def whole_gated(x: Tensor, value: Tensor, of: Units, gives: Units) -> Tensor:
    """Return values behind a gate.

    Args:
        x: in units of :data:`GATE`.
        value: in the units ``of``.
        of: of the value.
        gives: of the result.
    """
    places = GATE_BITS + of.fraction - gives.fraction

    def chain(z: Tensor, v: Tensor) -> Tensor:
        product = whole.gate(GATE.of(z)).mul_(of.of(v))
        return gives.real(whole.limited(whole.rounded_shift(product, places), gives.most))

    found = _in_pieces(chain, x, value)
    return _straight(gives, found, lambda: chains.gated(x * _LN2, value))


def whole_squared(x: Tensor, gives: Units) -> Tensor:
    """Return the square of what is above 0, of numbers in units of :data:`SQUARED`."""
    places = 2 * SQUARED.fraction - gives.fraction
    found = _in_pieces(lambda k: gives.real(whole.squares(SQUARED.of(k), places, gives.most)), x)
    return _straight(gives, found, lambda: chains.squared(x))


def whole_average(
    time_decay: Tensor, time_first: Tensor, key: Tensor, value: Tensor, numerator: Tensor, denominator: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted average of values so far, and the sums behind the last token.

    Args:
        time_decay: as of the reference, ``(d,)``.
        time_first: alike.
        key: in units of :data:`KEY`, ``(T, B, d)``.
        value: in units of :data:`VALUE`, alike.
        numerator: int64 ``(B, d)``.
        denominator: alike.
    """
    with torch.no_grad():
        decay, bonus = whole.wkv_factors(time_decay, time_first)
        found, a, b = whole.average(decay, bonus, KEY.of(key), VALUE.of(value), numerator, denominator)

    def soft() -> Tensor:
        sums = numerator.float() * 2.0 ** -(AVERAGE_FRACTION + KEY_FRACTION), denominator.float() * 2.0**-KEY_FRACTION
        return weighted_average(time_decay, time_first, key * _LN2, value, *sums)[0]

    return _straight(VALUE, VALUE.real(found), soft), a, b


class IntegerTokenLIF(TokenLIF):
    r"""LIF neurons over tokens in whole numbers.

    .. math:: h_t = \lfloor v_{t-1} \beta + \tfrac12 \rfloor + x_t, \qquad s_t = [h_t \ge 1], \qquad
              v_t = (1 - s_t) h_t

    with the current already divided by :math:`\tau`, all in multiples of 2^-14.

    Example:
        >>> spikes, potential = IntegerTokenLIF()(torch.tensor([[0.5], [1.0], [0.25]]), torch.zeros(1).int())
        >>> spikes.flatten().tolist(), potential.tolist()
        ([0.0, 1.0, 0.0], [4096])
    """

    def forward(self, current: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
        """Return spikes and the potential after the last token, int32."""
        with torch.no_grad():
            threshold = 1 << CURRENT_FRACTION
            spikes, after = whole.fired(CURRENT.of(current), potential.long(), whole.leak_of(self.tau), threshold)
        before = CURRENT.real(potential)
        found = _straight(Units(0, 2), spikes.float(), lambda: TokenLIF.forward(self, current * self.tau, before)[0])
        return found, after.int()
