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


def joined(model: onnx.ModelProto, threads: int = 1) -> tuple[Any, list[str]]:
    choice = NativeChoice(frozenset(f.name for f in model.functions), frozenset(), frozenset({"k", "v"}))
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


def test_shapes_that_do_not_fit_are_refused(library: Any) -> None:
    opened, _ = joined(attention(4, "Softmax"))
    given = drawn((2,), 5, 5)
    with pytest.raises(Exception, match="native=False"):
        opened.run(None, {**given, "k": given["k"][:, :, :2]})
    with pytest.raises(Exception, match="mask"):
        opened.run(None, {**given, "mask": np.zeros((1, 1, 4), np.float32)})


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
