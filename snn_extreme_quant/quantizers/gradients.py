r"""The straight-through gradients.

Codes :math:`c` are a step function of the weight :math:`W` and the scale :math:`s`; the dequantised weight is
:math:`\hat W = s c`. What is put in place of the derivative:

.. math::

   \frac{\partial \hat W}{\partial W} := 1, \qquad
   \frac{\partial \hat W}{\partial s} := \begin{cases} c - W/s & |W/s| < q \\ c & \text{else} \end{cases}

The first is BitNet's; the second, used where the scale is learned, is that of LSQ (Esser et al. 2020, equation 3).
An integer-first layer multiplies by the scale after the sum, so :math:`c` itself gets :math:`\partial c/\partial W =
1/s` and :math:`\partial c/\partial s = (\partial \hat W/\partial s - c)/s`, that is :math:`-W/s^2` inside the range
and 0 outside.

Nothing is kept with ``save_for_backward``: the nodes stay usable after a backward pass, so that codes and scale that
were computed once serve every time step and every loss until the weight changes. A compiler does not see through
such nodes; for it the same derivatives are written with ``detach``.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["learned_scale", "straight_through"]


class _StraightThrough(torch.autograd.Function):
    """Pass codes forward, with the derivatives ``slope_weight`` by the weight and ``slope_scale`` by the scale."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, scale: Tensor, codes: Tensor, inverse: Tensor, slope: Tensor | None
    ) -> Tensor:
        ctx.inverse, ctx.slope, ctx.scale_shape = inverse, slope, scale.shape
        return codes.view_as(codes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        by_scale = None
        if ctx.slope is not None and ctx.needs_input_grad[1]:
            by_scale = (grads[0] * ctx.slope).sum_to_size(ctx.scale_shape)
        return grads[0] / ctx.inverse, by_scale, None, None, None


def straight_through(weight: Tensor, scale: Tensor, codes: Tensor, inside: Tensor | None = None) -> Tensor:
    """Return ``codes`` as a function of ``weight`` and ``scale``, with the derivatives of this module's equations.

    Args:
        weight: W.
        scale: s, in a shape that broadcasts to the weight.
        codes: c, in the weight's shape.
        inside: where the scale's derivative is not that of a constant code; None if nowhere.
    """
    if not torch.is_grad_enabled() or not (weight.requires_grad or scale.requires_grad):
        return codes
    constant = scale.detach()
    slope = None
    if inside is not None and scale.requires_grad:
        slope = torch.where(inside, -weight.detach() / constant / constant, 0.0)
    if torch.compiler.is_compiling():
        # The brackets are zeros: they carry a gradient and no value.
        codes = codes + (weight - weight.detach()) / constant
        return codes if slope is None else codes + (scale - constant) * slope
    return cast("Tensor", _StraightThrough.apply(weight, scale, codes, constant, slope))  # type: ignore[no-untyped-call]


class _LearnedScale(torch.autograd.Function):
    """The positive scale that a parameter stands for; its gradient is multiplied by ``factor``."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, least: float, factor: Tensor) -> Tensor:
        ctx.slope = torch.where(parameter < 0, -factor, factor)
        return parameter.abs().clamp_min(least)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.slope, None, None


def learned_scale(parameter: Tensor, least: float, counts: Tensor, largest: int) -> Tensor:
    r"""Return :math:`s = \max(|p|, \epsilon)`, whose gradient is multiplied by :math:`1/\sqrt{n q}`.

    The factor is LSQ's (Esser et al. 2020, section 2.2), which makes steps of scale and weights comparable; n is the
    number of weights that share the scale. The gradient passes the floor: a scale that fell there can rise again.

    Args:
        parameter: p.
        least: the floor :math:`\epsilon`.
        counts: n, in a shape that broadcasts to p.
        largest: q, the largest code.
    """
    factor = (counts * largest).rsqrt().to(parameter.dtype)
    if torch.compiler.is_compiling():
        value = parameter.detach().abs().clamp_min(least)
        signed = parameter * torch.where(parameter.detach() < 0, -factor, factor)
        return value + (signed - signed.detach())
    return cast("Tensor", _LearnedScale.apply(parameter, least, factor))  # type: ignore[no-untyped-call]
