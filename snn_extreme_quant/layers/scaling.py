"""Sums in a narrow type, of autocast, times scales in float32: in pieces that stay in a cache.

Torch would turn all sums into float32 first, and again for the gradient of the scales, which takes as long as the
product that they come from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["fits", "scaled"]

_PIECE = 1 << 15


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: Tensor, scale: Tensor) -> Tensor:
        found = torch.empty(sums.shape, dtype=scale.dtype, device=sums.device)
        for part, into in _pieces(sums, found):
            torch.mul(part.to(scale.dtype), scale, out=into)
        ctx.save_for_backward(sums, scale)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        sums, scale = ctx.saved_tensors
        of_sums, of_scale = torch.empty_like(sums), torch.zeros_like(scale)
        for part, gradient, into in _pieces(sums, gradients[0], of_sums):
            into.copy_(gradient * scale)
            of_scale.add_((gradient * part.to(scale.dtype)).sum(0))
        return of_sums, of_scale


def _pieces(*tensors: Tensor) -> Any:
    width = tensors[0].shape[-1]
    return zip(*(torch.split(t.reshape(-1, width), max(1, _PIECE // width)) for t in tensors), strict=True)


def fits(sums: Tensor, scale: Tensor) -> bool:
    """Whether :func:`scaled` is for these: of a linear layer, on a CPU, in types that differ."""
    wider = sums.dtype != scale.dtype and torch.promote_types(sums.dtype, scale.dtype) == scale.dtype
    return wider and scale.dim() == 1 and sums.device.type == "cpu" and sums.numel() > 0 and sums.is_contiguous()


def scaled(sums: Tensor, scale: Tensor) -> Tensor:
    """Return sums times scales.

    Args:
        sums: ``(..., N)``, contiguous.
        scale: ``(N,)``, of a wider type.

    Example:
        >>> scaled(torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16), torch.tensor([0.5, 0.25])).tolist()
        [[0.5, 0.5]]
    """
    found: Tensor = _Scaled.apply(sums, scale)  # type: ignore[no-untyped-call]
    return found
