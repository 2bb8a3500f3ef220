"""Synchronous neurons: each kernel gives what its body gives, and runs in whole networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, function_body
from snn_extreme_quant.deploy.runtime.native_choice import choose_kernels
from snn_extreme_quant.deploy.runtime.native_steps import STEP_COUNTS, STEP_SUMS
from snn_extreme_quant.models import SpikingBert, SpikingBertConfig
from tests.deploy.bodies import Array, model_of
from tests.deploy.test_synchronous_networks import made
from tests.operators.synchronous import currents

from .running import assert_same, native_session

UINT8 = onnx.TensorProto.UINT8
SHAPES = [(1,), (0,), (7,), (3, 50), (2, 0, 5), (2, 3, 4, 33), (40, 700)]


def check_neurons(steps: int, signed: bool, shape: tuple[int, ...], channels: int = 0) -> None:
    thresholds = np.random.default_rng(3).uniform(0.2, 2, channels).astype(np.float32)
    x, constants = {"x": currents(shape)}, {"threshold": thresholds if channels else np.array(0.7, np.float32)}
    lowest = -float(steps) if signed else 0.0
    rates = {"steps": float(steps), "lowest": lowest, "inverse_steps": 1 / steps}
    assert_same("SynchronousRates", x, constants, [len(shape)], **rates)
    assert_same("SynchronousSpikes", x, constants, [len(shape) + 1], steps=float(steps), lowest=lowest)
    name = "SynchronousCounts_signed" if signed else "SynchronousCounts"
    counts = {"steps": float(steps), **({"lowest": lowest} if signed else {})}
    assert_same(name, x, constants, [len(shape)], output_type=UINT8, **counts)


def folded(shape: tuple[int, ...], channels: int) -> tuple[dict[str, Array], dict[str, Array]]:
    rng = np.random.default_rng(1)
    gain, offset = (rng.normal(0, scale, channels).astype(np.float32) for scale in (0.1, 5))
    return {"x": rng.integers(-400, 400, shape, dtype=np.int32)}, {"gain": gain, "offset": offset}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(library: Any, shape: tuple[int, ...]) -> None:
    check_neurons(16, False, shape)
    check_neurons(4, True, shape)
    for channels in {1, shape[-1]}:
        check_neurons(4, True, shape, channels)
        check_neurons(16, False, shape, channels)
        assert_same("SynchronousFolded", *folded(shape, channels), [len(shape)], output_type=UINT8, top=32.0)


@pytest.mark.parametrize("steps", [1, 64, 128])
def test_each_instruction_set(instruction_set: str, steps: int) -> None:
    check_neurons(steps, False, (3, 300))
    check_neurons(min(steps, 64), True, (3, 300))
    check_neurons(min(steps, 64), True, (70, 300), 300)
    assert_same("SynchronousFolded", *folded((9, 77), 77), [2], output_type=UINT8, top=255.0)


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"gain": np.ones(3, np.float32), "offset": np.ones(4, np.float32)}, "for each of 4 neurons"),
        ({"gain": np.ones(3, np.float32), "offset": np.ones(3, np.float32)}, "for each of 4 neurons"),
        ({"gain": np.ones((1, 4), np.float32), "offset": np.ones((1, 4), np.float32)}, "for each of 4 neurons"),
    ],
)
def test_other_gains_are_refused(library: Any, constants: dict[str, Array], message: str) -> None:
    given = {"x": np.ones((2, 4), np.int32), **constants}  # no constants: their shapes are seen when it runs
    model = model_of("SynchronousFolded", given, {}, [2], UINT8, top=8.0)
    with pytest.raises(Exception, match=message):
        native_session(model, "SynchronousFolded").run(None, given)


@pytest.mark.parametrize("shape", [(3,), (1, 4), (0,)])
def test_other_thresholds_are_refused(library: Any, shape: tuple[int, ...]) -> None:
    given = {"x": np.ones((2, 4), np.float32), "threshold": np.ones(shape, np.float32)}
    model = model_of("SynchronousCounts", given, {}, [2], UINT8, steps=8.0)
    with pytest.raises(Exception, match="for each of 4 neurons"):
        native_session(model, "SynchronousCounts").run(None, given)


def test_counts_beyond_a_byte_are_refused(library: Any) -> None:
    x, constants = folded((2, 4), 4)
    with pytest.raises(Exception, match="no byte"):
        native_session(model_of("SynchronousFolded", x, constants, [2], UINT8, top=300.0), "SynchronousFolded")


@pytest.mark.parametrize(("name", "signed"), [("perceptron", True), ("attention", False)])
def test_networks_run_natively(library: Any, name: str, signed: bool, tmp_path: Path) -> None:
    net, spikes = made(name, 8, signed)
    path = tmp_path / "net.onnx"
    sxq.export_onnx(net, spikes, path, form="counts", input="spikes")
    report = sxq.verify(net, path, spikes, native=True)
    assert report.ok, str(report)

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    library.register(options, choose_kernels(onnx.load(str(path))).operators)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    left = [node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node if node.domain == DOMAIN]
    # Neurons by our kernels; products of counts by onnxruntime's own.
    assert left
    assert set(left) <= {"SynchronousFolded", "SynchronousCounts", "SynchronousRates"}


@pytest.mark.parametrize(("name", "signed"), [("perceptron", True), ("attention", False), ("convolutional", False)])
@pytest.mark.parametrize("config", [sxq.Ternary(), sxq.Binary(), sxq.Uniform(4)], ids=str)
def test_all_steps_run_natively(library: Any, name: str, signed: bool, config: Any, tmp_path: Path) -> None:
    """Every spike is the same, and the steps are added before the products of the model's inside."""
    net, spikes = made(name, 8, signed, config)
    path = tmp_path / "net.onnx"
    sxq.export_onnx(net, spikes, path, form="sequence", input="spikes")
    report = sxq.verify(net, path, spikes, native=True)
    assert report.ok, str(report)
    assert report.firing_rate > 0
    model = onnx.load(str(path))
    opened, names = choose_kernels(model).applied(model)
    operators = [node.op_type for node in opened.graph.node]
    counted = [operator for operator in operators if operator.endswith("LinearCounts")]
    assert bool(counted) == (config != sxq.Uniform(4))  # wider codes might saturate in pairs of products
    assert STEP_COUNTS in names if counted else STEP_COUNTS not in operators


