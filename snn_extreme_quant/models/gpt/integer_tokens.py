r"""What SpikeGPT's integer profile computes, in whole numbers: the definition of what files compute.

Tensors are int64 and their contents fit the ranges that ``docs/spike_gpt.md`` (In whole numbers) proves; ``>>`` rounds
down. Nothing here has a gradient: :mod:`.integer_parts` has that.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from snn_extreme_quant.exported.shift_tables import NORM_FRACTION, RESIDUAL_LIMIT, norm_factors, whole_norm_factors
from snn_extreme_quant.exported.token_tables import (
    DECAY_BITS,
    GATE_BITS,
    GATE_OCTAVES,
    KEY_LIMIT,
    KEY_OCTAVES,
    LEAK_BITS,
    MOST_DECAY,
    MOST_INPUT,
    NORM_MANTISSA,
    NORM_PLACES,
    OCTAVE_BITS,
    POWER_BITS,
    RAISED_SHIFT,
    SHARE_BITS,
    SHARE_LIMIT,
    power_table,
)
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.models.gpt.exact import exponential
from snn_extreme_quant.models.gpt.wkv import MOST_BONUS

__all__ = [
    "Scaling", "average", "fired", "gate", "input_bits", "key_power", "leak_of", "limited", "mixing",
    "norm_scaling", "norm_sums", "packed", "product_scaling", "rounded_shift", "scaled", "shares", "squares",
    "sums_of", "wkv_factors",
]  # fmt: skip

#: Gains have 24 bits, or up to 28 where there is nothing to shift away; sums are below 2^31: products fit 64 bits.
_GAIN_BITS, _MOST_GAIN_BITS, _SUM_BITS, _MOST_SHIFT = 24, 28, 31, 40
_NORM_SHIFT = 16
_LOG2E = math.log2(math.e)
#: Sums of products below this are exact in float32.
_EXACT = 2**24
#: Numbers of a chunk of a text: its sums stay in a processor's cache.
_CHUNK = 1 << 16


def limited(x: Tensor, most: int) -> Tensor:
    """Return x between -most and most."""
    return x.clamp(-most, most)


def rounded_shift(x: Tensor, bits: int) -> Tensor:
    """Return x / 2^bits, rounded to the nearest, halves up."""
    return (x + (1 << bits >> 1)).bitwise_right_shift_(bits)


class Scaling(NamedTuple):
    """From sums to whole numbers in other units: :math:`(x g + o) >> s`, then limited.

    Args:
        gain: g, by channel.
        offset: o, by channel; it holds the half that makes the shift round.
        shift: s.
        most: the limit, on either side.
    """

    gain: Tensor
    offset: Tensor
    shift: int
    most: int


def scaled(x: Tensor, scaling: Scaling) -> Tensor:
    """Carry out a scaling."""
    return limited((x * scaling.gain).add_(scaling.offset).bitwise_right_shift_(scaling.shift), scaling.most)


# Norms and shares.


def norm_sums(x: Tensor) -> Tensor:
    r"""Normalise over the last axis, without weight and bias.

    .. math:: X = \mathrm{clip}(x, \pm(2^{19} - 1)), \quad
              C = X - \lfloor (2 \textstyle\sum X + H) / 2H \rfloor, \quad
              Z = \lfloor C\,m\,2^{14 - k} + \tfrac12 \rfloor

    where :math:`m\,2^{-k}`, with m in 1, 17/16, ..., 31/16, is nearest to :math:`\sqrt{H / \sum C^2}`.
    """
    channels, most = x.shape[-1], int(RESIDUAL_LIMIT)
    units = limited(x, most)
    total = 2 * units.sum(-1, keepdim=True) + channels
    centred = units - torch.div(total, 2 * channels, rounding_mode="floor")
    factors, limits = _norm_tables(channels, x.device)
    squares = centred.square().sum(-1, keepdim=True)
    # The larger a sum, the fewer limits it is below.
    return rounded_shift(centred * factors[len(limits) - torch.searchsorted(limits, squares)], NORM_PLACES)


@cache
def _norm_tables(channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the factors, and in rising order the largest sum of squares that each but the first is for."""
    _, above, below = norm_factors(NORM_MANTISSA)
    limits = [channels * a // b for a, b in zip(above, below, strict=True)]
    return torch.tensor(whole_norm_factors(NORM_MANTISSA), device=device), torch.tensor(limits[::-1], device=device)


def norm_scaling(layer: nn.LayerNorm, fraction: int, most: int) -> Scaling:
    """Return what weight and bias make of a norm's result, in units of 2^-fraction."""
    limit = 2.0**_GAIN_BITS
    shift = NORM_FRACTION + _NORM_SHIFT - fraction
    gain = torch.round(layer.weight.detach().double() * 2.0**_NORM_SHIFT).clamp(-limit, limit)
    offset = torch.round(layer.bias.detach().double() * 2.0**fraction).clamp(-limit, limit)
    return Scaling(gain.long(), (offset.long() << shift) + (1 << shift >> 1), shift, most)


def shares(share: Tensor) -> Tensor:
    """Return the share of this token in units of 2^-14."""
    units = torch.round(share.detach().double().flatten() * 2.0**SHARE_BITS)
    return units.clamp(-SHARE_LIMIT, SHARE_LIMIT).long()


def mixing(now: Tensor, before: Tensor, share: Tensor, bits: int) -> Tensor:
    """Return the mean of a token and the one before, shifted by ``bits`` beyond those of the share."""
    total = now * share + before * ((1 << SHARE_BITS) - share)
    return limited(rounded_shift(total, SHARE_BITS + bits), MOST_INPUT)


# Products.


def input_bits(layer: nn.Module, inputs: int) -> int:
    """Return how many bits a product's inputs have beside the sign: up to 15, and sums fit 32."""
    if not (isinstance(layer, IntegerFirst) and packed(layer)):
        return 15
    return min(15, _SUM_BITS - math.ceil(math.log2(inputs * layer.quantizer.largest)))


def packed(layer: nn.Module) -> bool:
    """Whether sums over a layer's codes are made in whole numbers: codes of up to 8 bit."""
    return isinstance(layer, IntegerFirst) and layer.quantizer.largest <= 127


def sums_of(x: Tensor, codes: Tensor, bits: int, largest: int) -> Tensor:
    """Return the products of whole numbers with codes, exactly, in float32 or float64.

    Args:
        x: below 2^bits, in float32.
        codes: ``(N, K)``, up to ``largest``.
        bits: as named.
        largest: as named.
    """
    size, linear = _EXACT // (largest << bits), torch.nn.functional.linear
    with torch.autocast(x.device.type, enabled=False):
        codes = codes.float()
        if size >= codes.shape[1]:
            return linear(x, codes)
        if size < 64:
            return linear(x.double(), codes.double())
        total = linear(x[..., :size], codes[:, :size]).double()
        for start in range(size, codes.shape[1], size):
            total += linear(x[..., start : start + size], codes[:, start : start + size])
        return total


def product_scaling(scale: Tensor, factor: float, most: int) -> Scaling:
    r"""Return gains for sums of codes: :math:`\mathrm{round}(2^s\,\gamma\,c)`.

    Args:
        scale: of each output.
        factor: c, what a sum is worth in the result's units beside its scale.
        most: limit of the result.
    """
    # Beyond that every sum but 0 is beyond its limit.
    wanted = (scale.detach().double() * factor).clamp(max=2.0**_MOST_GAIN_BITS)
    _, exponent = torch.frexp(wanted.max().clamp_min(2.0**-60))
    shift = max(0, min(_MOST_SHIFT, _GAIN_BITS - int(exponent)))
    gain = torch.round(wanted * 2.0**shift).long()
    return Scaling(gain, torch.full_like(gain, 1 << shift >> 1), shift, most)


# Powers of two.


@cache
def _powers(device: torch.device) -> Tensor:
    return torch.tensor(power_table(), dtype=torch.int64, device=device)


def _raised(exponent: Tensor) -> Tensor:
    """Return 2^14 times the power of two of exponents in units of 2^-8 that are not negative."""
    fraction = exponent & ((1 << OCTAVE_BITS) - 1)
    return torch.bitwise_left_shift(_powers(exponent.device)[fraction], exponent >> OCTAVE_BITS)


def key_power(exponent: Tensor) -> Tensor:
    """Return 2^18 times the power of two of a key's exponent, within its limits."""
    raised = _raised(limited(exponent, KEY_LIMIT) + (KEY_OCTAVES << OCTAVE_BITS))
    return raised >> RAISED_SHIFT


def gate(exponent: Tensor) -> Tensor:
    r"""Return :math:`2^{15} / (1 + 2^{-z})` for z in units of 2^-8, rounded: one division."""
    octaves = GATE_OCTAVES << OCTAVE_BITS
    power = _raised(exponent.clamp(-octaves, octaves - 1) + octaves)
    total = power + (1 << (POWER_BITS + GATE_OCTAVES))
    return ((power << GATE_BITS) + (total >> 1)) // total


def squares(x: Tensor, bits: int, most: int) -> Tensor:
    """Return the square of what is above 0, shifted."""
    above = x.clamp_min(0)
    return rounded_shift(above * above, bits).clamp(max=most)


# Weighted averages.


def wkv_factors(time_decay: Tensor, time_first: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decay in units of 2^-16, and the bonus as an exponent in units of 2^-8."""
    decay = exponential(-exponential(time_decay.detach().float().clamp(max=4.5)))
    bonus = time_first.detach().double().clamp(-MOST_BONUS, MOST_BONUS) * _LOG2E
    units = torch.round(decay.double() * 2.0**DECAY_BITS).clamp(max=MOST_DECAY)
    return units.long(), torch.round(bonus * 2.0**OCTAVE_BITS).long()


def average(
    decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, numerator: Tensor, denominator: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return weighted averages of values, and the sums behind the last token.

    .. math:: \bar v_t = \mathrm{round}\frac{a_t + p_t v_t}{b_t + p_t}, \quad a_{t+1} = \lfloor a_t d \rfloor + e_t v_t,
              \quad b_{t+1} = \lfloor b_t d \rfloor + e_t

    with :math:`e = 2^k` and :math:`p = 2^{k + u}` by :func:`key_power`; half way the average is rounded away from 0.

    Args:
        decay: d in units of 2^-16, ``(d,)``.
        bonus: u in units of 2^-8, ``(d,)``.
        key: k in units of 2^-8, ``(T, B, d)``.
        value: v, ``(T, B, d)``.
        numerator: a before the first token, ``(B, d)``.
        denominator: b, alike.
    """
    before, found = torch.stack((numerator, denominator)), torch.empty_like(value)
    size = max(1, _CHUNK // max(1, key[0].numel()))
    for k, v, into in zip(*(torch.split(x, size) for x in (key, value, found)), strict=True):
        weight, now = key_power(k), key_power(k + bonus)
        sums = torch.empty(len(k) + 1, *before.shape, dtype=torch.int64, device=key.device)
        sums[0] = before
        torch.mul(weight, v, out=sums[1:, 0])
        sums[1:, 1] = weight
        for old, new in itertools.pairwise(sums.unbind(0)):
            # A product of the whole would need more than 64 bits.
            high = old >> DECAY_BITS
            low = (old - (high << DECAY_BITS)).mul_(decay).bitwise_right_shift_(DECAY_BITS)
            new.add_(high.mul_(decay)).add_(low)
        total = sums[:-1, 1] + now
        above = sums[:-1, 0] + now * v
        into.copy_((above.abs() + (total >> 1)) // total * above.sign())
        before = sums[-1].clone()
    return found, before[0], before[1]


# Neurons.


def leak_of(tau: float) -> int:
    """Return the leak 1 - 1/tau in units of 2^-15."""
    return round((1.0 - 1.0 / tau) * 2.0**LEAK_BITS)


def fired(current: Tensor, potential: Tensor, leak: int, threshold: int) -> tuple[Tensor, Tensor]:
    """Return spikes, and the potential behind the last token.

    Args:
        current: ``(T, ...)``, divided by tau.
        potential: before the first token.
        leak: in units of 2^-15.
        threshold: in units of currents.
    """
    spikes, v = torch.empty_like(current, dtype=torch.bool), potential
    for x, into in zip(current.unbind(0), spikes.unbind(0), strict=True):
        h = rounded_shift(v * leak, LEAK_BITS).add_(x)
        torch.ge(h, threshold, out=into)
        v = h.masked_fill_(into, 0)
    return spikes, v
