r"""Weights to integer codes and positive scales, with the identity straight-through gradient.

A quantiser here has two faces. :meth:`WeightQuant.integer` gives codes and scale apart, which is what an
integer-first layer needs: :math:`y = (x \cdot c)\,\gamma`. :meth:`WeightQuant.forward` gives what Brevitas expects of
a ``tensor_quant``: the product, scale, zero point and bit width.

Gradient: :math:`\partial L/\partial W := \partial L/\partial \hat W` with :math:`\hat W = \gamma c` and the scale
(and the mean, where there is one) taken as constants, as BitNet trains. The stock Brevitas binary and ternary classes
multiply it by the scale and add the scale's own gradient.

Scales are means over float64 sums, rounded once: they do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["BinaryWeightQuant", "TernaryWeightQuant", "WeightQuant"]


class _StraightThrough(torch.autograd.Function):
    """Pass ``codes`` forward as a function of ``weight`` whose derivative is ``1 / scale``.

    Nothing is kept with ``save_for_backward``: the node stays usable after a backward pass, so codes computed once
    serve every time step and every loss until the weight changes.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        ctx.scale = scale
        return codes.view_as(codes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] / ctx.scale, None, None


class WeightQuant(nn.Module):
    """Base of the weight quantisers.

    Args:
        per_channel: one scale for each index of the weight's first axis, else one for the whole tensor.
        scaling_min_val: the least scale; keeps an all-zero channel finite.
    """

    bits: int

    def __init__(self, per_channel: bool, scaling_min_val: float) -> None:
        """Remember the granularity and the least scale."""
        super().__init__()
        self.per_channel = per_channel
        self.scaling_min_val = scaling_min_val

    def _mean(self, values: Tensor) -> Tensor:
        """Mean of ``values`` by channel or tensor, in a shape that broadcasts to them."""
        if not self.per_channel:
            return values.mean(dtype=torch.float64).to(values.dtype)
        mean = values.flatten(1).mean(1, dtype=torch.float64).to(values.dtype)
        return mean.view(-1, *(1,) * (values.dim() - 1))

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Return the codes of ``weight``, in its shape and dtype."""
        raise NotImplementedError

    def integer(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return codes :math:`c` (shape and dtype of ``weight``) and scale :math:`\gamma` (broadcastable to it).

        The codes carry the straight-through gradient; the scale carries none.
        """
        with torch.no_grad():
            scale = self._mean(weight.abs()).clamp_min(self.scaling_min_val)
            codes = self.codes(weight, scale)
        if torch.is_grad_enabled() and weight.requires_grad:
            codes = cast("Tensor", _StraightThrough.apply(weight, codes, scale))  # type: ignore[no-untyped-call]
        return codes, scale

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the dequantised weight, scale, zero point (0) and bit width, as Brevitas expects."""
        codes, scale = self.integer(weight)
        return codes * scale, scale, scale.new_zeros(()), scale.new_tensor(float(self.bits))


class TernaryWeightQuant(WeightQuant):
    r"""Codes :math:`\mathrm{clamp}(\mathrm{round}(W/\gamma), -1, 1)`, scale :math:`\gamma = \mathrm{mean}|W|`.

    Source: BitNet b1.58 (Ma et al. 2024), equations 1-3. Rounding is to even, so a weight of exactly half the scale
    becomes 0.

    Example:
        >>> codes, scale = TernaryWeightQuant(False, 1e-5).integer(torch.tensor([[1.0, -0.1, -1.0, 0.3]]))
        >>> codes.tolist(), round(scale.item(), 3)
        ([[1.0, 0.0, -1.0, 0.0]], 0.6)
    """

    bits = 2

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Round to the nearest of -1, 0, +1 scales."""
        # + 0.0 turns the -0.0 that rounding gives into 0.0: the codes are integers.
        return (weight / scale).round().clamp(-1, 1) + 0.0


class BinaryWeightQuant(WeightQuant):
    r"""Codes :math:`\mathrm{sign}(W - \alpha)`, scale :math:`\beta = \mathrm{mean}|W|`.

    Sources: Rastegari et al. 2016, section 3.1 (:math:`\alpha = 0`, sign(0) = +1); BitNet (Wang et al. 2023),
    equations 1-3 (:math:`\alpha = \mathrm{mean}(W)`, ties to -1; the scale is that of the uncentred weight).

    Args:
        per_channel: as for :class:`WeightQuant`.
        scaling_min_val: as for :class:`WeightQuant`.
        center: subtract the mean (of the channel or tensor) before taking the sign.

    Example:
        >>> BinaryWeightQuant(False, 1e-5, center=True).integer(torch.tensor([[1.0, 2.0, 6.0]]))[0].tolist()
        [[-1.0, -1.0, 1.0]]
    """

    bits = 1

    def __init__(self, per_channel: bool, scaling_min_val: float, center: bool = False) -> None:
        """Remember the options."""
        super().__init__(per_channel, scaling_min_val)
        self.center = center

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Take the sign."""
        positive = weight > self._mean(weight) if self.center else weight >= 0
        return positive.to(weight.dtype) * 2 - 1