def network_of_steps(signed: bool, steps: float, scale: float, grid: float = 1.0, read: str = "y") -> onnx.ModelProto:
    """Synchronous neurons and a product of theirs, whose steps are added."""
    kind = "TernaryLinearIntegerSigned" if signed else "TernaryLinearInteger"
    scales = ", ".join(3 * [f"{scale}"])
    lowest = -steps if signed else 0.0
    graph = onnx.parser.parse_graph(
        f"""net (float[n, 4] x) => (float[n, 3] {read})
        <float threshold = {{0.5}}, float[3] scale = {{{scales}}}, int64[1] front = {{0}},
         uint8[4, 1] packed = {{33, 18, 9, 36}}> {{
            spikes = {DOMAIN}.SynchronousSpikes <steps: float = {steps}, lowest: float = {lowest}> (x, threshold)
            product = {DOMAIN}.{kind} <grid: float = {grid}, inverse_grid: float = {1 / grid}> (spikes, packed, scale)
            summed = ReduceSum <keepdims: int = 0> (product, front)
            all = ReduceSum <keepdims: int = 0> (spikes, front)
            y = Identity (summed)
            z = Identity (all)
        }}"""
    )
    functions = [function_body("SynchronousSpikes"), function_body(kind)]
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)]
    return onnx.helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("steps", "fits"), [(1.0, True), (64.0, True), (128.0, None)])
def test_sums_of_steps_fit_a_byte(library: Any, signed: bool, steps: float, fits: bool | None) -> None:
    model = network_of_steps(signed, steps, 1.0)
    x = {"x": np.random.default_rng(0).normal(0, 1, (5, 4)).astype(np.float32)}
    _, names = choose_kernels(model).applied(model)
    assert (STEP_COUNTS in names) == (not signed if fits is None else fits)
    expected, found = (sxq.deploy.session(model, native=native).run(None, x) for native in (False, True))
    assert np.array_equal(expected[0], found[0])
    assert np.abs(expected[0]).max() >= 1


@pytest.mark.parametrize(("options", "message"), [({"scale": 0.5}, "a scale"), ({"scale": 1.0, "grid": 2.0}, "a grid")])
def test_rounded_products_keep_their_steps(library: Any, options: dict[str, float], message: str) -> None:
    """Only sums of whole numbers do not depend on the order."""
    _, names = choose_kernels(model := network_of_steps(True, 8.0, **options)).applied(model)
    assert STEP_COUNTS not in names, message


@pytest.mark.parametrize("shape", [(3,), (1, 4), (0, 5), (4, 0, 2), (8, 3, 33), (2, 9, 700), (64, 5000)])
def test_steps_are_added(instruction_set: str, shape: tuple[int, ...]) -> None:
    spikes = np.random.default_rng(0).integers(-1, 2, shape).astype(np.float32)
    expected = spikes.sum(0)
    for operator, kind, told in ((STEP_SUMS, 1, {}), (STEP_COUNTS, UINT8, {"zero_point": 64})):
        node = onnx.helper.make_node(operator, ["x"], ["y"], domain=DOMAIN, **told)
        graph = onnx.helper.make_graph(
            [node], "net", [onnx.helper.make_tensor_value_info("x", 1, shape)],
            [onnx.helper.make_tensor_value_info("y", kind, shape[1:])],
        )  # fmt: skip
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(DOMAIN, 1)], ir_version=8)
        (found,) = native_session(model, operator).run(None, {"x": spikes})
        assert np.array_equal(found, expected + told.get("zero_point", 0))


def test_a_spiking_bert_of_all_steps(library: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = SpikingBertConfig(
        vocab=40, layers=2, hidden=32, heads=2, ffn=48, profile="integer", T=4, weights="ternary"
    )
    model, ids = SpikingBert(config).eval(), torch.randint(40, (3, 9))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    sxq.export_onnx(model, batch, tmp_path / "net.onnx", form="sequence")
    report = sxq.verify(model, tmp_path / "net.onnx", [batch], native=True)
    assert report.ok, str(report)
    assert report.firing_rate > 0.02
