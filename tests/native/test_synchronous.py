"""Synchronous neurons: each kernel gives what its body gives, and runs in whole networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.lowering.functions import DOMAIN
from snn_extreme_quant.deploy.runtime.native_choice import choose_kernels
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
