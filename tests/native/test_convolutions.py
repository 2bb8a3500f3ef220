"""Convolutions: by lists of spikes and by windows, in floats and in integers, the kernel gives the body's bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from snn_extreme_quant.deploy import session
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION, OPSET, function_body
from snn_extreme_quant.deploy.lowering.layer_functions import KINDS
from snn_extreme_quant.deploy.runtime.native_choice import choose_kernels
from tests.deploy.bodies import Array, bits, model_of
from tests.layouts import each_layout
from tests.operators.layers import GEOMETRIES, stored

from .running import KERNEL_LAYOUTS, assert_same, both, native_session

#: What a pixel holds: lists of spikes of one sign, of both, and what goes by windows.
INPUTS = {
    "spikes": lambda rng, shape: rng.random(shape) < 0.2,
    "silence": lambda rng, shape: np.zeros(shape),
    "all at once": lambda rng, shape: np.ones(shape),
    "signed spikes": lambda rng, shape: rng.integers(-1, 2, shape),
    "counts": lambda rng, shape: rng.integers(0, 9, shape),
}
#: Inputs, outputs, lengths: several bands; more outputs than a register holds; a window of many rows.
SHAPES = [(3, 9, (40, 33)), (5, 300, (6, 7)), (500, 3, (4, 3)), (2, 7, (700,)), (2, 5, (3, 30, 9))]


def geometry(axes: int, stride: int = 1, pads: int = 1, dilation: int = 1, groups: int = 1) -> dict[str, Any]:
    """Padding differs at the end of each axis."""
    return {
        "strides": [stride] * axes,
        "pads": [pads] * axes + [pads + 1] * axes,
        "dilations": [dilation] * axes,
        "group": groups,
    }


def drawn(kind: str, shape: tuple[int, ...]) -> Array:
    return np.asarray(INPUTS[kind](np.random.default_rng(len(shape)), shape))


@pytest.mark.parametrize("kind", INPUTS)
def test_shapes(instruction_set: str, kind: str) -> None:
    for channels, outputs, lengths in SHAPES:
        axes = len(lengths)
        weight = (outputs, channels, *(3, 2, 1)[:axes])
        _, packed, scale = stored("ternary4", int(np.prod(weight[1:])), outputs)
        x = drawn(kind, (2, channels, *lengths)).astype(np.float32)
        attributes = geometry(axes) | {"weight_shape": weight, "scale_shape": [-1] + [1] * (axes + 1)}
        assert_same("TernaryConv", {"x": x}, {"packed": packed, "scale": scale}, [axes + 2], **attributes)


def integer_sums(x: Array, codes: Array, weight: tuple[int, ...], attributes: dict[str, Any]) -> Array:
    """The same by torch in whole numbers of 64 bit."""
    axes = len(weight) - 2
    ends = [(attributes["pads"][i], attributes["pads"][axes + i]) for i in range(axes)]
    padded = np.pad(x.astype(np.int64), [(0, 0), (0, 0), *ends])
    convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[axes - 1]
    sums = convolve(
        torch.from_numpy(padded),
        torch.from_numpy(codes.astype(np.int64).T.reshape(weight).copy()),
        stride=attributes["strides"],
        dilation=attributes["dilations"],
        groups=attributes["group"],
    )
    return sums.numpy()


@pytest.mark.parametrize("layout", each_layout(KERNEL_LAYOUTS))
@pytest.mark.parametrize(("axes", "stride", "pads", "dilation", "groups", "_"), GEOMETRIES)
def test_integers(
    library: Any, layout: str, axes: int, stride: int, pads: int, dilation: int, groups: int, _: int
) -> None:
    weight = (40, 4 // groups, *(3, 2, 1)[:axes])
    codes, packed, _scale = stored(layout, int(np.prod(weight[1:])), 40)
    attributes = geometry(axes, stride, pads, dilation, groups)
    for kind in INPUTS:
        x = drawn(kind, (2, 4, *(9, 8, 7)[:axes]))
        signed = kind == "signed spikes"
        operator = f"{KINDS[layout]}ConvInteger{'Signed' if signed else ''}"
        node = attributes | {"columns": [40], "weight_shape": weight}
        given = x.astype(np.int8 if signed else np.uint8)
        model = model_of(operator, {"x": given}, {"packed": packed}, [axes + 2], TensorProto.INT32, **node)
        found = native_session(model, operator).run(None, {"x": given})[0]
        assert found.dtype == np.int32
        assert np.array_equal(found, integer_sums(x, codes, weight, attributes)), kind


def test_real_inputs_agree_to_rounding(library: Any) -> None:
    _, packed, scale = stored("ternary4", 18, 7)
    x = np.random.default_rng(3).normal(size=(2, 3, 9, 8)).astype(np.float32)
    attributes = geometry(2) | {"weight_shape": (7, 3, 3, 2), "scale_shape": [-1, 1, 1, 1]}
    (body,), (native,) = both("TernaryConv", {"x": x}, {"packed": packed, "scale": scale}, [4], **attributes)
    assert np.allclose(native, body, rtol=1e-5, atol=1e-5)


def test_two_threads_and_weights_that_are_inputs(library: Any) -> None:
    _, packed, scale = stored("ternary4", 27, 9)
    x = drawn("spikes", (3, 3, 30, 30)).astype(np.float32)
    attributes = geometry(2) | {"weight_shape": (9, 3, 3, 3), "scale_shape": [-1, 1, 1, 1]}
    expected = assert_same("TernaryConv", {"x": x, "packed": packed, "scale": scale}, {}, [4], **attributes)
    model = model_of("TernaryConv", {"x": x}, {"packed": packed, "scale": scale}, [4], **attributes)
    found = native_session(model, "TernaryConv", threads=2).run(None, {"x": x})
    assert np.array_equal(bits(found[0]), bits(expected[0]))


# Which nodes ---------------------------------------------------------------------------------------------------------


def network(outputs: int = 128, neuron: str = "LIF_leak_gt_subtract_delayed") -> onnx.ModelProto:
    """Two convolutions with neurons between: the first reads the input, the second spikes."""
    nodes, weights = [], []
    for layer, (channels, last) in enumerate([(3, 16), (16, outputs)]):
        _, packed, scale = stored("ternary4", channels * 9, last)
        weights += [numpy_helper.from_array(packed, f"p{layer}"), numpy_helper.from_array(scale, f"s{layer}")]
        node = geometry(2) | {"weight_shape": [last, channels, 3, 3], "scale_shape": [-1, 1, 1, 1]}
        source = "flat" if layer else "x"
        nodes.append(
            helper.make_node("TernaryConv", [source, f"p{layer}", f"s{layer}"], [f"y{layer}"], domain=DOMAIN, **node)
        )
        if not layer:
            for name, value in (("v0", 0.0), ("threshold", 0.4), ("decay", 0.5), ("levels", 3.0)):
                weights.append(numpy_helper.from_array(np.float32(value), name))
            weights.append(numpy_helper.from_array(np.array([0]), "axis"))
            inputs = function_body(neuron).input
            given = {"xs": "steps", "v0": "v0"} | {name: name.removeprefix("p_") for name in inputs[2:]}
            nodes.append(helper.make_node("Unsqueeze", ["y0", "axis"], ["steps"]))
            nodes.append(helper.make_node(neuron, [given[n] for n in inputs], ["spikes"], domain=DOMAIN))
            nodes.append(helper.make_node("Squeeze", ["spikes", "axis"], ["flat"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, None, None])],
        [helper.make_tensor_value_info("y1", TensorProto.FLOAT, [None] * 4)],
        weights,
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    bodies = [function_body("TernaryConv"), function_body(neuron)]
    return helper.make_model(graph, functions=bodies, opset_imports=imports, ir_version=8)


def test_nodes_that_read_spikes_are_taken() -> None:
    assert choose_kernels(network()).nodes == {"y1"}
    assert choose_kernels(network(outputs=8)).nodes == set()  # too small to gain
    assert choose_kernels(network(neuron="LIF_leak_gt_subtract_same_step_count")).nodes == set()


def test_each_node_runs_where_it_is_faster(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that onnxruntime makes of the file holds one float Conv and one kernel; the results are the same."""
    plain = onnxruntime.SessionOptions

    def dumping() -> Any:
        options = plain()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        return options

    onnx.save(network(), tmp_path / "net.onnx")
    x = drawn("counts", (2, 3, 9, 8)).astype(np.float32) / 8
    expected = session(tmp_path / "net.onnx", native=False).run(None, {"x": x})[0]
    monkeypatch.setattr(onnxruntime, "SessionOptions", dumping)
    found = session(tmp_path / "net.onnx", native=True).run(None, {"x": x})[0]
    assert np.array_equal(bits(found), bits(expected))
    ran = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert ran.count("TernaryConvOfSpikes") == 1
    assert sum("Conv" in name for name in ran) == 2
