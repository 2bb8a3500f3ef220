r"""The weighted sum over the tokens before, in place of attention (RWKV-4, 2305.13048, equations 16 to 18).

.. math:: \mathrm{wkv}_t = \frac{a_{t-1} + e^{u + k_t} v_t}{b_{t-1} + e^{u + k_t}}, \qquad
   a_t = e^w a_{t-1} + e^{k_t} v_t, \qquad b_t = e^w b_{t-1} + e^{k_t}

With :math:`|k| \le 60` and :math:`|u| \le 20` nothing of this leaves float32, so that no running maximum is needed: all
exponentials, products and quotients are done for all tokens at once, and two operations a token are left, a
multiplication and an addition. They are those of a single step, in its order. Cost and memory are linear in the length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snn_extreme_quant.models.exact import exponential

__all__ = ["MOST_BONUS", "MOST_KEY", "weighted_average"]

MOST_KEY, MOST_BONUS = 60.0, 20.0
#: Of time_decay: what is larger forgets at once, e^w being below 2^-120.
_MOST_DECAY = 4.5


class _WeightedAverage(torch.autograd.Function):
    """The recurrence and its gradient."""

    @staticmethod
    def forward(  # noqa: PLR0913 - the terms of the equation
        ctx: Any, decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, numerator: Tensor, denominator: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return wkv and the sums after the last token; ``decay``, ``bonus`` and ``key`` are exponentials."""
        sums = key.new_empty(key.shape[0] + 1, 2, *key.shape[1:])
        torch.mul(key, value, out=sums[1:, 0])
        sums[1:, 1] = key
        sums[0, 0], sums[0, 1] = numerator, denominator
        decayed = torch.empty_like(sums[0])
        rows = sums.unbind(0)
        for before, now in zip(rows, rows[1:], strict=False):
            now.add_(torch.mul(before, decay, out=decayed))
        weight = bonus * key
        total = sums[:-1, 1] + weight
        average = (weight * value).add_(sums[:-1, 0]).div_(total)
        ctx.save_for_backward(decay, bonus, key, value, sums, total, average)
        return average, rows[-1][0].clone(), rows[-1][1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of all six."""
        decay, bonus, key, value, sums, total, average = ctx.saved_tensors
        of_average, of_numerator, of_denominator = gradients
        upper = of_average / total
        lower = -upper * average
        # Of the sums before each token, from the last token on.
        found = torch.empty_like(sums)
        found[:-1, 0], found[:-1, 1] = upper, lower
        found[-1, 0], found[-1, 1] = of_numerator, of_denominator
        rows = found.unbind(0)
        for t in range(len(rows) - 2, -1, -1):
            rows[t].addcmul_(rows[t + 1], decay)
        after = found[1:]
        of_weight = upper * value + lower
        of_key = after[:, 0] * value + after[:, 1] + of_weight * bonus
        of_value = after[:, 0] * key + upper * (bonus * key)
        others = tuple(range(key.dim() - 1))
        of_bonus = (of_weight * key).sum(others)
        of_decay = (after * sums[:-1]).sum((0, 1, *(axis + 1 for axis in others[1:])))
        return of_decay, of_bonus, of_key, of_value, found[0, 0].clone(), found[0, 1].clone()


def weighted_average(  # noqa: PLR0913 - the terms of the equation
    time_decay: Tensor, time_first: Tensor, key: Tensor, value: Tensor, numerator: Tensor, denominator: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return wkv of every token, and the sums after the last one.

    Args:
        time_decay: of :math:`w = -e^{time\_decay}`, ``(d,)``.
        time_first: u, ``(d,)``; clipped to 20 on either side.
        key: k, ``(T, B, d)``; clipped to 60 on either side.
        value: v, ``(T, B, d)``.
        numerator: a before the first token, ``(B, d)``.
        denominator: b, alike.

    Returns:
        wkv ``(T, B, d)``, a and b.

    Example:
        >>> key, value, zero = torch.zeros(3, 1, 1), torch.tensor([1.0, 2.0, 6.0]).view(3, 1, 1), torch.zeros(1, 1)
        >>> never = torch.tensor([-80.0])  # no decay: the mean of all tokens
        >>> weighted_average(never, torch.zeros(1), key, value, zero, zero)[0].flatten().tolist()
        [1.0, 1.5, 3.0]
    """
    decay = exponential(-exponential(time_decay.clamp(max=_MOST_DECAY)))
    bonus = exponential(time_first.clamp(-MOST_BONUS, MOST_BONUS))
    weights = exponential(key.clamp(-MOST_KEY, MOST_KEY))
    average, a, b = _WeightedAverage.apply(  # type: ignore[no-untyped-call]
        decay, bonus, weights, value.contiguous(), numerator, denominator
    )
    return average, a, b
