"""The exact fold of scale, bias and threshold into one product and one sum; tests/operators has the operators."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_extreme_quant.deploy.synchronous.count_fold import Fed, fold


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
