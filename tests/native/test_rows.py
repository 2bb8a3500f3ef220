"""Residuals and norms joined with the neurons that read them: the bits of the nodes apart, or as near as floats are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from snn_extreme_quant.deploy import session
from snn_extreme_quant.deploy.lowering.functions import DOMAIN
from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.deploy.runtime.native_choice import NativeChoice
from tests.deploy.bodies import Array, bits

from .test_currents import LIF, NUMBERS
from .test_fused import made

SETS = ["avx512", "avx2", "portable"]
#: What a value beside the currents is made of, and the kernel's number for it.
BESIDE = {"residual": 9, "carried": 10, "carried by one number": 10, "counted": 11}
#: What norms rows, and its number.
NORMS = {"LayerNormalization": 12, "ShiftNorm": 13}
#: What reads the result: neurons with their inputs and attributes, and the operator that they become.
ENDS: dict[str, tuple[list[str], dict[str, Any], str]] = {
    LIF: (["v0", "threshold"], {}, "FusedCurrents"),
    "SynchronousRounded": ([], {"top": 32, "zero_point": 16}, "FusedCounts"),
    "SynchronousFolded": (["theta", "bias"], {"top": 32.0}, "FusedCounts"),
    "SynchronousCounts": (["theta"], {"steps": 16.0}, "FusedCounts"),
    "SynchronousCounts_signed": (["theta"], {"steps": 16.0, "lowest": -16.0}, "FusedCounts"),
    "": ([], {}, "FusedValues"),
}


def chain(beside: str, norm: str, end: str, channels: int) -> onnx.ModelProto:
    """x, scaled, and what lies beside it; a norm; and what reads it."""
    nodes = [
        helper.make_node("Mul", ["x", "theta"], ["scaled"]), helper.make_node("Add", ["r", "bias"], ["sum"])
    ]  # fmt: skip
    read = "sum"
    if beside == "counted":
        rounded = {"domain": DOMAIN, "top": 32, "zero_point": 16}
        nodes.append(helper.make_node("SynchronousRounded", ["sum"], ["counts"], **rounded))
        nodes.append(helper.make_node("DequantizeLinear", ["counts", "sixteenth", "zero"], ["rates"]))
        read = "rates"
    if beside != "residual":
        factor = "third" if beside == "carried by one number" else "bias"
        nodes.append(helper.make_node("Mul", [read, factor], ["carried"]))
        read = "carried"
    nodes.append(helper.make_node("Add", ["scaled", read], ["added"]))
    value = "added"
    if norm == "LayerNormalization":
        nodes.append(helper.make_node(norm, [value, "weight", "bias"], ["normed"], axis=-1, epsilon=1e-3))
    else:
        nodes.append(helper.make_node(norm, [value], ["normed"], domain=DOMAIN))
    value = "normed"
    if norm == "ShiftNorm" and end != "SynchronousFolded":
        nodes += [helper.make_node("Cast", [value], ["cast"], to=onnx.TensorProto.FLOAT)]
        nodes += [helper.make_node("Mul", ["cast", "unit"], ["scaled_norm"])]
        value = "scaled_norm"
    inputs, attributes, _ = ENDS[end]
    if not end:
        nodes.append(helper.make_node("Mul", [value, "third"], ["last"]))
        value = "last"
    if end:
        nodes.append(helper.make_node(end, [value, *inputs], ["y"], "n", domain=DOMAIN, **attributes))
    rng = np.random.default_rng(channels)
    constants = {name: np.array(number) for name, number in NUMBERS.items()}
    for name in ("weight", "theta", "bias"):
        constants[name] = rng.uniform(0.2, 2, channels).astype(np.float32)
    constants |= {"unit": np.array(np.float32(2**-14)), "sixteenth": np.array(np.float32(1 / 16))}
    constants["zero"] = np.array(np.uint8(16))
    given = {name: np.zeros((1, 1, channels), np.float32) for name in "xr"}
    return made(nodes, given, constants, ["y" if end else value])


def run_both(model: onnx.ModelProto, given: dict[str, Array], threads: int = 1) -> tuple[Array, Array, onnx.ModelProto]:
    for entry in model.graph.input:
        dims = entry.type.tensor_type.shape
        del dims.dim[:]
        for _ in given[entry.name].shape:
            dims.dim.add()
    (apart,) = session(model, threads=1, native=False).run(None, given)
    changed, names = NativeChoice(frozenset(f.name for f in model.functions), frozenset()).applied(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    native_library().register(options, names)
    opened = onnxruntime.InferenceSession(changed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return apart, opened.run(None, given)[0], changed


def drawn(x: tuple[int, ...], r: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(x[-1])
    return {name: rng.normal(0, 3, shape).astype(np.float32) for name, shape in (("x", x), ("r", r))}


def programs_of(model: onnx.ModelProto) -> list[list[int]]:
    return [list(entry.ints) for node in model.graph.node for entry in node.attribute if entry.name == "program"]


def assert_near(found: Array, expected: Array, norm: str) -> None:
    """Whole numbers are the same; no runtime sums rows of floats as another."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if norm == "ShiftNorm":
        assert np.array_equal(bits(found), bits(expected))
    elif found.dtype == np.float32:
        assert np.abs(found - expected).max() <= 2e-5
    else:
        assert (found != expected).mean() < 0.01
    assert expected.std() > 0


