"""Ternary weights: the nearest of -1, 0, +1 scales, for four ways to find the scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from snn_extreme_quant.quantizers.core import LEAST_SCALE, Options, WeightQuant

__all__ = ["TernaryWeightQuant"]

#: Threshold of ternary weight networks, in units of the mean magnitude.
_TWN_THRESHOLD = 0.7


def _mean_of_survivors(magnitudes: Tensor, means: Tensor) -> Tensor:
    """Mean of the magnitudes above the threshold, in each block (last axis)."""
    survive = magnitudes > _threshold(means, magnitudes)
    total = torch.where(survive, magnitudes, 0.0).sum(-1, dtype=torch.float64)
    return total / survive.sum(-1).clamp_min(1)


def _threshold(means: Tensor, values: Tensor) -> Tensor:
    return (_TWN_THRESHOLD * means).to(values.dtype).unsqueeze(-1)


def _least_squares(magnitudes: Tensor) -> Tensor:
    r"""Scale of the least squared error in each block (last axis).

    If the k largest magnitudes survive, the best scale is their mean :math:`S_k/k` and leaves the error
    :math:`\lVert W\rVert^2 - S_k^2/k`. So one sort gives all candidates, and the optimum is exact.
    """
    sums = magnitudes.sort(-1, descending=True).values.cumsum(-1, dtype=torch.float64)
    k = torch.arange(1, sums.shape[-1] + 1, dtype=torch.float64, device=sums.device)
    best = (sums.square() / k).argmax(-1, keepdim=True)
    return (sums.gather(-1, best) / (best + 1)).squeeze(-1)


class TernaryWeightQuant(WeightQuant):
    r"""Codes :math:`\mathrm{clamp}(\mathrm{round}(W/\gamma), -1, 1)`, with :math:`\gamma` by ``scale``.

    - ``"absmean"``: :math:`\mathrm{mean}|W|` (BitNet b1.58, Ma et al. 2024, equations 1-3). Rounding is to even, so a
      weight of exactly half the scale becomes 0.
    - ``"twn"``: the mean of the magnitudes above :math:`\Delta = 0.7\,\mathrm{mean}|W|`; these weights survive, which
      is not quite the rounding above (ternary weight networks, Li et al. 2016).
    - ``"mse"``: the scale of the least squared error (the problem that TWN approximates, solved exactly).
    - ``"learned"``: a parameter; it starts at ``"mse"``'s value, the best one without training, and gets the
      gradient of LSQ (Esser et al. 2020, equation 3).

    Args:
        per: ``"tensor"``, ``"channel"`` or ``"group"``.
        scaling_min_val: the least scale.
        group_size: inputs in a group.
        scale: ``"absmean"``, ``"twn"``, ``"mse"`` or ``"learned"``.
        output_channel_dim: the output axis of the weight that :meth:`forward` takes.
        tracked_parameter_list: the weight; needed to create a learned scale.

    Example:
        >>> codes, scale = TernaryWeightQuant("tensor").integer(torch.tensor([[1.0, -0.1, -1.0, 0.3]]))
        >>> codes.tolist(), round(scale.item(), 3)
        ([[1.0, 0.0, -1.0, 0.0]], 0.6)
    """

    bits = 2
    layout = "ternary4"

    def __init__(
        self,
        per: str,
        scaling_min_val: float = LEAST_SCALE,
        group_size: int | None = None,
        scale: str = "absmean",
        output_channel_dim: int = 0,
        tracked_parameter_list: Sequence[Tensor] = (),
    ) -> None:
        """Remember the options."""
        super().__init__(Options(per, group_size, scale, scaling_min_val, output_channel_dim, tracked_parameter_list))

    def statistic(self, weight: Tensor) -> Tensor:
        """Return the scale of ``self.scale``'s rule."""
        return _STATISTICS[self.scale](self, weight)

    def _absmean(self, weight: Tensor) -> Tensor:
        return self.granularity.means(weight.abs())

    def _twn(self, weight: Tensor) -> Tensor:
        return _mean_of_survivors(self.granularity.blocks(weight.abs()), self._absmean(weight))

    def _mse(self, weight: Tensor) -> Tensor:
        return _least_squares(self.granularity.blocks(weight.abs()))

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Round to the nearest of -1, 0, +1 scales; TWN compares with its own threshold, unless the scale is fixed."""
        if self.scale == "twn" and self.fixed_scale is None:
            threshold = (_TWN_THRESHOLD * self._absmean(weight)).to(weight.dtype)
            return torch.where(weight.abs() > self.granularity.spread(threshold, weight), weight.sign(), 0.0)
        # + 0.0 turns the -0.0 that rounding gives into 0.0: the codes are integers.
        return (weight / scale).round().clamp(-1, 1) + 0.0

    def inside(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Where the weight is less than a scale from 0."""
        return (weight / scale).abs() < 1


_STATISTICS: dict[str, Callable[[TernaryWeightQuant, Tensor], Tensor]] = {
    "absmean": TernaryWeightQuant._absmean,
    "twn": TernaryWeightQuant._twn,
    "mse": TernaryWeightQuant._mse,
    "learned": TernaryWeightQuant._mse,
}
