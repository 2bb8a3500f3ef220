"""Layers: native kernel, body in onnxruntime and torch's operator give the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from snn_extreme_quant.deploy.lowering import operators
from snn_extreme_quant.deploy.lowering.layer_functions import layer_operator
from snn_extreme_quant.quantizers.packing import LAYOUTS
from tests.deploy.bodies import Array, bits, model_of
from tests.layouts import each_layout
from tests.operators.layers import GEOMETRIES, stored, tensors

from .running import KERNEL_LAYOUTS, assert_same, both, native_session

#: Inputs of a layer whose sums are exact, by name.
INPUTS = {
    "spikes": lambda rng, shape: rng.random(shape) < 0.15,
    "dense spikes": lambda rng, shape: rng.random(shape) < 0.9,
    "silence": lambda rng, shape: np.zeros(shape),
    "all at once": lambda rng, shape: np.ones(shape),
    "signed spikes": lambda rng, shape: rng.integers(-1, 2, shape),
    "counts": lambda rng, shape: rng.integers(0, 17, shape),
    "on a grid": lambda rng, shape: rng.integers(-20, 21, shape) * 0.125,
}
#: K, N: single, odd, more columns than a register holds, more rows than a byte counts.
SHAPES = [(1, 1), (7, 1), (1, 9), (15, 10), (16, 64), (17, 257), (130, 33), (300, 1030), (4100, 5)]


def exact(layout: str, x: Array) -> bool:
    """Whether every sum fits the 24 bits of a float."""
    return bool(np.abs(x * 8).sum(-1).max(initial=0) * LAYOUTS[layout].largest < 2**24)


@pytest.mark.parametrize("layout", each_layout(KERNEL_LAYOUTS))
@pytest.mark.parametrize("inputs", INPUTS)
def test_linear(library: Any, layout: str, inputs: str) -> None:
    tested = 0
    for size, (k, n) in enumerate(SHAPES):
        _, packed, scale = stored(layout, k, n)
        rng = np.random.default_rng(size)
        x = INPUTS[inputs](rng, (3, 1 + size % 3, k)).astype(np.float32)
        if not exact(layout, x):
            continue
        found = assert_same(layer_operator("Linear", layout), {"x": x}, {"packed": packed, "scale": scale}, [3])
        expected = operators.packed_linear(*tensors(x, packed, scale), n, layout, "")
        assert np.array_equal(bits(found[0]), bits(expected)), (k, n)
        tested += 1
    assert tested >= 2


@pytest.mark.parametrize("layout", each_layout(KERNEL_LAYOUTS))
def test_linear_with_each_instruction_set(instruction_set: str, layout: str) -> None:
    for k, n in [(1, 1), (17, 257), (130, 33), (4100, 5)]:
        _, packed, scale = stored(layout, k, n)
        rng = np.random.default_rng(k)
        for inputs in ("spikes", "signed spikes", "on a grid"):
            x = INPUTS[inputs](rng, (5, k)).astype(np.float32)
            if exact(layout, x):
                assert_same(layer_operator("Linear", layout), {"x": x}, {"packed": packed, "scale": scale}, [2])


@pytest.mark.parametrize("shape", [(0, 20), (3, 0, 20), (20,), (1, 20), (200, 20)])
def test_any_number_of_rows(library: Any, shape: tuple[int, ...]) -> None:
    _, packed, scale = stored("ternary4", 20, 6)
    x = INPUTS["spikes"](np.random.default_rng(1), shape).astype(np.float32)
    found = assert_same("TernaryLinear", {"x": x}, {"packed": packed, "scale": scale}, [len(shape)])
    assert found[0].shape == (*shape[:-1], 6)


@pytest.mark.parametrize("layout", ["binary8", "ternary4", "ternary5", "int4", "int6", "int8"])
@pytest.mark.parametrize("grid", [1.0, 0.0625])
def test_integer_linear(library: Any, layout: str, grid: float) -> None:
    most = min(255, (2**14 - 1) // LAYOUTS[layout].largest)
    for k, n in [(1, 1), (7, 1), (130, 33), (300, 520)]:
        _, packed, scale = stored(layout, k, n)
        x = (np.random.default_rng(k).integers(0, most + 1, (3, 4, k)) * grid).astype(np.float32)
        name = layer_operator("Linear", layout, integer_input=True)
        assert_same(name, {"x": x}, {"packed": packed, "scale": scale}, [3], grid=grid, inverse_grid=1 / grid)


@pytest.mark.parametrize("layout", each_layout(KERNEL_LAYOUTS))
def test_real_inputs_agree_to_rounding(library: Any, layout: str) -> None:
    """Real numbers, in some rows alone; the order of the additions is each runtime's own."""
    _, packed, scale = stored(layout, 130, 37)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(70, 130)).astype(np.float32)
    x[::3] = rng.random((24, 130)) < 0.2
    name, constants = layer_operator("Linear", layout), {"packed": packed, "scale": scale}
    (body,), (native,) = both(name, {"x": x}, constants, [2])
    assert np.allclose(native, body, rtol=1e-5, atol=1e-5 * np.abs(body).max())
    assert np.array_equal(bits(native[0]), bits(body[0]))


