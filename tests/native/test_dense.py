"""Dense inputs: products by population counts, where the processor has them, give the same sums as any other way."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snn_extreme_quant.deploy.lowering.layer_functions import KINDS
from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.quantizers.packing import pack
from tests.deploy.bodies import Array, model_of

from .running import native_session
from .test_integers import codes_of, kernel_only

LAYOUTS = ("binary8", "ternary4", "ternary5")
#: K, N around the ends of words, registers and blocks of columns.
SHAPES = [(1, 1), (31, 15), (32, 16), (33, 17), (64, 63), (65, 64), (96, 65), (130, 257), (768, 40)]
ROWS = (8, 9, 11, 67)


def dense(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return (rng.random(shape) < 0.9).astype(np.int8)


def signed(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return (dense(rng, shape) * rng.choice([-1, 1], shape)).astype(np.int8)


def late_sign(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A sign in the last row only."""
    x = dense(rng, shape)
    x[-1, 0] = -1
    return x


def late_count(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A number that is no spike in the last row only: the rows are summed another way."""
    x = dense(rng, shape)
    x[-1, -1] = 3
    return x


def half_empty(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """The rows that density is measured in are dense, others have no spike."""
    x = dense(rng, shape)
    x[1::2] = 0
    x[shape[0] // 2] = 1
    return x


INPUTS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "dense": dense, "signed": signed, "a late sign": late_sign, "a late count": late_count, "half empty": half_empty,
}  # fmt: skip


def linear(layout: str, x: Array, codes: Array, scale: Array, grid: float) -> Array:
    constants = {"packed": pack(codes.astype(np.int32), layout), "scale": scale}
    inputs = {"x": (x * grid).astype(np.float32)}
    (y,) = kernel_only(KINDS[layout] + "LinearIntegerSigned", inputs, constants, grid=grid, inverse_grid=1 / grid)
    return y


def sums(layout: str, x: Array, codes: Array) -> Array:
    operator = KINDS[layout] + "MatMulInteger" + ("Signed" if x.dtype == np.int8 else "")
    packed = {"packed": pack(codes.astype(np.int32), layout)}
    (y,) = kernel_only(operator, {"x": x}, packed, columns=[codes.shape[1]])
    return y


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("inputs", INPUTS)
def test_sums_of_dense_inputs(library: Any, layout: str, inputs: str) -> None:
    for size, (k, n) in enumerate(SHAPES):
        rng = np.random.default_rng(size)
        x, codes = INPUTS[inputs](rng, (ROWS[size % len(ROWS)], k)), codes_of(layout, k, n, size)
        scale, grid = rng.random(n).astype(np.float32), (1.0, 0.125)[size % 2]
        expected = x.astype(np.int64) @ codes
        assert np.array_equal(sums(layout, x, codes), expected), (k, n)
        if (x >= 0).all():
            assert np.array_equal(sums(layout, x.astype(np.uint8), codes), expected), (k, n)
        scaled = (expected.astype(np.float32) * np.float32(grid)) * scale
        assert np.array_equal(linear(layout, x, codes, scale, grid), scaled), (k, n)


@pytest.mark.parametrize("inputs", INPUTS)
def test_each_instruction_set(instruction_set: str, inputs: str) -> None:
    for layout in LAYOUTS:
        codes = codes_of(layout, 200, 100)
        x = INPUTS[inputs](np.random.default_rng(2), (12, 200))
        assert np.array_equal(sums(layout, x, codes), x.astype(np.int64) @ codes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_counts_at_the_ends_of_the_planes(instruction_set: str, layout: str) -> None:
    """Spikes on weights of one sign set every plane of the row counts, up to the highest, and go beyond it.

    Twelve planes count to 4095. Sums of weights of either sign stay far below, so they leave the highest plane empty.
    """
    k = 4100
    # Narrow rows of weights are counted two at a time, each in half a register; wide ones in whole registers.
    for sign, columns in ((1, 21), (-1, 21), (1, 530), (-1, 530)):
        codes = np.full((k, columns), sign)
        if layout != "binary8":
            codes[:, 1::3], codes[:, 2::3] = -sign, 0
        one = np.ones(columns, np.float32)
        for counts in ((2047, 2048), (4095, 4096), (4097,)):  # few inputs, so that the rows of the weights are summed
            x = np.array([np.arange(k) < count for count in counts], np.uint8)
            expected = x.astype(np.int64) @ codes
            assert np.array_equal(sums(layout, x, codes), expected), (sign, columns, counts)
            assert np.array_equal(linear(layout, x, codes, one, 1.0), expected), (sign, columns, counts)


def test_what_is_not_a_number_is_no_spike(library: Any) -> None:
    codes = codes_of("binary8", 40, 20)
    x = np.ones((8, 40), np.float32)
    x[3, 5] = np.nan
    model = model_of(
        "BinaryLinear", {"x": x}, {"packed": pack(codes.astype(np.int32), "binary8"), "scale": np.ones(20, np.float32)},
        [2],
    )  # fmt: skip
    (y,) = native_session(model, "BinaryLinear").run(None, {"x": x})
    assert np.isnan(y[3]).all()
    assert np.array_equal(np.delete(y, 3, 0), np.delete(x, 3, 0) @ codes)


def has_population_counts() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_vpopcntdq" in flags and native_library().instruction_set == "avx512"


@pytest.mark.parametrize(("layout", "per_code"), [("binary8", 1), ("ternary4", 2)])
def test_the_copy_is_made_when_dense_inputs_are_met(library: Any, layout: str, per_code: int) -> None:
    """Density chooses at run time: nothing is copied for sparse inputs, and the copy goes with its session."""
    if not has_population_counts():
        pytest.skip("this processor counts no bits of a register")
    gc.collect()
    before = library.copied_bytes
    codes, operator = codes_of(layout, 256, 128), KINDS[layout] + "Linear"
    constants = {"packed": pack(codes.astype(np.int32), layout), "scale": np.ones(128, np.float32)}
    rng = np.random.default_rng(0)
    x = (rng.random((32, 256)) < 0.1).astype(np.float32)
    net = native_session(model_of(operator, {"x": x}, constants, [2]), operator, threads=2)
    assert np.array_equal(net.run(None, {"x": x})[0], x @ codes)
    assert library.copied_bytes == before
    for _ in range(3):
        x = (rng.random((32, 256)) < 0.9).astype(np.float32)
        assert np.array_equal(net.run(None, {"x": x})[0], x @ codes)
        assert library.copied_bytes == before + per_code * 256 * 128 // 8
    del net
    gc.collect()
    assert library.copied_bytes == before


def test_runs_at_the_same_time_share_one_copy(library: Any) -> None:
    codes = codes_of("ternary4", 300, 200)
    constants = {"packed": pack(codes.astype(np.int32), "ternary4"), "scale": np.ones(200, np.float32)}
    rng = np.random.default_rng(5)
    inputs = [(rng.random((40, 300)) < 0.7).astype(np.float32) for _ in range(8)]
    for _ in range(5):
        gc.collect()
        before = library.copied_bytes
        model = model_of("TernaryLinear", {"x": inputs[0]}, constants, [2])
        net = native_session(model, "TernaryLinear", threads=2)
        with ThreadPoolExecutor(4) as pool:
            outputs = list(pool.map(lambda x, net=net: net.run(None, {"x": x})[0], inputs))
        for x, y in zip(inputs, outputs, strict=True):
            assert np.array_equal(y, x @ codes)
        copied = library.copied_bytes - before
        # 300 inputs are 10 words of 32, 200 columns 7 blocks of 32, with two planes.
        assert copied == (10 * 7 * 32 * 4 * 2 if has_population_counts() else 0)
        del net
