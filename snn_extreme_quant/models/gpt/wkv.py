r"""The weighted sum over the tokens before, in place of attention (RWKV-4, 2305.13048, equations 16 to 18).

.. math:: \mathrm{wkv}_t = \frac{a_{t-1} + e^{u + k_t} v_t}{b_{t-1} + e^{u + k_t}}, \qquad
   a_t = e^w a_{t-1} + e^{k_t} v_t, \qquad b_t = e^w b_{t-1} + e^{k_t}

With :math:`|k| \le 60` and :math:`|u| \le 20` nothing of this leaves float32, so that no running maximum is needed. A
text goes through in chunks that fit a cache. Within one, all exponentials, products and quotients are done for all
tokens at once, and two operations a token are left, a multiplication and an addition: those of a step, in its order.
For the gradient the sums are made anew from those at the chunks' starts. Cost and memory are linear in the length.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snn_extreme_quant.exported.exponentials import MOST_KEY
from snn_extreme_quant.models.gpt.exact import exponential, raised

__all__ = ["MOST_BONUS", "factors", "weighted_average"]

MOST_BONUS = 20.0
#: Numbers of a chunk: what is computed of them stays in a processor's cache.
_CHUNK = 1 << 16
#: Of time_decay: what is larger forgets at once, e^w being below 2^-120.
_MOST_DECAY = 4.5


class _Chunk(NamedTuple):
    """What some tokens in a row give.

    Args:
        sums: a and b before each token, and behind the last, ``(T + 1, 2, B, d)``.
        total: below the fraction, ``(T, B, d)``.
        average: wkv.
    """

    sums: Tensor
    total: Tensor
    average: Tensor

    @classmethod
    def of(
        cls, decay: Tensor, bonus: Tensor, weights: Tensor, value: Tensor, before: Tensor, average: Tensor
    ) -> _Chunk:
        """Go through the tokens, from the sums before them; ``weights`` are e^k, ``average`` is written to."""
        sums = weights.new_empty(len(weights) + 1, *before.shape)
        torch.mul(weights, value, out=sums[1:, 0])
        sums[1:, 1] = weights
        sums[0] = before
        decayed = torch.empty_like(before)
        for old, new in itertools.pairwise(sums.unbind(0)):
            new.add_(torch.mul(old, decay, out=decayed))
        now = torch.mul(bonus, weights, out=average)
        total = sums[:-1, 1] + now
        return cls(sums, total, now.mul_(value).add_(sums[:-1, 0]).div_(total))


class _WeightedAverage(torch.autograd.Function):
    """The recurrence and its gradient."""

    @staticmethod
    def forward(
        ctx: Any, decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, numerator: Tensor, denominator: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return wkv and the sums after the last token; ``decay`` and ``bonus`` are exponentials."""
        ctx.size = max(1, _CHUNK // max(1, key[0].numel()))
        before = torch.stack((numerator, denominator))
        starts, averages, weights = [], torch.empty_like(value), torch.empty_like(value)
        for k, v, e, into in zip(*(torch.split(x, ctx.size) for x in (key, value, weights, averages)), strict=True):
            starts.append(before)
            raised(k.clamp(-MOST_KEY, MOST_KEY), e)
            chunk = _Chunk.of(decay, bonus, e, v, before, into)
            before = chunk.sums[-1].clone()
        ctx.save_for_backward(decay, bonus, weights, value, torch.stack(starts))
        return averages, before[0].clone(), before[1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of all six."""
        decay, bonus, weights, value, starts = ctx.saved_tensors
        of_average, of_numerator, of_denominator = gradients
        behind = torch.stack((of_numerator, of_denominator))
        of_key, of_value = torch.empty_like(value), torch.empty_like(value)
        of_decay, of_bonus = torch.zeros_like(decay), torch.zeros_like(bonus)
        least, most = exponential(decay.new_tensor([-MOST_KEY, MOST_KEY])).tolist()  # clipped keys have no gradient
        wholes = (weights, value, of_average, of_key, of_value)
        parts = zip(*(torch.split(whole, ctx.size) for whole in wholes), starts, strict=True)
        for e, v, gradient, into_key, into_value, start in reversed(list(parts)):
            chunk = _Chunk.of(decay, bonus, e, v, start, torch.empty_like(v))
            upper = gradient / chunk.total
            lower = -upper * chunk.average
            # Of the sums before each token, from the last token on.
            found = torch.empty_like(chunk.sums)
            found[:-1, 0], found[:-1, 1], found[-1] = upper, lower, behind
            rows = found.unbind(0)
            for t in range(len(rows) - 2, -1, -1):
                rows[t].addcmul_(rows[t + 1], decay)
            behind, after = rows[0], found[1:]
            of_now = (upper * v).add_(lower)
            of_bonus += _by_channel(of_now * e)
            of_decay += _by_channel(after * chunk.sums[:-1])
            of_weights = (after[:, 0] * v).add_(after[:, 1]).add_(of_now.mul_(bonus))
            torch.ops.aten.hardtanh_backward.grad_input(of_weights.mul_(e), e, least, most, grad_input=into_key)
            torch.mul(upper.mul_(bonus).add_(after[:, 0]), e, out=into_value)
        return of_decay, of_bonus, of_key, of_value, behind[0].clone(), behind[1].clone()


def _by_channel(x: Tensor) -> Tensor:
    return x.sum(tuple(range(x.dim() - 1)))


def factors(time_decay: Tensor, time_first: Tensor) -> tuple[Tensor, Tensor]:
    """Return e^w and e^u, ``(d,)``."""
    decay = exponential(-exponential(time_decay.clamp(max=_MOST_DECAY)))
    return decay, exponential(time_first.clamp(-MOST_BONUS, MOST_BONUS))


def weighted_average(
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
    decay, bonus = factors(time_decay, time_first)
    average, a, b = _WeightedAverage.apply(  # type: ignore[no-untyped-call]
        decay, bonus, key.contiguous(), value.contiguous(), numerator, denominator
    )
    return average, a, b
