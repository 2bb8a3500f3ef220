"""Cases of norm and softmax by shifts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from snn_extreme_quant.deploy.shifts import operators as ours

from .cases import Array, Case

__all__ = ["shift_cases"]

SHAPES = [(6,), (3, 1), (2, 5, 96), (1, 4), (4, 384)]


def shift_cases(operator: str) -> Iterator[Case]:
    """Cases of one operator: values within the usual range, beyond all limits, without variance, and of pads."""
    run: Any = {"ShiftNorm": ours.shift_norm_units, "ShiftSoftmax": ours.shift_softmax}[operator]
    drawn = _currents if operator == "ShiftNorm" else _scores
    for seed, shape in enumerate(SHAPES):
        for what, x in drawn(np.random.default_rng(seed), shape):
            values = x.astype(np.float32)
            expected = run(torch.from_numpy(values), "n")
            yield Case(operator, f"{shape}, {what}", {"x": values}, {}, [expected])


def _currents(rng: np.random.Generator, shape: tuple[int, ...]) -> Iterator[tuple[str, Array]]:
    drawn = rng.normal(0, 1, shape)
    yield "normal", drawn
    yield "small", drawn * 1e-3 + 2
    yield "beyond the grid", drawn * 700
    yield "equal", np.full(shape, 0.37)
    yield "on halves of units", np.round(drawn * 2**9) / 2**9 + 2.0**-11


def _scores(rng: np.random.Generator, shape: tuple[int, ...]) -> Iterator[tuple[str, Array]]:
    drawn = rng.normal(0, 6, shape)
    yield "normal", drawn
    yield "halves", np.round(drawn * 2) / 2
    yield "equal", np.zeros(shape)
    yield "far apart", drawn * 10
    yield "pads", np.where(rng.random(shape) < 0.4, drawn - 10000, drawn)
    yield "pads alone", drawn - 10000
