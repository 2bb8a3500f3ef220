"""Cases of the synchronous schedule: neurons at every step of their stairs, sums of counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from snn_extreme_quant.deploy.lowering.layer_functions import layer_operator
from snn_extreme_quant.deploy.synchronous import operators as ours
from snn_extreme_quant.deploy.synchronous.functions import is_synchronous, synchronous_operators
from snn_extreme_quant.exported.operators import layout_of
from snn_extreme_quant.quantizers.packing import LAYOUTS

from .cases import Array, Case
from .layers import stored, tensors

__all__ = ["all_synchronous", "currents", "synchronous_cases"]

STEPS = [1, 2, 16, 64]
SHAPES = [(7,), (3, 5), (2, 1, 4, 6), (2, 0, 3)]


def all_synchronous() -> list[str]:
    """The names of all operators of the synchronous schedule."""
    layouts = [name for name, layout in LAYOUTS.items() if not layout.wide]
    sums = [layer_operator(kind, layout) for kind in ("LinearSums", "LinearCounts") for layout in layouts]
    return [*synchronous_operators(), *sums]


def currents(shape: tuple[int, ...]) -> Array:
    """Numbers below, between and above all counts, and on the steps between them."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(0, 1.2, shape).astype(np.float32)
    return np.where(rng.random(shape) < 0.3, np.round(drawn * 32) / 32, drawn).astype(np.float32)


def synchronous_cases(operator: str) -> Iterator[Case]:
    """Cases of one operator."""
    if operator == "SynchronousFolded":
        return _folded()
    if operator == "SynchronousRounded":
        return _rounded()
    return _neurons(operator) if is_synchronous(operator) else _sums(operator)


def _neurons(operator: str) -> Iterator[Case]:
    run: Any = {
        "SynchronousRates": ours.synchronous_rates,
        "SynchronousSpikes": ours.synchronous_spikes,
        "SynchronousCounts": ours.synchronous_counts,
        "SynchronousCounts_signed": ours.synchronous_counts,
    }[operator]
    signs = {"SynchronousCounts": [False], "SynchronousCounts_signed": [True]}.get(operator, [False, True])
    by_channel = np.random.default_rng(3).uniform(0.2, 2, 6).astype(np.float32)
    shapes = [*zip(STEPS, SHAPES, [np.array(0.7, np.float32)] * 4, strict=True), (8, (4, 6), by_channel)]
    for steps, shape, threshold in shapes:
        for signed in signs:
            x = currents(shape)
            attributes: dict[str, Any] = {"steps": float(steps)}
            if operator != "SynchronousCounts":
                attributes["lowest"] = -float(steps) if signed else 0.0
            if operator == "SynchronousRates":
                attributes["inverse_steps"] = 1 / steps
            expected = run(torch.from_numpy(x), torch.from_numpy(threshold), steps, signed, "n")
            what = f"{x.shape}, T = {steps}{', signed' if signed else ''}, {threshold.size} thresholds"
            yield Case(operator, what, {"x": x}, {"threshold": threshold}, [expected], attributes)


def _folded() -> Iterator[Case]:
    for channels, top in ((1, 32), (6, 255)):
        rng = np.random.default_rng(1)
        sums = rng.integers(-400, 400, (5, 6), dtype=np.int32)
        gain, offset = (rng.normal(0, scale, channels).astype(np.float32) for scale in (0.1, 5))
        expected = ours.folded_counts(*tensors(sums, gain, offset), top, "n")
        constants = {"gain": gain, "offset": offset}
        attributes = {"top": float(top)}
        yield Case("SynchronousFolded", f"{channels} gains", {"x": sums}, constants, [expected], attributes)


def _rounded() -> Iterator[Case]:
    for shape, zero_point, top in (((7,), 0, 16), ((3, 5), 64, 128), ((2, 40), 127, 254), ((2, 0), 0, 8)):
        x = currents(shape) * 40  # among them halves, and numbers beyond a byte
        expected = ours.rounded_counts(torch.from_numpy(x), zero_point, top, "n")
        attributes = {"zero_point": zero_point, "top": top}
        yield Case("SynchronousRounded", f"{shape}, {zero_point} of {top}", {"x": x}, {}, [expected], attributes)


def _sums(operator: str) -> Iterator[Case]:
    layout = layout_of(operator)
    for zero_point, shape in ((0, (2, 5, 20)), (16, (1, 20)), (16, (0, 20))):
        codes, packed, scale = stored(layout, 20, 13)
        counts = np.random.default_rng(2).integers(0, 33, shape, dtype=np.uint8)
        given = tensors(counts, packed)
        by_hand = (counts.astype(np.int64) - zero_point) @ codes
        what = f"{shape}, zero point {zero_point}"
        if operator.endswith("LinearSums"):
            expected = ours.linear_sums(*given, zero_point, 13, layout, "l")
            assert np.array_equal(expected.numpy(), by_hand)
            attributes: dict[str, Any] = {"zero_point": zero_point, "columns": [13]}
            yield Case(operator, what, {"x": counts}, {"packed": packed}, [expected], attributes)
        else:
            expected = ours.linear_counts(*given, torch.from_numpy(scale), zero_point, layout, "l")
            assert np.array_equal(expected.numpy(), by_hand.astype(np.float32) * scale)
            constants = {"packed": packed, "scale": scale}
            yield Case(operator, what, {"x": counts}, constants, [expected], {"zero_point": zero_point})
