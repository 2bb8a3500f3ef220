"""What is in an exported file, and what is not."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import onnx
import pytest
import snntorch as snn
import torch
from onnx import numpy_helper
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import session
from snn_extreme_quant.quantizers.packing import unpack


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        sxq.FixedPointInput(8, 4),
        nn.Conv2d(1, 6, 3, padding=1),
        snn.Leaky(0.5, threshold=0.4, init_hidden=True),
        nn.Flatten(),
        nn.Linear(6 * 16, 130),
        snn.Leaky(torch.rand(130), threshold=0.3, init_hidden=True),
        nn.Linear(130, 3),
        snn.Lapicque(beta=0.9, threshold=0.3, init_hidden=True),
    )


SAMPLE = torch.rand(5, 2, 1, 4, 4) * 3


@pytest.fixture(scope="module", params=["ternary", "binary"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[nn.Sequential, Path, int]:
    """A model, its file and how many codes are in a byte; the tests change none of them."""
    model, path = build(), tmp_path_factory.mktemp("exported") / "net.onnx"
    sxq.quantize_(model, sxq.Ternary() if request.param == "ternary" else sxq.Binary())
    sxq.export_onnx(model, SAMPLE, path)
    return model, path, 4 if request.param == "ternary" else 8


def test_versions_are_set(exported: tuple[nn.Sequential, Path, int]) -> None:
    file = onnx.load(exported[1])
    assert file.ir_version == 8
    assert {(i.domain, i.version) for i in file.opset_import} == {("", 18), ("snn.extreme_quant", 1)}
    onnx.checker.check_model(file, full_check=True)


def test_codes_and_scales_are_those_of_the_model(exported: tuple[nn.Sequential, Path, int]) -> None:
    model, path, per_byte = exported
    values = {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    for index in (1, 4, 6):
        codes, scale = model[index].integer_weight()
        packed = values[f"{index}.packed"]
        rows = codes[0].numel()
        assert packed.shape == (rows, math.ceil(codes.shape[0] / per_byte))
        layout = "ternary4" if per_byte == 4 else "binary8"
        assert torch.equal(
            torch.from_numpy(unpack(packed, codes.shape[0], layout).T.copy()), codes.flatten(1).to(torch.int8)
        )
        assert torch.equal(torch.from_numpy(values[f"{index}.scale"].copy()), scale)
    assert {"2.threshold", "2.decay", "5.decay", "7.inverse_rc"} <= set(values)


def test_no_float_weights_are_left(exported: tuple[nn.Sequential, Path, int]) -> None:
    floats = [
        (i.name, math.prod(i.dims))
        for i in onnx.load(exported[1]).graph.initializer
        if i.data_type == onnx.TensorProto.FLOAT and math.prod(i.dims) > 130
    ]
    assert floats == []


def test_nothing_of_this_machine_is_in_the_file(exported: tuple[nn.Sequential, Path, int]) -> None:
    file = onnx.load(exported[1])
    text = str(file)
    for word in ("site-packages", "torch", ".py", "stack", str(Path.cwd()), str(Path.home()), sys.prefix):
        assert word not in text, word
    assert {e.key for e in file.metadata_props} == {"snn_extreme_quant", "snn_extreme_quant.sha256"}
    assert not any(n.metadata_props or n.doc_string for n in file.graph.node)


def test_metadata(exported: tuple[nn.Sequential, Path, int]) -> None:
    facts = json.loads(next(e.value for e in onnx.load(exported[1]).metadata_props if e.key == "snn_extreme_quant"))
    assert facts["calling"] == "step"
    assert facts["time"] == "free"
    assert [entry["name"] for entry in facts["layers"]] == ["1", "2", "4", "5", "6", "7"]
    assert all(entry["exact"] for entry in facts["layers"])


def test_axes_are_named(exported: tuple[nn.Sequential, Path, int]) -> None:
    file = onnx.load(exported[1])
    (entry,), (result,) = file.graph.input, file.graph.output
    assert [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim] == ["T", "B", 1, 4, 4]
    assert [d.dim_param or d.dim_value for d in result.type.tensor_type.shape.dim] == ["T", "B", 3]


def test_export_is_reproducible(exported: tuple[nn.Sequential, Path, int], tmp_path: Path) -> None:
    model, path, _ = exported
    sxq.export_onnx(model, SAMPLE, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_packed_file_is_small(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(512, 512), snn.Leaky(0.9, init_hidden=True))
    float_bytes = sxq.export_onnx(model, torch.zeros(2, 2, 512), tmp_path / "float.onnx").file_bytes
    sxq.quantize_(model, sxq.Ternary())
    ternary = sxq.export_onnx(model, torch.zeros(2, 2, 512), tmp_path / "ternary.onnx")
    assert ternary.file_bytes == (tmp_path / "ternary.onnx").stat().st_size
    assert ternary.file_bytes < 0.075 * float_bytes


def test_layers_without_neurons_are_exported_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    sxq.quantize_(model, sxq.Ternary())
    report = sxq.export_onnx(model, torch.rand(3, 6), tmp_path / "net.onnx")
    assert report.input_shape == ("B", 6)
    (out,) = session(tmp_path / "net.onnx").run(None, {"input": torch.ones(7, 6).numpy()})
    assert torch.allclose(torch.from_numpy(out), model(torch.ones(7, 6)), atol=1e-5)


def test_report_names_the_cause_of_inexactness(tmp_path: Path) -> None:
    model = nn.Sequential(*build()[1:])
    sxq.quantize_(model, sxq.Ternary(), skip=["5"])
    report = sxq.export_onnx(model, SAMPLE, tmp_path / "net.onnx")
    assert not report.exact
    reasons = {layer.name: layer.reason for layer in report.layers}
    assert "sums real numbers" in reasons["0"]
    assert "layer '0'" in reasons["1"]
    fixed = nn.Sequential(sxq.FixedPointInput(8, 4), *model)
    reasons = {layer.name: layer for layer in sxq.export_onnx(fixed, SAMPLE, tmp_path / "net.onnx").layers}
    assert reasons["2"].exact
    assert reasons["5"].exact
    assert not reasons["7"].exact
    assert "float weights" in reasons["7"].reason


def test_fan_in_beyond_24_bits_is_not_called_exact(tmp_path: Path) -> None:
    model = nn.Sequential(sxq.FixedPointInput(16, 16), nn.Linear(300, 2), snn.Leaky(0.5, init_hidden=True))
    sxq.quantize_(model, sxq.Ternary())
    report = sxq.export_onnx(model, torch.rand(2, 2, 300), tmp_path / "net.onnx")
    assert not report.exact
    assert re.search("300 inputs.*24 bits", report.layers[0].reason)


def test_shape_only_and_spike_count_inputs_stay_exact(tmp_path: Path) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (snn.Leaky(0.5, threshold=0.2, init_hidden=True) for _ in range(3))
            self.fc = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            counts = self.a(x) + self.b(x) * 2.0
            return self.c(self.fc(torch.cat([counts, counts.flip(-1)], -1)[..., :8]))  # type: ignore[no-any-return]

    model = Counts()
    sxq.quantize_(model, sxq.Binary())
    report = sxq.export_onnx(model, torch.rand(3, 2, 4), tmp_path / "net.onnx")
    reasons = {layer.name: layer for layer in report.layers}
    assert reasons["a"].exact
    assert sxq.verify(model, tmp_path / "net.onnx", torch.rand(5, 3, 4)).spikes_different == 0


def test_fused_multiply_and_add_is_not_called_exact(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 5), snn.Leaky(0.5, init_hidden=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lif(torch.add(self.fc(x), x[..., :5], alpha=0.3))  # type: ignore[no-any-return]

    model = Scaled()
    sxq.quantize_(model, sxq.Ternary())
    report = sxq.export_onnx(model, torch.ones(3, 2, 6), tmp_path / "net.onnx", input="spikes")
    assert {layer.name: layer.exact for layer in report.layers} == {"fc": True, "lif": False}
