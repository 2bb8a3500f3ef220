r"""Average spiking rates, the steady state they settle at, and neurons that train at it.

A layer of integrate-and-fire neurons that is fed long enough spikes at a rate that no longer depends on time. Training
at this steady state (Bal & Sengupta 2024, arXiv:2308.10873; Xiao et al. 2021) needs one ordinary backward pass,
whatever the number of time steps.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.spike_train import SpikeTrain, check_steps
from snn_extreme_quant.neurons.synchronous import SynchronousIF, synchronous_count

__all__ = ["ChannelIF", "Mode", "average_rate", "steady_state", "weighted_sum"]

#: What a layer of neurons gives, and its gradient; ``docs/spiking_bert.md`` has the table.
Mode = Literal["simulated", "equilibrium", "surrogate"]


def average_rate(spikes: Tensor, leak: float = 1.0) -> Tensor:
    r"""Return the average spiking rate of all time steps.

    .. math:: a = \sum_t g^{T-t} s_t \,/\, \sum_t g^{T-t}

    Args:
        spikes: :math:`s_t`, shape ``(T, ...)``.
        leak: :math:`g` in (0, 1]; 1 gives the number of spikes over T.

    Returns:
        Rates of the shape ``(...)``.

    Example:
        >>> average_rate(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), leak=0.5).tolist()
        [0.3333333432674408, 0.6666666865348816]
    """
    total, weight = weighted_sum(spikes, leak)
    return total / weight


def weighted_sum(spikes: Tensor, leak: float) -> tuple[Tensor, float]:
    r"""Return :math:`\sum_t g^{T-t} s_t` and :math:`\sum_t g^{T-t}`, whose quotient is the average spiking rate."""
    steps = spikes.shape[0]
    if leak == 1.0:
        return spikes.sum(0), float(steps)
    weights = [leak ** (steps - 1 - t) for t in range(steps)]
    total: Tensor = torch.tensordot(spikes.new_tensor(weights), spikes, dims=1)
    return total, sum(weights)


def steady_state(current: Tensor, threshold: Tensor, signed: bool = False) -> Tensor:
    r"""Return the rate at which neurons settle under a constant current.

    .. math:: \tilde a = \mathrm{clip}(f / \vartheta, 0, 1)

    (2308.10873), with -1 in the place of 0 for signed neurons. The average rate of T steps of a neuron without leak
    differs by less than 1/T.

    Args:
        current: :math:`f`, any shape.
        threshold: :math:`\vartheta`, positive, broadcastable to ``current``.
        signed: whether spikes may be -1 too.

    Returns:
        Rates of ``current``'s shape.

    Example:
        >>> steady_state(torch.tensor([-1.0, 0.5, 3.0]), torch.tensor(2.0)).tolist()
        [0.0, 0.25, 1.0]
    """
    return (current / threshold).clamp(-1.0 if signed else 0.0, 1.0)


class _CountedRate(torch.autograd.Function):
    """``synchronous_count / T`` with the gradient of the steady state, in few passes over memory.

    :meth:`SynchronousIF.straight_through` is the same function, spelled out; this one halves what a layer reads and
    writes in training.
    """

    @staticmethod
    def forward(ctx: Any, current: Tensor, threshold: Tensor, T: int, signed: bool) -> Tensor:
        """Return the rates, by the operations of :func:`synchronous_count` in their order."""
        lowest = -1.0 if signed else 0.0
        ratio = current / threshold
        ctx.lowest, ctx.shape = lowest, threshold.shape
        ctx.save_for_backward(ratio, threshold)
        count = ratio.mul(float(T)).add_(0.5).floor_().clamp_(lowest * T, float(T))
        return count.mul_(1.0 / T)  # T is a power of two: as exact as the division

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Return the gradients of clip(current / threshold)."""
        ratio, threshold = ctx.saved_tensors
        inside = torch.where((ratio >= ctx.lowest) & (ratio <= 1.0), gradients[0], 0.0).div_(threshold)
        for_threshold = -(inside * ratio).sum_to_size(ctx.shape) if ctx.needs_input_grad[1] else None
        return (inside if ctx.needs_input_grad[0] else None), for_threshold, None, None


