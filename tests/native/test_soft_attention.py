"""Attention of real queries with spikes, a softmax in it: one node gives what the nodes apart give."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from snn_extreme_quant.deploy import session
from snn_extreme_quant.deploy.lowering.functions import DOMAIN
from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.deploy.runtime.native_choice import NativeChoice
from snn_extreme_quant.deploy.runtime.native_soft_attention import SOFT_ATTENTION
from tests.deploy.bodies import Array

from .test_fused import made

AXIS = np.array([-1])


def attention(rank: int, softmax: str, barriers: bool = False) -> onnx.ModelProto:
    """softmax(q k + mask) v of (..., S, heads, channels), as an exported model has it."""
    lead = list(range(rank - 3))
    rows, columns = [*lead, rank - 2, rank - 3, rank - 1], [*lead, rank - 2, rank - 1, rank - 3]
    nodes: list[onnx.NodeProto] = []

    def add(operator: str, inputs: list[str], to: str, **attributes: Any) -> str:
        if barriers and operator == "MatMul":
            inputs = [barrier(name) for name in inputs]
        nodes.append(helper.make_node(operator, inputs, [to], **attributes))
        return barrier(to) if barriers and operator == "MatMul" else to

    def barrier(name: str) -> str:
        nodes.append(helper.make_node("Unsqueeze", [name, "axis"], [f"{name}/in"]))
        nodes.append(helper.make_node("Squeeze", [f"{name}/in", "axis"], [f"{name}/out"]))
        return f"{name}/out"

    moved = [add("Transpose", ["q"], "q_t", perm=rows), add("Transpose", ["k"], "k_t", perm=columns)]
    scores = add("Add", [add("MatMul", moved, "scores"), "mask"], "masked")
    shift = {"domain": DOMAIN} if softmax == "ShiftSoftmax" else {"axis": -1}
    weights = add(softmax, [scores], "weights", **shift)
    values = add("Transpose", ["v"], "v_t", perm=rows)
    add("Transpose", [add("MatMul", [weights, values], "context")], "y", perm=rows)
    inputs = {name: np.zeros((1,) * rank, np.float32) for name in ("q", "k", "v")}
    return made(nodes, {**inputs, "mask": np.zeros((1,) * (rank - 1), np.float32)}, {"axis": AXIS}, ["y"])


SPIKES = frozenset({"k", "v"})


def joined(model: onnx.ModelProto, threads: int = 1, spikes: frozenset[str] = SPIKES) -> tuple[Any, list[str]]:
    choice = NativeChoice(frozenset(f.name for f in model.functions), frozenset(), spikes)
    changed, names = choice.applied(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    native_library().register(options, names)
    opened = onnxruntime.InferenceSession(changed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return opened, [node.op_type for node in changed.graph.node]


def drawn(lead: tuple[int, ...], queries: int, keys: int, heads: int = 3, channels: int = 8) -> dict[str, Array]:
    """Queries on a grid, spikes, and some keys that are pads."""
    rng = np.random.default_rng(queries * 100 + keys)
    spikes = [rng.integers(-1, 2, (*lead, keys, heads, channels)) for _ in "kv"]
    spikes[1] *= rng.random(spikes[1].shape) < 0.3
    mask = np.zeros((*lead[1:], 1, 1, keys))
    mask[..., 1::5] = -10000.0
    given = {
        "q": np.round(rng.normal(0, 1, (*lead, queries, heads, channels)) * 64) / 64,
        "k": spikes[0],
        "v": spikes[1],
    }
    return {name: value.astype(np.float32) for name, value in {**given, "mask": mask}.items()}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("barriers", [False, True])
@pytest.mark.parametrize(
    ("lead", "queries", "keys"), [((2,), 7, 7), ((4, 2), 33, 33), ((3, 1), 1, 70), ((1, 1), 64, 5)]
)
@pytest.mark.parametrize("softmax", ["Softmax", "ShiftSoftmax"])
def test_attention(
    library: Any, softmax: str, lead: tuple[int, ...], queries: int, keys: int, barriers: bool, threads: int
) -> None:
    model, given = attention(len(lead) + 3, softmax, barriers), drawn(lead, queries, keys)
    (expected,) = session(model, threads=1, native=False).run(None, given)
    opened, operators = joined(model, threads)
    assert operators == [SOFT_ATTENTION]
    (found,) = opened.run(None, given)
    if softmax == "ShiftSoftmax":  # all sums are exact
        assert np.array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=4e-7)
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("shape", [(1, 1, 1, 9), (2, 1, 9, 9), (2, 3, 1, 1), (9, 9), (3, 1, 9), ()])
def test_masks_of_any_shape(library: Any, shape: tuple[int, ...]) -> None:
    model, given = attention(4, "ShiftSoftmax"), drawn((2,), 9, 9)
    mask = given["mask"] = np.asarray(np.round(np.random.default_rng(1).normal(0, 4, shape)), np.float32)
    dims = model.graph.input[3].type.tensor_type.shape
    del dims.dim[:]
    for _ in mask.shape:
        dims.dim.add()
    (expected,) = session(model, threads=1, native=False).run(None, given)
    assert np.array_equal(joined(model)[0].run(None, given)[0], expected)


@pytest.mark.parametrize("instruction_set", ["portable", "avx2"])
def test_other_instruction_sets(library: Any, monkeypatch: pytest.MonkeyPatch, instruction_set: str) -> None:
    monkeypatch.setenv("SXQ_NATIVE_ISA", instruction_set)
    for softmax in ("Softmax", "ShiftSoftmax"):
        model, given = attention(5, softmax), drawn((2, 2), 21, 40)
        (expected,) = session(model, threads=1, native=False).run(None, given)
        np.testing.assert_allclose(joined(model)[0].run(None, given)[0], expected, rtol=0, atol=4e-7)


def test_keys_that_are_no_spikes_are_multiplied(library: Any) -> None:
    """Such attention is not chosen; the kernel is right all the same."""
    model, given = attention(4, "ShiftSoftmax"), drawn((1,), 6, 6)
    given["k"], given["v"] = given["k"] * 2, given["v"] * 0.75
    (expected,) = session(model, threads=1, native=False).run(None, given)
    assert np.array_equal(joined(model)[0].run(None, given)[0], expected)


#: Shapes of queries, keys, values and the mask; the lengths are places, positions, heads and channels.
REPEATED = {
    "one query for all places": ((1, 5, 3, 8), (2, 7, 3, 8), (2, 7, 3, 8), (2, 1, 1, 7)),
    "keys for all places": ((4, 5, 3, 8), (1, 7, 3, 8), (4, 7, 3, 8), (7,)),
    "values for all places": ((4, 5, 3, 8), (4, 7, 3, 8), (1, 7, 3, 6), (1,)),
    "keys for all heads": ((2, 5, 3, 8), (2, 7, 1, 8), (2, 7, 1, 8), (1, 1, 5, 7)),
    "a query for all heads": ((2, 5, 1, 8), (2, 7, 3, 8), (2, 7, 3, 4), (2, 1, 1, 7)),
    "the mask has more places": ((1, 40, 2, 8), (1, 7, 2, 8), (1, 7, 2, 8), (3, 2, 40, 7)),
    "the mask has more heads": ((2, 5, 1, 8), (2, 7, 1, 8), (2, 7, 1, 8), (1, 3, 1, 7)),
    "one query for a mask of many": ((2, 1, 3, 8), (2, 7, 3, 8), (2, 7, 3, 8), (2, 1, 9, 7)),
    "one key for a mask of many": ((2, 5, 3, 8), (2, 1, 3, 8), (2, 6, 3, 8), (2, 1, 5, 6)),
}


def repeated(name: str) -> dict[str, Array]:
    rng = np.random.default_rng(len(name))
    q, k, v, mask = REPEATED[name]
    numbers = {"q": np.round(rng.normal(0, 1, q) * 64) / 64, "mask": np.round(rng.normal(0, 2, mask))}
    spikes = {"k": rng.integers(-1, 2, k), "v": rng.integers(-1, 2, v)}
    return {name: value.astype(np.float32) for name, value in {**numbers, **spikes}.items()}


@pytest.mark.parametrize("name", REPEATED)
def test_shapes_are_broadcast(library: Any, name: str) -> None:
    model, given = attention(4, "ShiftSoftmax"), repeated(name)
    for entry in model.graph.input:
        dims = entry.type.tensor_type.shape
        del dims.dim[:]
        for _ in given[entry.name].shape:
            dims.dim.add()
    (expected,) = session(model, threads=1, native=False).run(None, given)
    opened, operators = joined(model)
    assert operators == [SOFT_ATTENTION]
    (found,) = opened.run(None, given)
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)
    assert expected.any()


def of_counts(softmax: str, shape: bool) -> onnx.ModelProto:
    """Keys and values are the rates of counts in bytes, perhaps with a Reshape behind."""
    model = attention(4, softmax)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for name in ("k", "v"):
        rates = f"{name}/rates" if shape else name
        model.graph.node.append(helper.make_node("DequantizeLinear", [f"{name}/counts", "scale", "zero"], [rates]))
        if shape:
            model.graph.node.append(helper.make_node("Reshape", [rates, "heads"], [name]))
    model.graph.node.extend(nodes)
    for entry in model.graph.input:
        if entry.name in ("k", "v"):
            entry.name += "/counts"
            entry.type.tensor_type.elem_type = onnx.TensorProto.UINT8
            if shape:
                del entry.type.tensor_type.shape.dim[3]
    for name, value in {"scale": np.float32(1 / 16), "zero": np.uint8(16), "heads": np.array([0, 0, 3, 8])}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model


@pytest.mark.parametrize("softmax", ["Softmax", "ShiftSoftmax"])
@pytest.mark.parametrize("shape", [False, True])
@pytest.mark.parametrize(("queries", "keys", "share"), [(5, 5, 0.9), (33, 40, 0.5), (40, 33, 0.1), (1, 3, 0.0)])
@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "portable"])
def test_counts_are_read_as_bytes(
    library: Any, monkeypatch: pytest.MonkeyPatch, instruction_set: str, queries: int, keys: int, share: float,
    shape: bool, softmax: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("SXQ_NATIVE_ISA", instruction_set)
    model, given, rng = of_counts(softmax, shape), drawn((2,), queries, keys), np.random.default_rng(keys)
    for name in ("k", "v"):
        counts = np.where(rng.random((2, keys, 3, 8)) < share, rng.integers(0, 33, (2, keys, 3, 8)), 16)
        del given[name]
        given[f"{name}/counts"] = counts.astype(np.uint8).reshape(2, keys, *([24] if shape else [3, 8]))
    (expected,) = session(model, threads=1, native=False).run(None, given)
    opened, operators = joined(model, spikes=frozenset())
    assert operators == (["Reshape", "Reshape"] if shape else []) + [SOFT_ATTENTION]
    (found,) = opened.run(None, given)
    if softmax == "ShiftSoftmax":
        assert np.array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert bool(expected.any()) == (share > 0)


def test_rates_that_others_read_stay(library: Any) -> None:
    model = of_counts("Softmax", shape=True)
    model.graph.output.append(onnx.ValueInfoProto(name="k/rates"))
    assert joined(model, spikes=frozenset())[1] == ["DequantizeLinear", "Reshape", "Reshape", SOFT_ATTENTION]


def test_counts_with_a_scale_for_each_channel_are_not_joined(library: Any) -> None:
    model = of_counts("Softmax", shape=False)
    for tensor, value in zip(model.graph.initializer[-3:-1], (np.float32, np.uint8), strict=True):
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(8, value), tensor.name))
    assert SOFT_ATTENTION not in joined(model, spikes=frozenset())[1]


def test_shapes_that_do_not_fit_are_refused(library: Any) -> None:
    """As they are without kernels."""
    opened, _ = joined(attention(4, "Softmax"))
    given = drawn((2,), 5, 5)
    for changed in ({"k": given["k"][:, :, :2]}, {"mask": np.zeros((1, 1, 4), np.float32)}):
        with pytest.raises(Exception, match="native=False"):
            opened.run(None, {**given, **changed})


@pytest.mark.parametrize("change", ["not spikes", "read elsewhere", "other order", "other axis"])
def test_what_is_not_joined(library: Any, change: str) -> None:
    model = attention(4, "Softmax")
    spikes = frozenset({"k"} if change == "not spikes" else {"k", "v"})
    if change == "read elsewhere":
        model.graph.output.append(onnx.ValueInfoProto(name="weights"))
    elif change == "other order":
        model.graph.node[-1].attribute[0].ints[:] = [0, 1, 2, 3]
    elif change == "other axis":
        next(node for node in model.graph.node if node.op_type == "Softmax").attribute[0].i = 1
    changed, _ = NativeChoice(frozenset(), frozenset(), spikes).applied(model)
    assert SOFT_ATTENTION not in [node.op_type for node in changed.graph.node]
