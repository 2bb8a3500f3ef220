"""Integer products: signed inputs on any grid, and what onnxruntime may and may not fuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper, numpy_helper

from snn_extreme_quant.deploy.lowering import operators
from snn_extreme_quant.deploy.lowering.layer_functions import layer_operator
from tests.deploy.bodies import bits, model_of
from tests.operators.layers import stored, tensors


@given(
    layout=st.sampled_from(["binary8", "ternary4", "ternary5", "int4"]),
    shape=st.tuples(st.integers(0, 9), st.integers(1, 70), st.integers(1, 40)),
    bound=st.integers(1, 127),
    fraction=st.integers(-3, 12),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_signed_integers_on_any_grid(
    layout: str, shape: tuple[int, int, int], bound: int, fraction: int, data: st.DataObject
) -> None:
    """Any number of rows, inputs and outputs: the same bits as sums in integers, scaled."""
    rows, inputs, outputs = shape
    codes, packed, scale = stored(layout, inputs, outputs)
    units = data.draw(arrays(np.int64, (rows, inputs), elements=st.integers(-bound, bound)))
    grid = 2.0**-fraction
    name = layer_operator("Linear", layout, integer_input=True, signed=True)
    x = (units * grid).astype(np.float32)
    model = model_of(name, {"x": x}, {"packed": packed, "scale": scale}, [2], grid=grid, inverse_grid=1 / grid)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = ((units @ codes) * grid).astype(np.float32) * scale
    assert np.array_equal(bits(session.run(None, {"x": x})[0]), bits(expected))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 64])
def test_the_scaled_product_is_rounded_before_a_bias_is_added(tmp_path: Path, signed: bool, rows: int) -> None:
    """onnxruntime scales inside the product, which gives the same bits; it would add a bias there without rounding."""
    _, packed, scale = stored("ternary4", 40, 64)
    bias = np.random.default_rng(1).normal(size=64).astype(np.float32)
    x = np.random.default_rng(0).integers(-signed, 2, (rows, 40)).astype(np.float32)
    name = layer_operator("Linear", "ternary4", integer_input=True, signed=signed)
    model = model_of(name, {"x": x}, {"packed": packed, "scale": scale}, [2], grid=1.0, inverse_grid=1.0)
    model.graph.node.append(helper.make_node("Add", ["y", "bias"], ["biased"]))
    model.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    model.graph.output[0].name = "biased"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = operators.packed_linear(*tensors(x, packed, scale), 64, "ternary4", "") + torch.from_numpy(bias)
    assert np.array_equal(bits(session.run(None, {"x": x})[0]), bits(expected))
    ran = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "MatMulIntegerToFloat" in ran
    assert "Add" in ran
