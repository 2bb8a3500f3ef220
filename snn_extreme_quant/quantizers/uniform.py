"""Integer weights of 2 to 16 bit, symmetric around zero."""

from __future__ import annotations

import torch
from torch import Tensor

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.quantizers.core import LEAST_SCALE, Options, WeightQuant
from snn_extreme_quant.quantizers.packing import layout_for

__all__ = ["UniformWeightQuant"]

#: The MSE search tries scales of 1/N, 2/N, ... of the one that reaches the maximum, then improves the best.
_CANDIDATES = 100
_IMPROVEMENTS = 10
_AT_A_TIME = 2**17

#: Up to which number of bits a type represents all codes.
_EXACT_BITS = {torch.bfloat16: 9, torch.float16: 12}


def _rounded(values: Tensor, scale: Tensor, largest: int) -> Tensor:
    # + 0.0 turns the -0.0 that rounding gives into 0.0: the codes are integers.
    return (values / scale).round().clamp(-largest, largest) + 0.0


def _squared_error(values: Tensor, scale: Tensor, largest: int) -> Tensor:
    scale = scale.to(values.dtype).unsqueeze(-1)
    return (_rounded(values, scale, largest) * scale - values).square().sum(-1, dtype=torch.float64)


def _search(values: Tensor, largest: int, least: float) -> Tensor:
    """Do what :func:`_best_scale` does, for so many blocks at a time that they stay in a processor's cache."""
    rows = max(1, _AT_A_TIME // max(1, values[:1].numel()))
    return torch.cat([_best_scale(part, largest, least) for part in torch.split(values, rows)])


def _best_scale(values: Tensor, largest: int, least: float) -> Tensor:
    """Return a scale for each block (last axis) with a small squared error, and none above that of the maximum.

    The error has many local minima. A grid finds a good one; then codes and scale are improved in turn, which never
    makes the error larger: the best scale for given codes is the projection.
    """
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    top = (values.abs().amax(-1).double() / largest).clamp_min(least)
    best, error = top, _squared_error(values, top, largest)
    for i in range(1, _CANDIDATES):
        scale = (top * (i / _CANDIDATES)).clamp_min(least)
        found = _squared_error(values, scale, largest)
        better = found < error
        best, error = torch.where(better, scale, best), torch.where(better, found, error)
    for _ in range(_IMPROVEMENTS):
        codes = _rounded(values, best.to(values.dtype).unsqueeze(-1), largest)
        norm = codes.square().sum(-1, dtype=torch.float64)
        scale = torch.where(norm > 0, (codes * values).sum(-1, dtype=torch.float64) / norm, best).clamp_min(least)
        found = _squared_error(values, scale, largest)
        better = found < error
        best, error = torch.where(better, scale, best), torch.where(better, found, error)
    return best


class UniformWeightQuant(WeightQuant):
    r"""Codes :math:`\mathrm{clamp}(\mathrm{round}(W/s), -q, q)` with :math:`q = 2^{b-1} - 1`.

    The scale is :math:`s = \max|W|/q` (Jacob et al. 2018, section 3, symmetric and with narrow range) or, with
    ``scale="mse"``, the best that a search finds: a hundred fractions of that, then codes and scale improved in turn.
    The search costs some hundred passes over the weight at each change of it, and is meant for weights that are
    trained already.

    Args:
        per: ``"tensor"``, ``"channel"`` or ``"group"``.
        bit_width: b, 2 to 16.
        scaling_min_val: the least scale.
        group_size: inputs in a group.
        scale: ``"max"`` or ``"mse"``.
        output_channel_dim: the output axis of the weight that :meth:`forward` takes.

    Example:
        >>> codes, scale = UniformWeightQuant("tensor", 4).integer(torch.tensor([[1.4, -0.09, -0.8, 0.42]]))
        >>> codes.tolist(), round(scale.item(), 3)
        ([[7.0, 0.0, -4.0, 2.0]], 0.2)
    """

    def __init__(
        self,
        per: str,
        bit_width: int = 8,
        scaling_min_val: float = LEAST_SCALE,
        group_size: int | None = None,
        scale: str = "max",
        output_channel_dim: int = 0,
    ) -> None:
        """Remember the options."""
        super().__init__(Options(per, group_size, scale, scaling_min_val, output_channel_dim))
        if type(bit_width) is not int or not 2 <= bit_width <= 16:
            raise ConfigError(f"bit_width={bit_width!r}: use 2 to 16.")
        self.bits = bit_width
        self.largest = 2 ** (bit_width - 1) - 1
        self.layout = layout_for(bit_width)

    def statistic(self, weight: Tensor) -> Tensor:
        """Return the scale of ``self.scale``'s rule."""
        values = self.granularity.blocks(weight)
        if self.scale == "mse":
            return _search(values, self.largest, self.scaling_min_val)
        return values.abs().amax(-1).double() / self.largest

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Round to the nearest of -q..q scales."""
        if self.bits > _EXACT_BITS.get(weight.dtype, 16):
            raise ConfigError(
                f"{weight.dtype} does not represent all codes of {self.bits} bit; keep the weight in float32, or use"
                f" at most {_EXACT_BITS[weight.dtype]} bits."
            )
        return _rounded(weight, scale, self.largest)
