"""The products of spiking attention as one node: the same numbers as onnxruntime's own operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION, OPSET
from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.deploy.runtime.native_attention import ATTENTION, fuse_attention
from tests.deploy.bodies import Array

_TYPE = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}


def attention(
    shapes: dict[str, Array],
    orders: dict[str, list[int]],
    *,
    scores: int = TensorProto.UINT8,
    ends: tuple[str, ...] = ("Unsqueeze", "Squeeze", "Cast", "Mul"),
) -> onnx.ModelProto:
    """``(q k) v`` as files have it, each matrix behind a Transpose if there is an order for it."""
    nodes, names = [], {}
    for name in shapes:
        names[name] = f"{name}_moved" if name in orders else name
        if name in orders:
            nodes.append(helper.make_node("Transpose", [name], [names[name]], perm=orders[name]))
    nodes += [
        helper.make_node("MatMulInteger", [names["q"], names["k"]], ["alone"]),
        helper.make_node("Unsqueeze", ["alone", "last"], ["unsqueezed"]),
        helper.make_node("Squeeze", ["unsqueezed", "last"], ["scores"]),
        helper.make_node("Cast", ["scores"], ["score_bytes"], to=scores),
        helper.make_node("MatMulInteger", ["score_bytes", names["v"]], ["y0"]),
    ]
    for index, end in enumerate(ends):
        second = {"Unsqueeze": ["last"], "Squeeze": ["last"], "Mul": ["factor"]}.get(end, [])
        options = {"to": TensorProto.FLOAT} if end == "Cast" else {}
        nodes.append(helper.make_node(end, [f"y{index}", *second], [f"y{index + 1}"], **options))
    constants = {"last": np.array([-1]), "factor": np.array(0.3, np.float32)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(k, _TYPE[str(v.dtype)], [None] * v.ndim) for k, v in shapes.items()],
        [onnx.ValueInfoProto(name=f"y{len(ends)}")],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def opened(model: onnx.ModelProto, operators: set[str], threads: int = 1) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, threads
    assert set(native_library().register(options, operators)) == operators
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def check(model: onnx.ModelProto, inputs: dict[str, Array], threads: int = 1, left: int = 1) -> Array:
    expected = opened(model, set()).run(None, inputs)[0]
    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    operators = fuse_attention(fused, set(inputs))
    assert len(operators) == 1
    assert len(fused.graph.node) == left
    found: Array = opened(fused, operators, threads).run(None, inputs)[0]
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    return found


def drawn(shape: tuple[int, ...], kind: str = "spikes", seed: int = 0, dtype: type = np.uint8) -> Array:
    rng = np.random.default_rng(seed)
    if kind == "spikes":
        return (rng.random(shape) < 0.3).astype(dtype)
    return rng.integers(-128 if dtype is np.int8 else 0, 128, shape).astype(dtype)


#: As a network has them: steps, tokens, heads, width of a head.
HEADS = {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}


@pytest.mark.parametrize(
    ("steps", "tokens", "heads", "width"),
    [(4, 1, 3, 8), (2, 15, 2, 64), (3, 16, 2, 33), (1, 40, 12, 5), (2, 300, 1, 64), (1, 17, 2, 255), (1, 600, 1, 250)],
)
@pytest.mark.parametrize("kind", ["spikes", "bytes"])
def test_heads(instruction_set: str, steps: int, tokens: int, heads: int, width: int, kind: str) -> None:
    """Many keys and few, more than 16-bit sums hold, and other bytes than spikes."""
    shape = (steps, tokens, heads, width)
    types = {"q": np.uint8, "k": np.int8, "v": np.int8}
    inputs = {name: drawn(shape, kind, seed, types[name]) for seed, name in enumerate("qkv")}
    assert check(attention(inputs, HEADS), inputs).shape == (steps, heads, tokens, width)


@pytest.mark.parametrize(
    ("shapes", "orders"),
    [
        ({"q": (5, 8), "k": (30, 8), "v": (30, 3)}, {"k": [1, 0]}),
        ({"q": (2, 5, 8), "k": (2, 30, 8), "v": (2, 30, 3)}, {"k": [0, 2, 1]}),
        ({"q": (2, 1, 5, 8), "k": (1, 3, 30, 8), "v": (30, 3)}, {"k": [0, 1, 3, 2]}),
        ({"q": (5, 8), "k": (2, 30, 8), "v": (4, 1, 30, 3)}, {"k": [0, 2, 1]}),
        ({"q": (8, 5), "k": (3, 30, 8), "v": (3, 40, 30)}, {"q": [1, 0], "k": [0, 2, 1], "v": [0, 2, 1]}),
        ({"q": (5, 8), "k": (2, 30, 8), "v": (30,)}, {"k": [0, 2, 1]}),
    ],
)
def test_shapes(library: Any, shapes: dict[str, tuple[int, ...]], orders: dict[str, list[int]]) -> None:
    """Leading axes that one of the matrices lacks, or along which it stays the same; vectors."""
    inputs = {name: drawn(shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}
    assert check(attention(inputs, orders), inputs, threads=2).any()


@pytest.mark.parametrize("kind", ["spikes", "bytes"])
@pytest.mark.parametrize("width", [30, 200])
def test_scores_in_signed_bytes(library: Any, kind: str, width: int) -> None:
    """A score that its type does not hold wraps around, as a cast does."""
    inputs = {name: drawn((2, 40, 1, width), kind, seed) for seed, name in enumerate("qkv")}
    inputs["q"][0] = inputs["k"][0] = 1
    check(attention(inputs, HEADS, scores=TensorProto.INT8), inputs)


@pytest.mark.parametrize(
    "ends", [(), ("Unsqueeze", "Squeeze"), ("Cast",), ("Cast", "Mul"), ("Unsqueeze", "Squeeze", "Cast")]
)
def test_what_follows(library: Any, ends: tuple[str, ...]) -> None:
    inputs = {name: drawn((2, 20, 3, 8), seed=seed) for seed, name in enumerate("qkv")}
    found = check(attention(inputs, HEADS, ends=ends), inputs, left=3 if ends == ("Unsqueeze", "Squeeze") else 1)
    assert found.dtype == (np.float32 if "Cast" in ends else np.int32)


def test_no_tokens(library: Any) -> None:
    inputs = {name: drawn((2, 5, 3, 8), seed=seed) for seed, name in enumerate("qkv")}
    model = attention(inputs, HEADS)
    operators = fuse_attention(model, set(inputs))
    run = opened(model, operators).run
    assert run(None, {name: value[:0] for name, value in inputs.items()})[0].shape == (0, 3, 5, 8)
    assert run(None, {name: value[:, :0] for name, value in inputs.items()})[0].shape == (2, 3, 0, 8)
    with pytest.raises(Exception, match="have no product"):
        run(None, inputs | {"k": inputs["k"][..., :7]})
    with pytest.raises(Exception, match="have no product"):
        run(None, inputs | {"v": drawn((3, 5, 3, 8))})


@pytest.mark.parametrize("change", ["scores are read", "no spikes", "zero point", "other barrier", "a vector"])
def test_what_is_not_fused(library: Any, change: str) -> None:
    inputs = {name: drawn((2, 5, 3, 8), seed=seed) for seed, name in enumerate("qkv")}
    model = attention(inputs, HEADS)
    products = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    spikes = set(inputs) - ({"v"} if change == "no spikes" else set())
    if change == "a vector":
        inputs["q"] = drawn((8,))
        model = attention(inputs, {"k": [0, 2, 3, 1]})
    elif change == "scores are read":
        model.graph.output.append(onnx.ValueInfoProto(name="scores"))
    elif change == "zero point":
        products[0].input.append("zero")
    elif change == "other barrier":
        next(node for node in model.graph.node if node.op_type == "Squeeze").input[1] = "factor"
    before = model.SerializeToString(deterministic=True)
    assert fuse_attention(model, spikes) == set()
    assert model.SerializeToString(deterministic=True) == before
    assert not any(node.op_type.startswith(ATTENTION) for node in model.graph.node)


def test_an_order_that_is_none_is_refused(library: Any) -> None:
    inputs = {name: drawn((2, 5, 3, 8), seed=seed) for seed, name in enumerate("qkv")}
    model = attention(inputs, HEADS)
    operators = fuse_attention(model, set(inputs))
    (order,) = (a for a in model.graph.node[0].attribute if a.name == "key_order")
    order.ints[:] = [0, 2, 2, 1]
    with pytest.raises(Exception, match="key_order is no order of axes"):
        opened(model, operators)