def not_half(current: Tensor) -> Tensor:
    """Return a current in float32 where autocast left it in half precision."""
    return current.float() if current.dtype in (torch.bfloat16, torch.float16) else current


class TrainedThresholds(nn.Module):
    r"""Thresholds :math:`\vartheta = e^\lambda` of a layer of neurons, for each channel or one for the tensor."""

    log_threshold: Tensor
    offset: Tensor  #: what silence stands for, in models that have it; nothing here reads it

    def start_thresholds(self, channels: int | None, threshold: float, learn: bool) -> None:
        """Start with equal thresholds; ``learn`` makes their logarithm a Parameter, not a buffer.

        Raises:
            ConfigError: the threshold is not positive.
        """
        if not (math.isfinite(threshold) and threshold > 0):
            raise ConfigError(f"threshold={threshold}: use a positive number.")
        shape = () if channels is None else (channels,)
        value = torch.full(shape, math.log(threshold), dtype=torch.float32)
        if learn:
            self.log_threshold = nn.Parameter(value)
        else:
            self.register_buffer("log_threshold", value)

    @property
    def threshold(self) -> Tensor:
        r""":math:`\vartheta`, a scalar or ``(channels,)``."""
        return self.log_threshold.exp()

    @torch.no_grad()
    def set_thresholds(self, thresholds: Tensor) -> None:
        """Set the thresholds, each positive, from what broadcasts to their shape."""
        self.log_threshold.copy_(thresholds.log())


class ChannelIF(TrainedThresholds, SynchronousIF):  # type: ignore[override]
    r"""A synchronous neuron with a threshold for each channel of the last axis, trained at the steady state.

    The equation is :class:`SynchronousIF`'s. The thresholds are :math:`\vartheta = e^\lambda` and it is
    :math:`\lambda` that is trained, so they stay positive. With ``mode = "equilibrium"`` rates are not rounded to
    T levels: :func:`steady_state`.

    Args:
        T: number of time steps, a power of two up to 128.
        channels: length of the last axis; None for one threshold.
        threshold: where all thresholds start, positive.
        signed: whether spikes may be -1 too.
        learn_threshold: whether :math:`\lambda` is a Parameter, not a buffer.

    Shapes:
        current ``(B, ..., channels)``, rates alike, spikes ``(T, B, ..., channels)``.

    Raises:
        ConfigError: T is no power of two up to 128, or the threshold is not positive.

    Example:
        >>> neuron = ChannelIF(T=4, channels=2)
        >>> neuron.set_thresholds(torch.tensor([1.0, 2.0]))
        >>> neuron(torch.tensor([[0.5, 0.5]])).tolist()
        [[0.5, 0.25]]
    """

    def __init__(
        self,
        T: int,
        channels: int | None = None,
        threshold: float = 1.0,
        signed: bool = False,
        learn_threshold: bool = True,
    ) -> None:
        """Check the options."""
        nn.Module.__init__(self)  # not the parent's: its threshold is a number, this one a function of a parameter
        self.T = check_steps(T, type(self).__name__)
        self.signed, self.schedule = signed, "counts"
        self.mode: Mode = "simulated"
        self.start_thresholds(channels, threshold, learn_threshold)

    def forward(self, current: Tensor | SpikeTrain) -> Tensor | SpikeTrain:
        """Return the rates, or the spikes of all steps."""
        if not isinstance(current, SpikeTrain):
            current = not_half(current)
            if self.mode == "equilibrium":
                return steady_state(current, self.threshold, self.signed)
            if self.schedule == "counts" and torch.is_grad_enabled():
                rates: Tensor = _CountedRate.apply(  # type: ignore[no-untyped-call]
                    current, self.threshold, self.T, self.signed
                )
                return rates
        return super().forward(current)

    def rates(self, current: Tensor) -> Tensor:
        """Return the rates on T levels, whatever mode and schedule."""
        return synchronous_count(current, self.threshold, self.T, self.signed) / self.T

    def extra_repr(self) -> str:
        """Show the options."""
        return f"T={self.T}, channels={tuple(self.log_threshold.shape)}, signed={self.signed}, mode={self.mode!r}"
