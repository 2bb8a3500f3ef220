"""Products of whole numbers of 16 bits: one node in the place of two products of bytes and what is around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION, OPSET, function_body
from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.deploy.runtime.native_choice import choose_kernels
from snn_extreme_quant.deploy.runtime.native_whole import WHOLE_PRODUCT, fuse_whole_products
from snn_extreme_quant.exported.operators import KINDS
from tests.deploy.bodies import Array
from tests.operators.layers import stored

LAYOUTS = [layout for layout in KINDS if not layout.startswith("int") or int(layout[3:]) <= 8]
INT32 = onnx.TensorProto.INT32


def _product(layout: str, inputs: int, columns: int, *, limits: bool = False, byte: int = 256) -> onnx.ModelProto:
    """A product as files of SpikeGPT's integer profile have it."""
    rng = np.random.default_rng(columns)
    operator, (_, packed, _) = f"{KINDS[layout]}MatMulInteger", stored(layout, inputs, columns)
    values: dict[str, Array] = {
        "packed": packed,
        "byte": np.array(byte, np.int32),
        "gain": rng.integers(0, 2**24, columns),
        "offset": np.array([2**20], np.int64),
        "low": np.array([-(2**22)], np.int32),
        "high": np.array([2**22], np.int32),
        "least": -rng.integers(1, 2**20, columns).astype(np.int32),
        "most": rng.integers(1, 2**20, columns).astype(np.int32),
    }

    def ours(name: str, given: list[str], made: list[str], **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(name, given, made, domain=DOMAIN, **attributes)

    nodes = [
        ours("IntHalves", ["x"], ["h", "l"]),
        ours(f"{operator}Signed", ["h", "packed"], ["hs"], columns=[columns]),
        ours(operator, ["l", "packed"], ["ls"], columns=[columns]),
        helper.make_node("Mul", ["hs", "byte"], ["placed"]),
        helper.make_node("Add", ["placed", "ls"], ["sums"]),
    ]
    if limits:
        nodes.append(helper.make_node("Max", ["sums", "least"], ["above"]))
        nodes.append(helper.make_node("Min", ["above", "most"], ["within"]))
    scaled = "within" if limits else "sums"
    nodes.append(ours("IntScale", [scaled, "gain", "offset", "low", "high"], ["y"], shift=21))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", INT32, [None, None, inputs])],
        [helper.make_tensor_value_info("y", INT32, [None, None, columns])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )  # fmt: skip
    names = dict.fromkeys(node.op_type for node in nodes if node.domain)
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    bodies = [function_body(name) for name in names]
    return helper.make_model(graph, functions=bodies, opset_imports=imports, ir_version=8)


def _run(model: onnx.ModelProto, x: Array, operators: list[str], threads: int = 1) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    assert native_library().register(options, operators) == operators
    opened = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: Array = opened.run(None, {"x": x})[0]
    return found


def _fused(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    assert fuse_whole_products(made) == {WHOLE_PRODUCT}
    assert [node.op_type for node in made.graph.node] == [WHOLE_PRODUCT]
    return made


def _numbers(shape: tuple[int, ...]) -> Array:
    """Numbers of 16 bits, a third of which are the largest, the smallest or next to where a byte ends."""
    rng = np.random.default_rng(0)
    ends = rng.choice(np.array([-32768, 32767, -32767, -129, -128, 127, 128, 32640, 0]), shape)
    found = np.where(rng.random(shape) < 0.3, ends, rng.integers(-(2**15), 2**15, shape))
    return found.astype(np.int32)


def _check(layout: str, shape: tuple[int, int, int], columns: int, *, limits: bool, threads: int = 1) -> None:
    model, x = _product(layout, shape[-1], columns, limits=limits), _numbers(shape)
    wanted = _run(model, x, [])
    found = _run(_fused(model), x, [WHOLE_PRODUCT], threads)
    assert found.dtype == wanted.dtype
    assert np.array_equal(found, wanted)
    assert not wanted.size or np.ptp(wanted) > 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_packing(library: Any, layout: str) -> None:
    _check(layout, (2, 3, 37), 90, limits=False)
    _check(layout, (1, 1, 128), 613, limits=True)


@pytest.mark.parametrize("layout", ["binary8", "ternary4", "int4", "int8"])
def test_each_instruction_set_with_threads(instruction_set: str, layout: str) -> None:
    _check(layout, (1, 1, 300), 5000, limits=False)
    _check(layout, (3, 5, 41), 2100, limits=True, threads=2)
    _check(layout, (0, 5, 41), 7, limits=True)


def test_numbers_beyond_16_bits_are_cut(library: Any) -> None:
    model, x = _product("ternary4", 20, 9), np.full((1, 1, 20), 2**31 - 1, np.int32)
    assert np.array_equal(_run(_fused(model), x, [WHOLE_PRODUCT]), _run(model, x, []))


@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "portable"])
def test_sessions_join_them_where_that_is_faster(instruction_set: str) -> None:
    made, names = choose_kernels(_product("ternary4", 20, 9), instruction_set).applied(_product("ternary4", 20, 9))
    joined = instruction_set != "portable"
    assert (WHOLE_PRODUCT in names) is joined
    assert (len(made.graph.node) == 1) is joined


def _changed(what: str) -> onnx.ModelProto:
    model = _product("ternary4", 20, 9, limits=what == "one limit", byte=128 if what == "another factor" else 256)
    nodes, graph = {node.output[0]: node for node in model.graph.node}, model.graph
    if what == "one limit":
        nodes["y"].input[0] = "above"
        graph.node.remove(nodes["within"])
    elif what == "other halves":
        nodes["hs"].input[0], nodes["ls"].input[0] = "l", "h"
    elif what == "sums are an output":
        graph.output.append(helper.make_tensor_value_info("sums", INT32, [None, None, 9]))
    elif what == "a half is read twice":
        graph.output.append(helper.make_tensor_value_info("l", onnx.TensorProto.UINT8, [None, None, 20]))
    elif what == "codes are no constant":
        graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == "packed"))
    elif what == "other codes":
        other = onnx.TensorProto()
        other.CopyFrom(next(tensor for tensor in graph.initializer if tensor.name == "packed"))
        other.name = nodes["ls"].input[1] = "other"
        graph.initializer.append(other)
    return model


@pytest.mark.parametrize(
    "what",
    [
        "one limit", "another factor", "other halves", "sums are an output", "a half is read twice",
        "codes are no constant", "other codes",
    ],
)  # fmt: skip
def test_what_is_left_as_it_is(what: str) -> None:
    model = _changed(what)
    before = [node.op_type for node in model.graph.node]
    assert fuse_whole_products(model) == set()
    assert [node.op_type for node in model.graph.node] == before
