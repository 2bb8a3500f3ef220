"""The golden model: its numpy for ONNX's own operators is onnxruntime's, and it refuses what it does not know."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from snn_extreme_quant.deploy.integer import golden, golden_neurons, golden_standard
from snn_extreme_quant.deploy.integer.golden import golden_run
from snn_extreme_quant.deploy.integer.golden_standard import STANDARD
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, function_body
from snn_extreme_quant.errors import ModelFileError, SampleError
from tests.deploy.integer_bodies import model_of, run_onnxruntime
from tests.deploy.integer_cases import SPECS, Array, neuron_case

RNG = np.random.default_rng(0)


def whole(*shape: int, kind: type = np.int32, low: int = -50, high: int = 50) -> Array:
    return RNG.integers(low, high, shape).astype(kind)


def sizes(*values: int) -> Array:
    return np.array(values, np.int64)


X, B = whole(2, 3, 4), whole(2, 3, 4) > 0
BYTES = whole(2, 3, 9, 8, kind=np.uint8, low=0, high=9)
F = RNG.standard_normal((2, 3, 4)).astype(np.float32)
#: Operator, inputs, attributes; those after the first are constants.
CASES: list[tuple[str, list[Array], dict[str, Any]]] = [
    ("Abs", [X], {}),
    ("Add", [X, whole(4)], {}),
    ("Add", [F, F], {}),
    ("And", [B, B[::-1].copy()], {}),
    ("Cast", [np.abs(X)], {"to": TensorProto.UINT8}),
    ("Cast", [F], {"to": TensorProto.INT32}),
    ("Cast", [B], {"to": TensorProto.INT8}),
    ("Cast", [X.astype(np.int64) << 10], {"to": TensorProto.INT32}),
    ("Clip", [X, np.int32(-5), np.int32(9)], {}),
    ("Clip", [F, np.float32(0)], {}),
    ("Concat", [X, X], {"axis": -1}),
    ("ConstantOfShape", [sizes(2, 3)], {}),
    ("ConstantOfShape", [sizes(2, 0)], {"value": numpy_helper.from_array(np.array([7], np.int32))}),
    ("Div", [whole(50), np.int32(7)], {}),
    ("Div", [F, np.float32(3)], {}),
    ("Equal", [X, X], {}),
    ("Expand", [whole(3, 1), sizes(2, 1, 4)], {}),
    ("Flatten", [X], {"axis": 2}),
    ("Flatten", [X], {}),
    ("Gather", [X, sizes(1, -1)], {"axis": 1}),
    ("Greater", [X, np.int32(3)], {}),
    ("GreaterOrEqual", [X, np.int32(3)], {}),
    ("Identity", [X], {}),
    ("Less", [X, np.int32(3)], {}),
    ("LessOrEqual", [X, np.int32(3)], {}),
    ("MatMul", [X, whole(2, 4, 5)], {}),
    ("MatMulInteger", [whole(3, 4, kind=np.uint8, low=0), whole(4, 5, kind=np.int8)], {}),
    (
        "MatMulInteger",
        [whole(3, 4, kind=np.uint8, low=0), whole(4, 5, kind=np.uint8, low=0), np.uint8(9), np.uint8(3)],
        {},
    ),
    ("Max", [X, np.int32(3)], {}),
    ("Min", [X, np.int32(3)], {}),
    ("Mod", [whole(50), np.int32(-7)], {}),
    ("Mod", [whole(50), np.int32(7)], {"fmod": 1}),
    ("MaxPool", [BYTES], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1], "dilations": [1, 2]}),
    ("MaxPool", [BYTES], {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": 1}),
    ("MaxPool", [BYTES.astype(np.int8) - np.int8(4)], {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}),
    ("Mul", [X, whole(3, 1)], {}),
    ("Neg", [X], {}),
    ("Not", [B], {}),
    ("Or", [B, B[::-1].copy()], {}),
    ("Pad", [X, sizes(0, 1, -1, 0, 2, 1), np.int32(5)], {}),
    ("Pad", [X, sizes(1, 1, 2, 1), np.int32(0), sizes(-1, 1)], {}),
    ("Pad", [X, sizes(0, 1, 2, 0, 1, 1)], {"mode": "reflect"}),
    ("Pad", [X, sizes(0, 1, 2, 0, 1, 1)], {"mode": "edge"}),
    ("Range", [np.array(1), np.array(9), np.array(3)], {}),
    ("ReduceMax", [X, sizes(1)], {"keepdims": 0}),
    ("ReduceMin", [X, sizes(-1)], {}),
    ("ReduceProd", [sizes(2, 3, 4)], {}),
    ("ReduceSum", [X, sizes(0, 2)], {"keepdims": 0}),
    ("ReduceSum", [X], {}),
    ("ReduceSum", [X], {"noop_with_empty_axes": 1}),
    ("Relu", [X], {}),
    ("Reshape", [X, sizes(0, -1)], {}),
    ("Reshape", [whole(0, 3), sizes(3, 0)], {"allowzero": 1}),
    ("Round", [np.array([0.5, 1.5, -2.5, 2.4], np.float32)], {}),
    ("Shape", [X], {}),
    ("Shape", [X], {"start": 1, "end": -1}),
    ("Sign", [X], {}),
    ("Size", [X], {}),
    ("Slice", [X, sizes(1, -1), sizes(3, -9), sizes(1, 2), sizes(1, -2)], {}),
    ("Slice", [X, sizes(1), sizes(2**62)], {}),
    ("Split", [X, sizes(1, 3)], {"axis": 2}),
    ("Split", [X], {"axis": 1, "num_outputs": 2}),
    ("Squeeze", [whole(1, 3, 1), sizes(2)], {}),
    ("Squeeze", [whole(1, 3, 1)], {}),
    ("Sub", [X, whole(4)], {}),
    ("Tile", [X, sizes(1, 2, 3)], {}),
    ("Transpose", [X], {"perm": [2, 0, 1]}),
    ("Transpose", [X], {}),
    ("Unsqueeze", [X, sizes(0, -1)], {}),
    ("Where", [B, X, np.int32(0)], {}),
]


def one_node(operator: str, inputs: list[Array], attributes: dict[str, Any], outputs: int = 1) -> onnx.ModelProto:
    names = [f"i{index}" for index in range(len(inputs))]
    results = [f"o{index}" for index in range(outputs)]
    first = helper.make_tensor_value_info("i0", helper.np_dtype_to_tensor_dtype(inputs[0].dtype), inputs[0].shape)
    graph = helper.make_graph(
        [helper.make_node(operator, names, results, **attributes)],
        "g",
        [first],
        [onnx.ValueInfoProto(name=name) for name in results],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in zip(names[1:], inputs[1:], strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(("operator", "inputs", "attributes"), CASES, ids=[case[0] for case in CASES])
def test_standard_operators(operator: str, inputs: list[Array], attributes: dict[str, Any]) -> None:
    model = one_node(operator, inputs, attributes, 2 if operator == "Split" else 1)
    wanted = run_onnxruntime(model, {"i0": inputs[0]})
    found = list(golden_run(model, inputs[0]).outputs.values())
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.array_equal(a, b)


def test_every_standard_operator_is_tested() -> None:
    assert {case[0] for case in CASES} | {"Constant"} == set(STANDARD)


def test_constants() -> None:
    tensor = numpy_helper.from_array(np.array([1, -2], np.int8))
    for attributes, wanted in [
        ({"value": tensor}, np.array([1, -2], np.int8)),
        ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [3, 4]}, sizes(3, 4)),
        ({"value_float": 0.5}, np.float32(0.5)),
        ({"value_floats": [0.5]}, np.array([0.5], np.float32)),
    ]:
        found = STANDARD["Constant"]([], attributes)[0]
        assert found.dtype == wanted.dtype
        assert np.array_equal(found, wanted)


def network() -> tuple[onnx.ModelProto, Array]:
    """One layer of neurons called "lif", whose potentials are decoded by a softmax."""
    case = neuron_case(SPECS[0], "", "small", shape=(2, 3), states=True, step=False)
    model = model_of(case)
    model.graph.node[0].name = "lif"
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["vs"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Softmax", ["real"], ["answer"]),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("answer", TensorProto.FLOAT, [None] * 3))
    for name in case.inputs:
        if name not in case.constants and name != "xs":
            model.graph.initializer.append(numpy_helper.from_array(case.inputs[name], name))
    del model.graph.input[1:]
    return model, case.inputs["xs"]


def test_files(tmp_path: Path) -> None:
    """From a file, with the spikes of the layers that are asked for; decoding is done in float."""
    model, xs = network()
    onnx.save(model, tmp_path / "net.onnx")
    wanted = dict(zip(["spikes", "vs", "answer"], run_onnxruntime(model, {"xs": xs}), strict=True))
    for given in (xs, {"xs": xs}):
        found = golden_run(tmp_path / "net.onnx", given)
        assert list(found.outputs) == list(wanted)
        assert np.array_equal(found.outputs["vs"], wanted["vs"])
        assert np.allclose(found.outputs["answer"], wanted["answer"], atol=1e-6)
        assert list(found.spikes) == ["lif"]
        assert np.array_equal(found.spikes["lif"], wanted["spikes"])
    assert golden_run(model, xs, spikes_of=["other"]).spikes == {}


def test_refusals(tmp_path: Path) -> None:
    model, xs = network()
    with pytest.raises(SampleError, match="takes the inputs xs; got x"):
        golden_run(model, {"x": xs})
    with pytest.raises(SampleError, match="'xs' is int64; the file takes int32"):
        golden_run(model, xs.astype(np.int64))
    with pytest.raises(SampleError, match="'xs' has 2 axes; the file takes 3"):
        golden_run(model, xs[0])
    with pytest.raises(ModelFileError, match=r"net\.onnx cannot be read"):
        golden_run(tmp_path / "net.onnx", xs)
    (tmp_path / "net.onnx").write_text("no model")
    with pytest.raises(ModelFileError, match=r"net\.onnx cannot be read"):
        golden_run(tmp_path / "net.onnx", xs)
    with pytest.raises(ModelFileError, match="CumSum '': the golden model knows no such operator on whole numbers"):
        golden_run(one_node("CumSum", [X, np.int32(0)], {}), X)
    operator = "LIF_integrate_ge_subtract_same_step"
    floats = one_node(operator, [F, F[0], np.float32(1)], {"domain": DOMAIN})
    floats.functions.append(function_body(operator))
    with pytest.raises(ModelFileError, match="computes in float; the golden model is one of files"):
        golden_run(floats, F)


def test_independence() -> None:
    """Neither onnxruntime nor torch is imported by the golden model."""
    for module in (golden, golden_neurons, golden_standard):
        tree = ast.parse(Path(module.__file__).read_text())
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if name.startswith(("torch", "onnxruntime"))]
