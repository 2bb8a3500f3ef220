r"""Softmax and norm by shifts: what the integer profile puts in the place of exp, sqrt and division.

The idea is Sorbet's (arXiv:2409.15298); the forms are ours and stand in ``docs/spiking_bert.md``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["ShiftNorm", "shift_softmax"]

#: Probabilities below 2^-15 of the largest count as 2^-15 of it.
_LEAST_EXPONENT = -15.0
#: The norm's factor has two bits behind its leading one.
_MANTISSA = 4.0


def shift_softmax(scores: Tensor) -> Tensor:
    r"""Return powers of two in the place of a softmax over the last axis.

    .. math:: p_j = 2^{\max(r_j - \max r, -15)}, \quad r = \mathrm{round}(z \log_2 e), \quad A_j = p_j / 2^k

    with :math:`k = \mathrm{round}(\log_2 \sum_j p_j)`. Scores of -10000 and below give exactly 0. The gradient is
    the softmax's.

    Args:
        scores: :math:`z`, any shape.

    Example:
        >>> shift_softmax(torch.tensor([[0.0, 0.0, -0.7]])).tolist()
        [[0.5, 0.5, 0.25]]
    """
    with torch.no_grad():
        z = scores.detach().float()
        exponent = (z * math.log2(math.e)).round()
        exponent = exponent - exponent.amax(-1, keepdim=True)
        power = torch.exp2(exponent.clamp_min(_LEAST_EXPONENT)) * (exponent > -5000.0)
        hard = power / torch.exp2(power.sum(-1, keepdim=True).log2().round())
    if not (torch.is_grad_enabled() and scores.requires_grad):
        return hard
    soft = scores.float().softmax(-1)
    return hard + (soft - soft.detach())


class ShiftNorm(nn.LayerNorm):
    r"""A layer norm whose factor is one of four mantissas times a power of two.

    .. math:: y = (x - \bar x)\,m 2^{-k} \cdot w + b

    where :math:`m 2^{-k}`, with m in {1, 1.25, 1.5, 1.75}, is nearest to the reciprocal of the standard deviation (1 if
    that is 0): integers find it by comparing sums of squares, without a root. The gradient takes the factor as a
    constant of the token. Parameters are ``nn.LayerNorm``'s.

    Example:
        >>> ShiftNorm(4)(torch.tensor([[1.0, -1.0, 1.0, -1.0]])).tolist()
        [[1.0, -1.0, 1.0, -1.0]]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input."""
        centred = input.float() - input.float().mean(-1, keepdim=True)
        with torch.no_grad():
            reciprocal = centred.square().mean(-1, keepdim=True).rsqrt()
            reciprocal = torch.where(torch.isfinite(reciprocal), reciprocal, 1.0)
            power = torch.exp2(reciprocal.log2().floor())
            factor = (reciprocal / power * _MANTISSA).round() / _MANTISSA * power
        return centred * factor * self.weight + self.bias
