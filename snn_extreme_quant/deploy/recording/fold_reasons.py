"""Why a recorded loop over time steps cannot be folded."""

from __future__ import annotations

import torch
from torch import fx

__all__ = ["CONSTANTS", "FoldError", "difference"]

aten = torch.ops.aten
#: What a model may begin with that is no value of its own.
CONSTANTS = (
    aten.zeros.default, aten.ones.default, aten.full.default, aten.zeros_like.default, aten.ones_like.default,
    aten.full_like.default, aten.new_zeros.default, aten.new_ones.default, aten.new_full.default,
)  # fmt: skip


class FoldError(Exception):
    """The graph does not have the form of a loop over time steps; the message says where."""


def difference(first: fx.Node) -> str:
    """Say where steps differ, by what the first step has there: its name in the graph says nothing to a reader."""
    if first.op == "get_attr" or first.target in CONSTANTS:
        return "the first step reads a constant where later ones read what an earlier one left"
    return f"steps differ at {getattr(first.target, '__name__', str(first.target)).split('.')[0]!r}"
