"""What ``quantize_`` did to a model, and what it left alone and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from snn_extreme_quant.config import WeightConfig

__all__ = ["LeftLayer", "QuantizeReport", "ReplacedLayer"]


@dataclass(frozen=True)
class ReplacedLayer:
    """A layer that was swapped: its names (several if shared), what it was, its precision and its weight's shape."""

    names: tuple[str, ...]
    was: str
    config: WeightConfig
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LeftLayer:
    """A module with weights that stays in float, and why."""

    name: str
    type: str
    reason: str


@dataclass(frozen=True)
class QuantizeReport:
    """What :func:`quantize_` did. Printing it gives a table.

    Args:
        replaced: the layers that were swapped.
        left: every other module with weights, with the reason why it stays in float.
        notes: what else changed, or needs the caller's attention.
    """

    replaced: tuple[ReplacedLayer, ...]
    left: tuple[LeftLayer, ...]
    notes: tuple[str, ...] = ()

    @property
    def quantized_weights(self) -> int:
        """How many weights are now of low precision."""
        return sum(torch.Size(layer.shape).numel() for layer in self.replaced)

    def __str__(self) -> str:
        """Render as a plain table."""
        rows = [(" = ".join(r.names), r.was, r.config.kind, "x".join(map(str, r.shape))) for r in self.replaced]
        rows += [(entry.name, entry.type, "float", entry.reason) for entry in self.left]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        lines = ["  ".join((*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3])) for row in rows]
        layers = "1 layer" if len(self.replaced) == 1 else f"{len(self.replaced)} layers"
        return "\n".join((f"{layers} quantised, {len(self.left)} left in float", *lines, *self.notes))
