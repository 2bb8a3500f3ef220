"""Weights of every width: each layer is stored in its own, runs spike for spike, and damage to it is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.accounting import file_memory, weight_memory
from snn_extreme_quant.deploy import session
from snn_extreme_quant.exported.inspection import inspect_file
from snn_extreme_quant.exported.packed import damaged_weights
from snn_extreme_quant.quantizers.packing import LAYOUTS, pack
from tests.deploy.test_repacking import IDS, Everything

MIXES = {
    "low": {"table": 3, "twice": 5, "conv": 6, "back": 7, "binary": 3, "recurrent.*": 6},
    "high": {"table": 11, "twice": 9, "conv": 13, "back": 14, "binary": 10, "recurrent.*": 12},
}


def build(mix: str) -> tuple[nn.Module, sxq.PrecisionPlan]:
    torch.manual_seed(0)
    model = Everything()
    plan = sxq.PrecisionPlan({name: sxq.Uniform(bits) for name, bits in MIXES[mix].items()})
    sxq.quantize_(model, plan)
    return model, plan


@pytest.fixture(scope="module", params=MIXES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, nn.Module, Path]:
    model, _ = build(request.param)
    path = tmp_path_factory.mktemp("widths") / "net.onnx"
    sxq.export_onnx(model, IDS, path)
    return request.param, model, path


def test_each_layer_is_stored_in_its_width(exported: tuple[str, nn.Module, Path]) -> None:
    mix, model, path = exported
    report = inspect_file(path)
    assert not report.damage
    precisions = {layer.name: layer.precision for layer in report.layers if layer.precision}
    assert precisions == {name.removesuffix(".*"): f"{bits} bit" for name, bits in MIXES[mix].items()}
    bits = {name.removesuffix(".*"): bits for name, bits in MIXES[mix].items()}
    stored = {i.name: tuple(i.dims) for i in onnx.load(path).graph.initializer if i.name.endswith(".packed")}
    for name, shape in stored.items():
        layer = name.removesuffix(".packed").removesuffix(".recurrent")
        columns = {"table": 12, "twice": 12, "conv": 7, "back": 1, "binary": 6, "recurrent": 6}[layer]
        assert shape[1] == LAYOUTS[f"int{bits[layer]}"].packed_columns(columns)
    predicted = weight_memory(model)
    scalars = 200  # thresholds, leaks and first states of five layers of neurons, axes of operators
    assert 0 <= file_memory(path).weights - predicted.total <= scalars


def test_it_runs_spike_for_spike(exported: tuple[str, nn.Module, Path]) -> None:
    _, model, path = exported
    report = sxq.verify(model, path, IDS)
    assert report.ok, str(report)
    assert report.firing_rate > 0.02
    plain = session(path, native=False).run(None, {"input": IDS.numpy()})[0]
    assert np.array_equal(session(path, native="auto").run(None, {"input": IDS.numpy()})[0], plain)


def test_one_code_that_is_none(exported: tuple[str, nn.Module, Path]) -> None:
    """The sign alone: the digit of no code."""
    mix, _, path = exported
    model = onnx.load(path)
    assert list(damaged_weights(model)) == []
    layout = LAYOUTS[f"int{MIXES[mix]['twice']}"]
    (tensor,) = (i for i in model.graph.initializer if i.name == "twice.packed")
    packed = numpy_helper.to_array(tensor).copy()
    packed[5] = pack([[-layout.largest] * 12], layout.name)[0]
    packed[5, 0] &= 0xFE
    tensor.raw_data = packed.tobytes()
    assert list(damaged_weights(model)) == ["twice"]


@pytest.mark.parametrize("mix", MIXES)
def test_integer_files(tmp_path: Path, mix: str) -> None:
    model, _ = build(mix)
    sxq.export_onnx(model, IDS, tmp_path / "net.onnx", integer=True)
    assert sxq.verify(model, tmp_path / "net.onnx", IDS).ok
    precisions = {layer.precision for layer in inspect_file(tmp_path / "net.onnx").layers}
    assert {f"{bits} bit" for bits in MIXES[mix].values()} <= precisions
