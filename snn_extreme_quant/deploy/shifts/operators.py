"""Norm and softmax by shifts, as torch custom operators of the namespace ``snn_xq``, and what stands in for them.

What they compute is defined in :mod:`snn_extreme_quant.models.bert.shifts`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from snn_extreme_quant.deploy.lowering.operators import NAMESPACE
from snn_extreme_quant.exported.shift_tables import NORM_FRACTION
from snn_extreme_quant.models.bert.shifts import (
    OnGrid,
    ShiftNorm,
    ShiftSoftmax,
    shift_norm_sums,
    shift_probabilities,
    to_grid,
)

__all__ = [
    "GRID",
    "NORM",
    "SOFTMAX",
    "UNITS",
    "norm_bound",
    "shift_norm",
    "shift_norm_units",
    "shift_softmax",
    "shift_stub",
]


@torch.library.custom_op(f"{NAMESPACE}::shift_norm", mutates_args=())
def shift_norm(x: Tensor, layer: str) -> Tensor:
    """Normalise over the last axis, on the grid of 2^-14."""
    return shift_norm_sums(x)[0] * 2.0**-NORM_FRACTION


@torch.library.custom_op(f"{NAMESPACE}::shift_norm_units", mutates_args=())
def shift_norm_units(x: Tensor, layer: str) -> Tensor:
    """The same in units of 2^-14, as integers."""
    return shift_norm_sums(x)[0].to(torch.int32)


@torch.library.custom_op(f"{NAMESPACE}::shift_softmax", mutates_args=())
def shift_softmax(x: Tensor, layer: str) -> Tensor:
    """Powers of two that sum to about 1, over the last axis."""
    return shift_probabilities(x)


@torch.library.custom_op(f"{NAMESPACE}::to_grid", mutates_args=())
def to_grid_op(x: Tensor, fraction: int, limit: float) -> Tensor:
    """Round to multiples of 2^-fraction, up to ``limit`` of them."""
    return to_grid(x, fraction, limit)


@shift_norm.register_fake
def _(x: Tensor, layer: str) -> Tensor:
    return torch.empty_like(x)


@shift_norm_units.register_fake
def _(x: Tensor, layer: str) -> Tensor:
    return torch.empty_like(x, dtype=torch.int32)


@shift_softmax.register_fake
def _(x: Tensor, layer: str) -> Tensor:
    return torch.empty_like(x)


@to_grid_op.register_fake
def _(x: Tensor, fraction: int, limit: float) -> Tensor:
    return torch.empty_like(x)


_OURS = torch.ops.snn_xq
NORM, UNITS = _OURS.shift_norm.default, _OURS.shift_norm_units.default
SOFTMAX, GRID = _OURS.shift_softmax.default, _OURS.to_grid.default


def norm_bound(channels: int) -> int:
    r"""Return what the magnitude of :func:`shift_norm_units` cannot exceed.

    :math:`|C| \sqrt{H / \sum C^2} \le \sqrt H`; the factor is rounded by at most an eighth, the result by a half.

    Example:
        >>> norm_bound(64)
        147457
    """
    return int(channels**0.5 * 1.125 * 2**NORM_FRACTION) + 1


def shift_stub(module: nn.Module, name: str) -> Callable[[Tensor], Tensor] | None:
    """Return what takes the place of ``forward`` while recording; None if the module is none of these."""
    if isinstance(module, ShiftNorm):
        weight, bias = module.weight.detach().clone(), module.bias.detach().clone()
        return lambda x: shift_norm(x, name) * weight + bias
    if isinstance(module, ShiftSoftmax):
        return lambda x: cast("Tensor", shift_softmax(x, name))
    if isinstance(module, OnGrid):
        return lambda x: cast("Tensor", to_grid_op(x, module.fraction, module.limit))
    return None
