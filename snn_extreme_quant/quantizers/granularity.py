"""Which weights share a scale: all of them, an output channel, or a group of an output channel's inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Granularity"]


@dataclass(frozen=True)
class Granularity:
    r"""Blocks of a weight of shape ``(N, K_1, ...)``: N outputs, :math:`K_1` inputs, kernel.

    There are R x G blocks: R = 1 for ``"tensor"``, else N; G = 1, or :math:`\lceil K_1 / \mathrm{group\_size}\rceil`
    for ``"group"``, where the last group may be smaller.

    Args:
        per: ``"tensor"``, ``"channel"`` or ``"group"``.
        group_size: inputs in a group.

    Example:
        >>> weight = torch.arange(10.0).reshape(2, 5)
        >>> Granularity("group", 3).blocks(weight).tolist()
        [[[0.0, 1.0, 2.0], [3.0, 4.0, 0.0]], [[5.0, 6.0, 7.0], [8.0, 9.0, 0.0]]]
        >>> Granularity("group", 3).counts(weight).tolist()
        [[3.0, 2.0]]
    """

    per: str
    group_size: int | None = None

    def groups(self, inputs: int) -> int:
        """Return G for ``inputs`` inputs."""
        return 1 if self.group_size is None else max(1, -(-inputs // self.group_size))

    def shape(self, weight: Tensor) -> tuple[int, int]:
        """Return ``(R, G)``."""
        if self.per == "tensor":
            return 1, 1
        return weight.shape[0], self.groups(weight.shape[1]) if weight.dim() > 1 else 1

    def blocks(self, weight: Tensor) -> Tensor:
        """Return the blocks as ``(R, G, L)``; smaller ones are filled up with zeros."""
        if self.group_size is None or weight.dim() < 2:
            return weight.reshape(self.shape(weight)[0], 1, -1)
        values = weight.reshape(*weight.shape[:2], -1)
        groups = self.groups(weight.shape[1])
        values = F.pad(values, (0, 0, 0, groups * self.group_size - weight.shape[1]))
        return values.reshape(weight.shape[0], groups, -1)

    def counts(self, weight: Tensor) -> Tensor:
        """Return how many weights each block holds, in float64 and a shape that broadcasts to ``(R, G)``."""
        rows, groups = self.shape(weight)
        total = weight.numel() / max(rows, 1)
        if groups == 1:
            return torch.full((1, 1), total, dtype=torch.float64, device=weight.device)
        kernel = weight[0, 0].numel()
        assert self.group_size is not None  # noqa: S101 - more than one group
        counts = torch.full((1, groups), float(self.group_size * kernel), dtype=torch.float64, device=weight.device)
        counts[:, -1] = total - (groups - 1) * self.group_size * kernel
        return counts

    def spread(self, values: Tensor, weight: Tensor) -> Tensor:
        """Return ``values``, ``(R, G)`` or ``(N, G)``, in a shape that broadcasts to ``weight``."""
        if values.shape[1] == 1:
            return values.view(-1, *(1,) * (weight.dim() - 1))
        assert self.group_size is not None  # noqa: S101 - more than one group
        rows, groups = values.shape
        each = values.unsqueeze(2).expand(rows, groups, self.group_size).reshape(rows, -1)
        return each[:, : weight.shape[1]].reshape(rows, weight.shape[1], *(1,) * (weight.dim() - 2))

    def means(self, values: Tensor) -> Tensor:
        """Return the mean of each block, ``(R, G)``, in float64."""
        return self.blocks(values).sum(-1, dtype=torch.float64) / self.counts(values)
