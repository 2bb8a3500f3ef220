"""The operators of the synchronous schedule: body in both evaluators and torch, bit for bit; and the exact fold."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_extreme_quant.deploy import synchronous_operators as ours
from snn_extreme_quant.deploy.count_fold import Fed, fold
from snn_extreme_quant.deploy.functions import layer_operator
from snn_extreme_quant.quantizers.packing import LAYOUTS, pack

from .bodies import Array, assert_body

UINT8, INT32 = onnx.TensorProto.UINT8, onnx.TensorProto.INT32
STEPS = [1, 2, 16, 64]


def currents(shape: tuple[int, ...]) -> Array:
    """Numbers below, between and above all counts, and on the steps between them."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(0, 1.2, shape).astype(np.float32)
    return np.where(rng.random(shape) < 0.3, np.round(drawn * 32) / 32, drawn).astype(np.float32)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 1, 4, 6)])
def test_neurons(steps: int, signed: bool, shape: tuple[int, ...]) -> None:
    x, threshold = currents(shape), np.array(0.7, np.float32)
    given = (torch.from_numpy(x), torch.tensor(0.7), steps, signed, "n")
    lowest = -float(steps) if signed else 0.0
    constants = {"threshold": threshold}
    rates = {"steps": float(steps), "lowest": lowest, "inverse_steps": 1 / steps}
    assert_body("SynchronousRates", {"x": x}, constants, [ours.synchronous_rates(*given)], **rates)
    spikes = {"steps": float(steps), "lowest": lowest}
    assert_body("SynchronousSpikes", {"x": x}, constants, [ours.synchronous_spikes(*given)], **spikes)
    counts = {"steps": float(steps), **({"lowest": lowest} if signed else {})}
    name = "SynchronousCounts_signed" if signed else "SynchronousCounts"
    assert_body(name, {"x": x}, constants, [ours.synchronous_counts(*given)], UINT8, **counts)


@pytest.mark.parametrize("channels", [1, 6])
def test_folded_neurons(channels: int) -> None:
    rng = np.random.default_rng(1)
    sums = rng.integers(-400, 400, (5, 6), dtype=np.int32)
    gain, offset = (rng.normal(0, scale, channels).astype(np.float32) for scale in (0.1, 5))
    expected = ours.folded_counts(*map(torch.from_numpy, (sums, gain, offset)), 32, "n")
    assert_body("SynchronousFolded", {"x": sums}, {"gain": gain, "offset": offset}, [expected], UINT8, top=32.0)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "int16"])
@pytest.mark.parametrize("zero_point", [0, 16])
def test_layers(layout: str, zero_point: int) -> None:
    rng = np.random.default_rng(2)
    largest = LAYOUTS[layout].largest
    codes = rng.integers(-largest, largest + 1, (20, 13)).astype(np.int32)
    codes = np.where(codes < 0, -1, 1) if layout == "binary8" else codes
    packed, scale = pack(codes, layout), rng.random(13, np.float32)
    counts = rng.integers(0, 33, (2, 5, 20), dtype=np.uint8)
    given = (torch.from_numpy(counts), torch.from_numpy(packed))
    sums = ours.linear_sums(*given, zero_point, 13, layout, "l")
    assert np.array_equal(sums.numpy(), (counts.astype(np.int64) - zero_point) @ codes)
    name = layer_operator("LinearSums", layout)
    options: dict[str, Any] = {"zero_point": zero_point, "columns": [13]}
    assert_body(name, {"x": counts}, {"packed": packed}, [sums], INT32, **options)
    scaled = ours.linear_counts(*given, torch.from_numpy(scale), zero_point, layout, "l")
    name = layer_operator("LinearCounts", layout)
    assert_body(name, {"x": counts}, {"packed": packed, "scale": scale}, [scaled], zero_point=zero_point)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from([1, 2, 4, 16, 64, 128]),
    st.booleans(),
    st.integers(1, 40),
    st.sampled_from([1e-3, 0.05, 1.0, 37.0]),
    st.floats(2**-10, 10, width=32),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_a_fold_gives_the_counts_of_every_sum(
    steps: int, signed: bool, fan_in: int, size: float, threshold: float, biased: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    channels = 9
    scale = (rng.normal(0, size, channels) / steps).astype(np.float32)
    scale[0] = 0
    bias = rng.normal(0, 2 * threshold, channels).astype(np.float32) if biased else None
    reach = rng.integers(0, fan_in + 1, channels) * steps
    low, high = -reach, reach + rng.integers(0, steps + 1, channels)
    fed = Fed(scale, bias, np.float32(threshold), steps, signed, low, high)
    constants = fold(fed)
    if constants is None:  # nothing folds the wrong way; that most do fold is tested below
        return
    sums = np.clip(np.arange(low.min(), high.max() + 1)[:, None], low, high)
    top = steps * 2 if signed else steps
    gain, offset = constants
    found = np.trunc(np.clip(sums.astype(np.float32) * gain + offset, 0, top))
    assert np.array_equal(found, fed.counts(sums))


def test_layers_as_they_are_trained_do_fold() -> None:
    rng = np.random.default_rng(3)
    for steps in (1, 4, 16, 64):
        scale = (rng.uniform(0.01, 0.1, 512) / steps).astype(np.float32)
        bias = rng.normal(0, 0.1, 512).astype(np.float32)
        reach = np.full(512, 600 * steps)
        assert fold(Fed(scale, bias, np.float32(1), steps, False, -reach, reach)) is not None


def test_what_no_affine_function_gives_is_not_folded() -> None:
    """A scale beyond what float32 holds has no gain."""
    huge = np.array([3e38], np.float32)
    fed = Fed(huge, None, np.float32(1e-3), 16, False, np.array([-16]), np.array([16]))
    assert fold(fed) is None
