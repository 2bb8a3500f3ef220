"""What is computed of currents, value by value, joined with the neurons that read it: the bits of the nodes apart."""

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
from snn_extreme_quant.deploy.runtime.native_choice import NativeChoice, choose_kernels
from tests.deploy.bodies import Array, bits

from .test_fused import made

LIF = "LIF_integrate_ge_subtract_same_step_ternary"
NUMBERS = {
    "v0": np.float32(0.5), "threshold": np.float32(1), "least": np.float32(-2), "most": np.float32(3),
    "up": np.float32(4096), "third": np.float32(3), "one": np.float32(1), "half": np.float32(0.5),
    "root": np.float32(np.sqrt(2)),
}  # fmt: skip


def chain(operations: list[tuple[str, ...]], channels: int, neurons: str = LIF) -> onnx.ModelProto:
    """A norm, some operations on it in turn, and perhaps neurons."""
    value, nodes = "y0", [helper.make_node("LayerNormalization", ["x", "weight", "bias"], ["y0"], axis=-1)]
    for index, (name, *constants) in enumerate(operations, 1):
        nodes.append(helper.make_node(name, [value, *constants], [f"y{index}"]))
        value = f"y{index}"
    if neurons:
        nodes.append(helper.make_node(neurons, [value, "v0", "threshold"], ["s"], "n", domain=DOMAIN))
        value = "s"
    rng = np.random.default_rng(channels)
    constants_of = {name: np.array(number) for name, number in NUMBERS.items()}
    for name in ("weight", "bias", "theta"):
        constants_of[name] = rng.uniform(0.2, 2, channels).astype(np.float32)
    return made(nodes, {"x": np.zeros((1, 1, channels), np.float32)}, constants_of, [value])


def run_both(model: onnx.ModelProto, x: Array, threads: int = 1) -> tuple[Array, Array, list[str]]:
    """The result apart and joined, and the joined graph's operators."""
    apart = session(model, threads=1, native=False).run(None, {"x": x})[0]
    changed, names = NativeChoice(frozenset(f.name for f in model.functions), frozenset()).applied(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    assert set(native_library().register(options, names)) == names
    opened = onnxruntime.InferenceSession(changed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return apart, opened.run(None, {"x": x})[0], [node.op_type for node in changed.graph.node]


GRID = [("Div", "theta"), ("Clip", "least", "most"), ("Mul", "up"), ("Round",), ("Div", "up")]
CHAINS = {
    "grid": GRID,
    "grid of one threshold": [("Div", "third"), *GRID[1:]],
    "sum before": [("Add", "bias"), *GRID],
    "no grid: not a power of two": [*GRID[:-1], ("Div", "third")],
    "channels": [("Mul", "theta"), ("Sub", "bias"), ("Floor",)],
    "relu": [("Relu",), ("Mul", "third"), ("Div", "theta"), ("Add", "one")],
    "long": [("Add", "one"), ("Mul", "half"), ("Sub", "third")] * 7,
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(4, 3, 384), (1, 5, 7), (20, 1, 600), (3, 2, 1)])
@pytest.mark.parametrize("name", CHAINS)
def test_joined_neurons_give_the_same_spikes(library: Any, name: str, shape: tuple[int, ...], threads: int) -> None:
    x = np.random.default_rng(len(name)).normal(0, 3, shape).astype(np.float32)
    apart, joined, operators = run_both(chain(CHAINS[name], shape[-1]), x, threads)
    assert "FusedCurrents" in operators
    assert LIF not in operators
    assert np.array_equal(apart, joined)
    assert shape[-1] == 1 or apart.any()


@pytest.mark.parametrize("instruction_set", ["portable", "avx2"])
def test_other_instruction_sets_give_the_same_spikes(
    library: Any, monkeypatch: pytest.MonkeyPatch, instruction_set: str
) -> None:
    monkeypatch.setenv("SXQ_NATIVE_ISA", instruction_set)
    x = np.random.default_rng(5).normal(0, 3, (4, 3, 96)).astype(np.float32)
    apart, joined, _ = run_both(chain(GRID, 96), x)
    assert np.array_equal(apart, joined)


def layer_values(operations: list[tuple[str, ...]]) -> onnx.ModelProto:
    """The same behind a cast, whose type is known, and without neurons."""
    model = chain(operations, 40, "")
    model.graph.node.insert(1, helper.make_node("Cast", ["y0"], ["cast"], to=onnx.TensorProto.FLOAT))
    model.graph.node[2].input[0] = "cast"
    return model


@pytest.mark.parametrize("name", ["grid", "channels", "relu"])
def test_values_that_no_neurons_read(library: Any, name: str) -> None:
    x = np.random.default_rng(1).normal(0, 2, (3, 5, 40)).astype(np.float32)
    apart, joined, operators = run_both(layer_values(CHAINS[name]), x)
    assert operators == ["LayerNormalization", "Cast", "FusedValues"]
    assert np.array_equal(bits(apart), bits(joined))


def test_one_operation_alone_stays(library: Any) -> None:
    x = np.ones((1, 2, 40), np.float32)
    assert "FusedValues" not in run_both(layer_values([("Mul", "third")]), x)[2]


def test_channels_of_an_axis_that_may_be_shorter_are_not_joined(library: Any) -> None:
    """A last axis of 1 would be repeated along the constants, which a kernel does not do."""
    model = chain([("Neg",), ("Mul", "theta"), ("Floor",)], 6)
    model.graph.node[0].CopyFrom(helper.make_node("Abs", ["x"], ["y0"]))
    apart, joined, operators = run_both(model, np.full((2, 3, 1), 0.7, np.float32))
    assert operators == ["Abs", "Neg", "Mul", "FusedCurrents"]
    assert np.array_equal(apart, joined)
    assert apart.shape == (2, 3, 6)


def test_what_something_else_reads_stays(library: Any) -> None:
    model = chain(GRID, 8)
    model.graph.output.append(onnx.ValueInfoProto(name="y3"))
    operators = run_both(model, np.ones((2, 2, 8), np.float32))[2]
    assert operators == ["LayerNormalization", "Div", "Clip", "Mul", "FusedCurrents"]


def gelu_nodes(value: str, to: str) -> list[onnx.NodeProto]:
    """A GELU as torch's exporter writes it."""
    return [
        helper.make_node("Div", [value, "root"], ["g0"]),
        helper.make_node("Erf", ["g0"], ["g1"]),
        helper.make_node("Add", ["g1", "one"], ["g2"]),
        helper.make_node("Mul", ["half", "g2"], ["g3"]),
        helper.make_node("Mul", [value, "g3"], [to]),
    ]


def test_a_gelu_is_as_near_as_floats_are(library: Any) -> None:
    """No runtime gives the error function of another, so it is no bits that are compared."""
    model = layer_values([("Mul", "third"), ("Add", "one")])
    del model.graph.node[-1]
    model.graph.node.extend(gelu_nodes("y1", "y2"))
    x = np.random.default_rng(0).normal(0, 1, (50, 8, 40)).astype(np.float32)
    apart, joined, operators = run_both(model, x)
    assert operators == ["LayerNormalization", "Cast", "FusedValues"]
    assert np.abs(apart - joined).max() <= 6e-7 * np.abs(apart).max()
    assert np.abs(apart).max() > 5


def test_sessions_join_what_an_exported_model_has(library: Any) -> None:
    choice = choose_kernels(chain(GRID, 16))
    assert choice.operators == {LIF}
    assert choice.applied(chain(GRID, 16))[1] == {LIF, "FusedCurrents"}