def test_infinite_and_not_a_number_stay(library: Any) -> None:
    _, packed, scale = stored("binary8", 40, 3)
    x = np.zeros((3, 40), np.float32)
    x[0, 5], x[1, 5], x[2, 5] = np.inf, np.nan, 3e38
    body, native = both("BinaryLinear", {"x": x}, {"packed": packed, "scale": scale}, [2])
    assert np.array_equal(native[0], body[0], equal_nan=True)


def test_weights_that_are_inputs(library: Any) -> None:
    """Nothing can be prepared then."""
    _, packed, scale = stored("ternary4", 20, 6)
    x = INPUTS["spikes"](np.random.default_rng(1), (4, 20)).astype(np.float32)
    assert_same("TernaryLinear", {"x": x, "packed": packed, "scale": scale}, {}, [2])


def test_two_threads(library: Any) -> None:
    _, packed, scale = stored("ternary4", 130, 300)
    x = INPUTS["spikes"](np.random.default_rng(1), (500, 130)).astype(np.float32)
    model = model_of("TernaryLinear", {"x": x}, {"packed": packed, "scale": scale}, [2])
    one, two = (native_session(model, "TernaryLinear", t).run(None, {"x": x})[0] for t in (1, 2))
    assert np.array_equal(bits(one), bits(two))


@pytest.mark.parametrize("layout", each_layout(KERNEL_LAYOUTS))
@pytest.mark.parametrize(("axes", "stride", "pads", "dilation", "groups", "_"), GEOMETRIES)
def test_conv(library: Any, layout: str, axes: int, stride: int, pads: int, dilation: int, groups: int, _: int) -> None:
    """Each axis has a length and a kernel of its own, and padding that differs at its end."""
    for outputs in (8, 40):
        shape = (outputs, 4 // groups, *(3, 2, 1)[:axes])
        _codes, packed, scale = stored(layout, int(np.prod(shape[1:])), outputs)
        x = np.random.default_rng(axes).integers(0, 2, (2, 4, *(8, 7, 6)[:axes])).astype(np.float32)
        attributes = {
            "weight_shape": shape,
            "scale_shape": [-1] + [1] * (axes + 1),
            "strides": [stride] * axes,
            "pads": [pads] * axes + [pads + 1] * axes,
            "dilations": [dilation] * axes,
            "group": groups,
        }
        name = layer_operator("Conv", layout)
        assert_same(name, {"x": x}, {"packed": packed, "scale": scale}, [axes + 2], **attributes)


@pytest.mark.parametrize("layout", each_layout(KERNEL_LAYOUTS))
@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_embedding(library: Any, layout: str, kind: type[np.signedinteger[Any]]) -> None:
    for rows, columns in [(1, 1), (9, 10), (5, 130)]:
        _, packed, _ = stored(layout, rows, columns)
        scale = np.random.default_rng(0).random(rows, np.float32)
        ids = np.random.default_rng(1).integers(0, rows, (2, 3)).astype(kind)
        name = layer_operator("Embedding", layout)
        found = assert_same(name, {"x": ids}, {"packed": packed, "scale": scale}, [3], columns=[columns])
        assert torch.from_numpy(found[0]).shape == (2, 3, columns)