#: Folded neurons read whole numbers.
CASES = [(n, end) for n in NORMS for end in ENDS if n == "ShiftNorm" or end != "SynchronousFolded"]


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize(("norm", "end"), CASES)
@pytest.mark.parametrize("beside", BESIDE)
def test_joined_rows(
    library: Any, monkeypatch: pytest.MonkeyPatch, beside: str, norm: str, end: str, instruction_set: str
) -> None:
    monkeypatch.setenv("SXQ_NATIVE_ISA", instruction_set)
    for shape in ((4, 3, 384), (20, 2, 70), (3, 1, 5)):
        expected, found, model = run_both(chain(beside, norm, end, shape[-1]), drawn(shape, shape))
        operator = ENDS[end][2]
        assert operator in [node.op_type for node in model.graph.node]
        assert any({BESIDE[beside], NORMS[norm]} <= set(program) for program in programs_of(model))
        if end == LIF and norm != "ShiftNorm":  # a spike that comes a step later is as near as floats are
            assert (found != expected).mean() < 0.01
        else:
            assert_near(found, expected, norm)


#: Shapes of the currents, and of what is added to them.
SHAPES = [
    ((4, 3, 8), (1, 3, 8)),
    ((1, 3, 8), (4, 3, 8)),
    ((3, 8), (4, 3, 8)),
    ((4, 3, 8), (8,)),
    ((4, 1, 8), (1, 3, 8)),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("x", "r"), SHAPES)
@pytest.mark.parametrize("end", [LIF, "SynchronousFolded", ""])
def test_rows_are_repeated(library: Any, end: str, x: tuple[int, ...], r: tuple[int, ...], threads: int) -> None:
    for beside in ("residual", "counted"):
        model = chain(beside, "ShiftNorm", end, 8)
        expected, found, _ = run_both(model, drawn(x, r), threads)
        assert_near(found, expected, "ShiftNorm")


def test_a_gelu_without_divisor_and_factor(library: Any) -> None:
    """As counts files of the reference profile have it."""
    nodes = [
        helper.make_node("Mul", ["x", "theta"], ["a"]), helper.make_node("Erf", ["a"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["m"]), helper.make_node("Mul", ["a", "m"], ["g"]),
        helper.make_node("Mul", ["g", "unit"], ["h"]),
        helper.make_node("SynchronousRounded", ["h"], ["y"], domain=DOMAIN, top=255, zero_point=100),
    ]  # fmt: skip
    constants = {"theta": np.full(40, 0.5, np.float32), "one": np.array(np.float32(1)), "unit": np.array(np.float32(8))}
    x = np.random.default_rng(0).normal(0, 6, (3, 5, 40)).astype(np.float32)
    x[0, 0, :6] = (0, -0.0, 40, -40, 1e-20, -1e-20)
    expected, found, model = run_both(made(nodes, {"x": np.zeros((1, 1, 1), np.float32)}, constants, ["y"]), {"x": x})
    # The first product has constants for channels that nothing is known about.
    assert [node.op_type for node in model.graph.node] == ["Mul", "FusedCounts"]
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert (found != expected).mean() < 0.01
    two = numpy_helper.from_array(np.array(np.float32(2)), "one")
    other = made(nodes, {"x": x}, {**constants, "one": numpy_helper.to_array(two)}, ["y"])
    assert "Erf" in [node.op_type for node in run_both(other, {"x": x})[2].graph.node]


@pytest.mark.parametrize("change", ["other axis", "two results", "read elsewhere", "unknown length"])
def test_what_is_not_joined(library: Any, change: str) -> None:
    model = chain("carried", "LayerNormalization", "SynchronousRounded", 8)
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    if change == "other axis":
        next(attribute for attribute in norm.attribute if attribute.name == "axis").i = 1
    elif change == "two results":
        norm.output.append("mean")
    elif change == "read elsewhere":
        model.graph.output.append(onnx.ValueInfoProto(name="normed"))
    else:
        for node in model.graph.node:
            if node.op_type == "Mul" and node.input[1] == "theta":
                node.input[1] = "third"
    changed, _ = NativeChoice(frozenset(f.name for f in model.functions), frozenset()).applied(model)
    joined = [program for program in programs_of(changed) if set(program) & {*BESIDE.values(), *NORMS.values()}]
    assert not joined or (change == "unknown length" and joined == [[12]])
