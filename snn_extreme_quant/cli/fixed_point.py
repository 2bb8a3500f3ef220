"""How commands show the neurons of integer files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .output import print_table

__all__ = ["print_fixed_point"]

_HEAD = ("layer", "F", "leak bits", "at most, of 2^30", "bits free", "steps")


def print_fixed_point(entries: Iterable[Mapping[str, Any]]) -> None:
    """Show how neuron layers are computed in fixed point, as reports and files have it; nothing if there are none.

    Args:
        entries: for each layer `name` and the facts of :class:`~snn_extreme_quant.deploy.FixedPointReport`.
    """
    rows = [
        (
            entry["name"],
            entry["fraction"],
            entry["decay_bits"],
            f"{max(entry['current'], entry['potential']):.4g}",
            f"{entry['headroom']:g}",
            "any number" if entry["max_steps"] is None else entry["max_steps"],
        )
        for entry in entries
    ]
    if rows:
        print_table(_HEAD, rows, "Fixed point: potentials are multiples of 2^-F of the layer's scale")
