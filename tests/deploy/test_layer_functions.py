"""Every packed layer's body, run by onnx's evaluator and by onnxruntime, equals the torch operator bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from snn_extreme_quant.deploy import operators
from snn_extreme_quant.deploy.layer_functions import KINDS, layer_operator
from snn_extreme_quant.quantizers.packing import LAYOUTS, pack
from tests.deploy.bodies import Array, assert_body


def stored(layout: str, inputs: int, outputs: int) -> tuple[Array, Array, Array]:
    """Random codes ``(K, N)`` that include the largest, packed, and scales."""
    rng = np.random.default_rng(inputs * outputs)
    largest = LAYOUTS[layout].largest
    codes = rng.integers(-largest, largest + 1, (inputs, outputs))
    codes[:1, :1] = largest
    codes = np.where(codes < 0, -1, 1) if layout == "binary8" else codes
    return codes, pack(codes, layout), rng.random(outputs, np.float32) + np.float32(0.01)


def tensors(*values: Array) -> list[Tensor]:
    return [torch.from_numpy(value) for value in values]


def test_each_layout_of_layers_is_tested() -> None:
    assert set(KINDS) == {"binary8", "ternary4", "ternary5", "int4", "int8", "int16"}


@pytest.mark.parametrize("layout", KINDS)
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 1), (1, 9), (64, 10), (130, 33)])
def test_linear(layout: str, inputs: int, outputs: int) -> None:
    codes, packed, scale = stored(layout, inputs, outputs)
    x = (np.random.default_rng(0).integers(0, 4, (3, 4, inputs)) * 0.125).astype(np.float32)
    expected = operators.packed_linear(*tensors(x, packed, scale), outputs, layout, "")
    by_hand = (x.astype(np.float64) @ codes).astype(np.float32) * scale
    assert np.array_equal(expected.numpy(), by_hand)
    assert_body(layer_operator("Linear", layout), {"x": x}, {"packed": packed, "scale": scale}, [expected])


@pytest.mark.parametrize("layout", ["binary8", "ternary4", "ternary5", "int4", "int8"])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 1), (130, 33)])
@pytest.mark.parametrize("grid", [1.0, 0.0625])
def test_integer_linear(layout: str, inputs: int, outputs: int, grid: float) -> None:
    """Inputs up to 255, or as large as a processor without exact byte products can take."""
    _, packed, scale = stored(layout, inputs, outputs)
    most = min(255, (2**14 - 1) // LAYOUTS[layout].largest)
    x = (np.random.default_rng(0).integers(0, most + 1, (3, 4, inputs)) * grid).astype(np.float32)
    expected = operators.packed_linear(*tensors(x, packed, scale), outputs, layout, "")
    name = layer_operator("Linear", layout, integer_input=True)
    constants = {"packed": packed, "scale": scale}
    assert_body(name, {"x": x}, constants, [expected], grid=grid, inverse_grid=1 / grid)


GEOMETRIES = [
    # axes, stride, pads, dilation, groups, output padding
    (1, 1, 0, 1, 1, 0),
    (1, 2, 1, 1, 2, 1),
    (1, 3, 2, 2, 1, 2),
    (2, 1, 1, 1, 1, 0),
    (2, 2, 0, 2, 1, 1),
    (2, 1, 2, 1, 4, 0),
    (3, 1, 1, 1, 1, 0),
    (3, 2, 0, 1, 2, 1),
]


@pytest.mark.parametrize("layout", KINDS)
@pytest.mark.parametrize(("axes", "stride", "pads", "dilation", "groups", "_"), GEOMETRIES)
def test_conv(layout: str, axes: int, stride: int, pads: int, dilation: int, groups: int, _: int) -> None:
    """Each axis has a length and a kernel of its own, and padding that differs at its end."""
    kernel = (3, 2, 1)[:axes]
    shape = (8, 4 // groups, *kernel)
    _codes, packed, scale = stored(layout, int(np.prod(shape[1:])), shape[0])
    x = np.random.default_rng(axes).integers(0, 2, (2, 4, *(8, 7, 6)[:axes])).astype(np.float32)
    strides, both, dilations = [stride] * axes, [pads] * axes + [pads + 1] * axes, [dilation] * axes
    expected = operators.packed_conv(
        *tensors(x, packed, scale), list(shape), strides, both, dilations, groups, layout, ""
    )
    assert_body(
        layer_operator("Conv", layout),
        {"x": x},
        {"packed": packed, "scale": scale},
        [expected],
        weight_shape=shape,
        scale_shape=[-1] + [1] * (axes + 1),
        strides=strides,
        pads=both,
        dilations=dilations,
        group=groups,
    )


@pytest.mark.parametrize("layout", KINDS)
@pytest.mark.parametrize(("axes", "stride", "pads", "dilation", "groups", "extra"), GEOMETRIES)
def test_conv_transpose(layout: str, axes: int, stride: int, pads: int, dilation: int, groups: int, extra: int) -> None:
    kernel = (3, 2, 3)[:axes]
    outputs, inputs = 8, 4 // groups
    shape = (outputs, inputs, *kernel)
    _codes, packed, scale = stored(layout, int(np.prod(shape[1:])), outputs)
    x = np.random.default_rng(axes).integers(0, 2, (2, 4, *(6, 5, 4)[:axes])).astype(np.float32)
    geometry = {
        "strides": [stride] * axes,
        "pads": [min(pads, 1)] * axes,
        "output_padding": [extra] * axes,
        "dilations": [dilation] * axes,
    }
    expected = operators.packed_conv_transpose(
        *tensors(x, packed, scale), list(shape), *geometry.values(), groups, layout, ""
    )
    assert_body(
        layer_operator("ConvTranspose", layout),
        {"x": x},
        {"packed": packed, "scale": scale},
        [expected],
        weight_shape=[inputs * groups, outputs // groups, *kernel],
        grouped_shape=[groups, outputs // groups, inputs, -1],
        scale_shape=[-1] + [1] * (axes + 1),
        group=groups,
        **(geometry | {"pads": geometry["pads"] * 2}),
    )


@pytest.mark.parametrize("layout", KINDS)
@pytest.mark.parametrize("kind", [np.int64, np.int32])
@pytest.mark.parametrize(("rows", "columns", "shape"), [(1, 1, (1,)), (11, 7, (3, 4)), (5, 16, (2, 3, 2))])
def test_embedding(layout: str, kind: type, rows: int, columns: int, shape: tuple[int, ...]) -> None:
    """A table is packed row by row, and has a scale for each."""
    codes, packed, _ = stored(layout, rows, columns)
    rng = np.random.default_rng(rows)
    scale, ids = rng.random(rows, np.float32), rng.integers(0, rows, shape).astype(kind)
    expected = operators.packed_embedding(*tensors(ids, packed, scale), columns, layout, "")
    assert np.array_equal(expected.numpy(), (codes.astype(np.float32) * scale[:, None])[ids])
    constants = {"packed": packed, "scale": scale}
    assert_body(layer_operator("Embedding", layout), {"x": ids}, constants, [expected], columns=[columns])
