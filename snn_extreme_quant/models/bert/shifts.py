r"""Softmax and norm by shifts: what the integer profile puts in the place of exp, sqrt and division.

The idea is Sorbet's (arXiv:2409.15298); the forms are ours and stand in ``docs/spiking_bert.md``. Every sum is over
multiples of a power of two, and exact in whatever order it is added up: the functions below give the same bits in
torch, in a file and on every processor. They are the definition of what files compute.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.exported.shift_tables import (
    NORM_FRACTION,
    PROBABILITY_BITS,
    RESIDUAL_FRACTION,
    RESIDUAL_LIMIT,
    norm_factors,
    softmax_stairs,
)

__all__ = [
    "OnGrid",
    "ShiftNorm",
    "ShiftSoftmax",
    "query_grid",
    "shift_norm_sums",
    "shift_probabilities",
    "to_grid",
]

#: Scores this far below the largest belong to pads.
_PAD_DISTANCE = 5000.0
#: Sums of up to so many squares of 2^20 are exact in float64, and of so many numbers of 2^19 in 32 bits.
_MOST_CHANNELS = 4096
#: What queries are limited to, and the finest grid they are on.
_QUERY_BITS, _QUERY_FRACTION = 5, 10


def to_grid(x: Tensor, fraction: int, limit: float) -> Tensor:
    r"""Round to multiples of a power of two: :math:`\mathrm{clip}(\lfloor 2^f x + \tfrac12 \rfloor, \pm l)\,2^{-f}`.

    Args:
        x: any shape, float32.
        fraction: f.
        limit: l, in multiples.

    Example:
        >>> to_grid(torch.tensor([0.3, -0.125, 9.0]), 2, 7).tolist()
        [0.25, 0.0, 1.75]
    """
    return torch.floor(x * 2.0**fraction + 0.5).clamp(-limit, limit) * 2.0**-fraction


def shift_probabilities(x: Tensor) -> Tensor:
    r"""Return powers of two in the place of a softmax over the last axis.

    .. math:: p_j = 2^{\max(r_j - \max r, -15)}, \quad r = \lfloor x + \tfrac12 \rfloor, \quad
              A_j = 2^{-15} \lfloor 2^{15} p_j / 2^k \rfloor

    with :math:`k = \mathrm{round}(\log_2 \sum_j p_j)`, found by comparing whole numbers; 0 where
    :math:`r_j - \max r \le -5000`.

    Args:
        x: scores times :math:`\log_2 e`, any shape.

    Example:
        >>> shift_probabilities(torch.tensor([[0.0, 0.0, -1.0, -10000.0]])).tolist()
        [[0.5, 0.5, 0.25, 0.0]]
    """
    exponent = torch.floor(x + 0.5)
    exponent = exponent - exponent.amax(-1, keepdim=True)
    places = (exponent.clamp_min(-float(PROBABILITY_BITS)) + PROBABILITY_BITS).int()
    power = torch.bitwise_left_shift(torch.ones_like(places), places) * (exponent > -_PAD_DISTANCE)
    total = power.sum(-1, keepdim=True, dtype=torch.int64)
    halvings = (total >= torch.tensor(softmax_stairs(), device=x.device)).sum(-1, keepdim=True)
    return torch.floor(power.float() * _powers(x.device)[halvings]) * 2.0**-PROBABILITY_BITS


@cache
def _powers(device: torch.device) -> Tensor:
    """2^0, 2^-1, ..., each exact."""
    return torch.tensor([2.0**-i for i in range(len(softmax_stairs()) + 1)], device=device)


@cache
def _norm_tables(channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the factors, and the largest sum of squares that each but the first is for."""
    factors, above, below = norm_factors()
    limits = [float(channels * a // b) for a, b in zip(above, below, strict=True)]
    return torch.tensor(factors, device=device), torch.tensor(limits, dtype=torch.float64, device=device)


def shift_norm_sums(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Normalise over the last axis, without weight and bias, in whole numbers.

    .. math:: X = \mathrm{clip}(\lfloor 2^{10} x + \tfrac12 \rfloor, \pm(2^{19} - 1)), \quad
              C = X - \lfloor (2 \textstyle\sum X + H) / 2H \rfloor, \quad
              Z = \lfloor C\,m\,2^{14 - k} + \tfrac12 \rfloor

    where :math:`m\,2^{-k}`, with m in {1, 1.25, 1.5, 1.75}, is nearest to :math:`\sqrt{H / \sum C^2}`.

    Args:
        x: ``(..., H)``, float32, H up to 4096.

    Returns:
        :math:`Z` as floats, the norm's result in units of 2^-14; and :math:`m\,2^{10 - k}`, what :math:`x` was
        multiplied with, ``(..., 1)``.
    """
    channels = x.shape[-1]
    factors, limits = _norm_tables(channels, x.device)
    units = torch.floor(x * 2.0**RESIDUAL_FRACTION + 0.5).clamp(-RESIDUAL_LIMIT, RESIDUAL_LIMIT)
    total = units.sum(-1, keepdim=True, dtype=torch.float64)  # below 2^31: exact
    mean = torch.floor((2 * total + channels) / (2 * channels)).float()
    centred = units - mean
    squares = centred.double().square().sum(-1, keepdim=True)  # below 2^52: exact
    factor = factors[(squares <= limits).sum(-1, keepdim=True)]
    return torch.floor(centred * factor + 0.5), factor * 2.0 ** (RESIDUAL_FRACTION - NORM_FRACTION)


class ShiftNorm(nn.LayerNorm):
    r"""A layer norm whose factor is one of four mantissas times a power of two: :func:`shift_norm_sums`.

    .. math:: y = 2^{-14} Z \cdot w + b

    The gradient is that of the layer norm with the factor taken as a constant of the token. Parameters are
    ``nn.LayerNorm``'s; ``eps`` is not used.

    Raises:
        ConfigError: more than 4096 channels, whose sums of squares would not be exact.

    Example:
        >>> ShiftNorm(4)(torch.tensor([[1.0, -1.0, 1.0, -1.0]])).tolist()
        [[1.0, -1.0, 1.0, -1.0]]
    """

    def __init__(self, channels: int, eps: float = 1e-12) -> None:
        """Check the number of channels."""
        super().__init__(channels, eps=eps)
        if channels > _MOST_CHANNELS:
            raise ConfigError(f"ShiftNorm({channels}): use up to {_MOST_CHANNELS} channels, or profile='reference'.")

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input."""
        return self.normalised(input.float()) * self.weight + self.bias

    def normalised(self, input: Tensor) -> Tensor:
        """Return the norm's result before weight and bias."""
        with torch.no_grad():
            units, factor = shift_norm_sums(input)
            hard = units * 2.0**-NORM_FRACTION
        if not (torch.is_grad_enabled() and input.requires_grad):
            return hard
        soft = (input - input.mean(-1, keepdim=True)) * factor
        return hard + (soft - soft.detach())


class ShiftSoftmax(nn.Module):
    """:func:`shift_probabilities` with the gradient of the softmax.

    Example:
        >>> ShiftSoftmax()(torch.tensor([[0.0, 0.0]])).tolist()
        [[0.5, 0.5]]
    """

    def forward(self, scores: Tensor) -> Tensor:
        """Return probabilities of scores that are in units of the binary logarithm."""
        with torch.no_grad():
            hard = shift_probabilities(scores.detach().float())
        if not (torch.is_grad_enabled() and scores.requires_grad):
            return hard
        soft = (scores.float() * math.log(2.0)).softmax(-1)
        return hard + (soft - soft.detach())


class OnGrid(nn.Module):
    """:func:`to_grid`, whose gradient passes straight through.

    Args:
        fraction: the grid is of 2^-fraction.
        limit: the largest magnitude, in multiples of the grid.

    Example:
        >>> OnGrid(2, 7)(torch.tensor(0.3)).item()
        0.25
    """

    def __init__(self, fraction: int, limit: float) -> None:
        super().__init__()
        self.fraction, self.limit = fraction, limit

    def forward(self, x: Tensor) -> Tensor:
        """Return the rounded values."""
        with torch.no_grad():
            hard = to_grid(x.detach().float(), self.fraction, self.limit)
        return hard + (x - x.detach()) if torch.is_grad_enabled() and x.requires_grad else hard

    def extra_repr(self) -> str:
        """Show the grid."""
        return f"fraction={self.fraction}, limit={self.limit:g}"


def query_grid(head_size: int, T: int) -> OnGrid:
    """Return the grid of queries: its products with rates on T levels, summed over a head, fit 24 bits.

    Raises:
        ConfigError: heads that are so wide that nothing is left of a query.

    Example:
        >>> query_grid(64, 16)
        OnGrid(fraction=9, limit=16383)
    """
    fraction = min(_QUERY_FRACTION, 24 - _QUERY_BITS - math.ceil(math.log2(head_size * T)))
    if fraction < 0:
        raise ConfigError(
            f"Heads of {head_size} channels with T={T} leave no bits for queries in profile='integer'; use less of"
            " either."
        )
    return OnGrid(fraction, 2.0 ** (_QUERY_BITS + fraction) - 1)
