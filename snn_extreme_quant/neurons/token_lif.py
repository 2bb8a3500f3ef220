r"""LIF neurons whose time steps are the tokens of a text, with their gradient through time (2302.13939).

.. math:: h_t = \beta v_{t-1} + x_t / \tau, \qquad s_t = [h_t \ge 1], \qquad v_t = (1 - s_t) h_t,
   \qquad \beta = 1 - 1/\tau

which is :math:`v + (x - v)/\tau` with one rounding less. The gradient of the step is that of an arctangent,
:math:`\sigma'(z) = 1 / (1 + (\pi z)^2)` at :math:`z = h - 1` (Fang et al. 2021, :math:`\alpha = 2`); it passes through
the reset too, unless that is detached.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.spec import NeuronSpec

__all__ = ["TOKEN_LIF", "TokenLIF", "unit_step"]

#: What the neurons compute, with ``decay`` :math:`\beta`, for the input :math:`x / \tau`.
TOKEN_LIF = NeuronSpec("leak", "ge", "zero", "same_step")


#: Numbers that go through a chain of operations together: they stay in a processor's cache.
_PIECE = 1 << 15


class _TokenLIF(torch.autograd.Function):
    """All tokens; what depends on no other token is done for many of them at once.

    Inside, h and v have the other sign: then ``threshold`` gives :math:`-v = (1 - s) (-h)` in one operation.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, potential: Tensor, tau: float, detach_reset: bool) -> tuple[Tensor, Tensor]:
        """Return spikes and the potential after the last token."""
        leak = 1.0 - 1.0 / tau
        exact = math.frexp(leak)[0] == 0.5  # halving rounds nothing, so it may go with the addition
        charged = x * (-1.0 / tau)
        v = -potential
        for h in charged.unbind(0):
            if exact:
                h.add_(v, alpha=leak)
            else:
                h.add_(v.mul_(leak))
            torch.threshold(h, -1.0, 0.0, out=v)
        ctx.save_for_backward(charged)
        ctx.leak, ctx.gain, ctx.detach_reset = leak, 1.0 / tau, detach_reset
        return torch.le(charged, -1.0, out=torch.empty_like(charged)), 0.0 - v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of input and first potential."""
        of_spikes, behind = gradients
        (charged,) = ctx.saved_tensors
        found, later = torch.empty_like(charged), 1.0 / ctx.leak  # nothing leaks behind the last token
        size = max(1, _PIECE // max(1, behind.numel()))
        parts = list(zip(*(torch.split(part, size) for part in (charged, of_spikes, found)), strict=True))
        for h, given, into in reversed(parts):
            slope = _slope(h + 1.0)
            kept = torch.gt(h, -1.0, out=torch.empty_like(h))  # dv / dh
            torch.mul(given, slope, out=into)
            if not ctx.detach_reset:
                kept += slope.mul_(h)
            kept *= ctx.leak
            for row, of in zip(reversed(into.unbind(0)), reversed(kept.unbind(0)), strict=True):
                behind = row.addcmul_(behind, of, value=later)
                later = 1.0
            behind = behind.clone()
            into.mul_(ctx.gain)
        return found, behind * ctx.leak, None, None


class _UnitStep(torch.autograd.Function):
    """1 where the sign bit is not set, with the gradient of an arctangent."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return 0 or 1."""
        ctx.save_for_backward(x)
        return (~torch.signbit(x)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the arctangent's slope times the gradient."""
        (x,) = ctx.saved_tensors
        return gradients[0] * _slope(x)


def _slope(z: Tensor) -> Tensor:
    return (z * math.pi).square_().add_(1.0).reciprocal_()


def unit_step(x: Tensor) -> Tensor:
    r"""Return :math:`H(x)`, 1 where the sign bit of x is not set, with the gradient :math:`1 / (1 + (\pi x)^2)`.

    Example:
        >>> unit_step(torch.tensor([0.5, 0.0, -0.0, -2.0])).tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    found: Tensor = _UnitStep.apply(x)  # type: ignore[no-untyped-call]
    return found


class TokenLIF(nn.Module):
    r"""A layer of LIF neurons over tokens, without state of its own.

    Args:
        tau: :math:`\tau`, above 1, in tokens.
        detach_reset: leave the reset out of the gradient.

    Shapes:
        currents ``(T, ...)``, potential ``(...)``; spikes ``(T, ...)`` and the potential after them.

    Raises:
        ConfigError: ``tau`` is no number above 1.

    Example:
        >>> spikes, potential = TokenLIF()(torch.tensor([[1.0], [2.0], [0.5]]), torch.zeros(1))
        >>> spikes.flatten().tolist(), potential.tolist()
        ([0.0, 1.0, 0.0], [0.25])
    """

    def __init__(self, tau: float = 2.0, detach_reset: bool = False) -> None:
        """Check the options."""
        super().__init__()
        if not 1.0 < tau < float("inf"):
            raise ConfigError(f"TokenLIF(tau={tau}): use a number above 1; 2 halves the potential at each token.")
        self.tau, self.detach_reset = float(tau), detach_reset

    def forward(self, current: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
        """Return spikes and the potential after the last token."""
        spikes, after = _TokenLIF.apply(  # type: ignore[no-untyped-call]
            current, potential, self.tau, self.detach_reset
        )
        return spikes, after

    def extra_repr(self) -> str:
        """Show the options."""
        return f"tau={self.tau}, detach_reset={self.detach_reset}"
