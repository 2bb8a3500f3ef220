"""Binary weights: the sign, around zero or around the mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snn_extreme_quant.quantizers.core import LEAST_SCALE, Options, WeightQuant

__all__ = ["BinaryWeightQuant"]


class BinaryWeightQuant(WeightQuant):
    r"""Codes :math:`\mathrm{sign}(W - \alpha)`, scale :math:`\beta = \mathrm{mean}|W|`.

    For :math:`\alpha = 0` that is also the scale of the least squared error.

    Sources: Rastegari et al. 2016, section 3.1 (:math:`\alpha = 0`); BitNet (Wang et al. 2023), equations 1-3
    (:math:`\alpha = \mathrm{mean}(W)`, ties to -1; the scale is that of the uncentred weight).

    Uncentred, the sign is the sign *bit*, so +0 gives +1 and -0 gives -1: a small negative weight that a cast to half
    precision flushed to -0 keeps its sign.

    A learned scale starts at :math:`\mathrm{mean}|W|`. The dequantised weight is linear in it, so LSQ's rule gives
    :math:`\partial\hat W/\partial\beta = c`.

    Args:
        per: ``"tensor"``, ``"channel"`` or ``"group"``.
        scaling_min_val: the least scale.
        group_size: inputs in a group.
        center: subtract the mean (of the tensor, channel or group) before taking the sign.
        scale: ``"mean"`` or ``"learned"``.
        output_channel_dim: the output axis of the weight that :meth:`forward` takes.
        tracked_parameter_list: the weight; needed to create a learned scale.

    Example:
        >>> BinaryWeightQuant("tensor", center=True).integer(torch.tensor([[1.0, 2.0, 6.0]]))[0].tolist()
        [[-1.0, -1.0, 1.0]]
    """

    bits = 1
    layout = "binary8"

    def __init__(
        self,
        per: str,
        scaling_min_val: float = LEAST_SCALE,
        group_size: int | None = None,
        center: bool = False,
        scale: str = "mean",
        output_channel_dim: int = 0,
        tracked_parameter_list: Sequence[Tensor] = (),
    ) -> None:
        """Remember the options."""
        super().__init__(Options(per, group_size, scale, scaling_min_val, output_channel_dim, tracked_parameter_list))
        self.center = center

    def statistic(self, weight: Tensor) -> Tensor:
        """Mean of the magnitudes."""
        return self.granularity.means(weight.abs())

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Take the sign."""
        if self.center:
            positive = weight > self.granularity.spread(self.granularity.means(weight).to(weight.dtype), weight)
        else:
            positive = ~torch.signbit(weight)
        return positive.to(weight.dtype) * 2 - 1
