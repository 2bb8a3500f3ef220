"""Damaged files: what can be read of them is shown, and what cannot is said."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import session
from snn_extreme_quant.errors import ModelFileError
from snn_extreme_quant.exported.files import METADATA_KEY
from snn_extreme_quant.exported.inspection import inspect_file
from snn_extreme_quant.exported.packed import damaged_weights

snn = pytest.importorskip("snntorch")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    leaky = {"beta": 0.9, "init_hidden": True}
    model = nn.Sequential(nn.Linear(8, 6), snn.Leaky(**leaky), nn.Linear(6, 3), snn.Leaky(**leaky))
    sxq.quantize_(model, sxq.PrecisionPlan({"0": sxq.Ternary(), "2": sxq.Uniform(8)}))
    path = tmp_path_factory.mktemp("whole") / "net.onnx"
    sxq.export_onnx(model, torch.zeros(4, 2, 8), path, input="spikes")
    return path.read_bytes()


def test_wherever_a_file_is_cut_the_rest_is_read(whole: bytes, tmp_path: Path) -> None:
    path, layers = tmp_path / "net.onnx", []
    for length in range(1, len(whole), 37):
        path.write_bytes(whole[:length])
        try:
            report = inspect_file(path)
        except ModelFileError:
            layers.append(-1)
            continue
        assert report.damage
        assert report.edited
        layers.append(len(report.layers))
    assert sorted(layers) == layers, "the more there is of a file, the more is read"
    assert layers[-1] == 4
    assert set(layers) >= {-1, 1, 2, 3, 4}


def test_a_whole_file_has_no_damage(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(whole)
    report = inspect_file(tmp_path / "net.onnx")
    assert (report.damage, report.edited) == ((), False)


@pytest.mark.parametrize("facts", [None, "{", "[]", "7", '{"layers": 3}', '{"layers": [4, {"name": "0"}]}'])
def test_damaged_metadata(whole: bytes, tmp_path: Path, facts: str | None) -> None:
    model = onnx.load_model_from_string(whole)
    (entry,) = (e for e in model.metadata_props if e.key == METADATA_KEY)
    if facts is None:
        model.metadata_props.remove(entry)
    else:
        entry.value = facts
    onnx.save(model, tmp_path / "net.onnx")
    report = inspect_file(tmp_path / "net.onnx")
    assert any("metadata" in what for what in report.damage)
    assert report.layers[0].operator == "TernaryLinearInteger"
    if facts is None:
        assert (report.form, report.takes) == ("unknown", "unknown")


def test_a_damaged_node_is_left_out(whole: bytes, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(whole)
    places = [i for i in range(len(whole)) if whole.startswith(b"TernaryLinearInteger", i)]
    data = bytearray(whole)
    data[places[0]] = 0xFF  # no UTF-8 begins so
    (tmp_path / "net.onnx").write_bytes(bytes(data))
    report = inspect_file(tmp_path / "net.onnx")
    assert report.damage == ("some nodes of the graph cannot be read",)
    assert sum(entry.count for entry in report.operators) == len(model.graph.node) - 1


def _with_byte(whole: bytes, tensor: str, place: int, byte: int) -> onnx.ModelProto:
    model = onnx.load_model_from_string(whole)
    (packed,) = (t for t in model.graph.initializer if t.name == tensor)
    raw = bytearray(packed.raw_data)
    raw[place] = byte
    packed.raw_data = bytes(raw)
    return model


@pytest.mark.parametrize(("layer", "byte"), [("0", 0b11), ("0", 0b11000000), ("2", 255)])
@pytest.mark.parametrize("native", [False, "auto"])
def test_bytes_that_hold_no_codes_are_refused_by_every_session(
    whole: bytes, tmp_path: Path, layer: str, byte: int, native: bool
) -> None:
    model = _with_byte(whole, f"{layer}.packed", 0, byte)
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelFileError, match=f"the packed weights of layer '{layer}' hold what is no code"):
        session(model, native=native)  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match=r"net\.onnx is damaged"):
        session(tmp_path / "net.onnx", native=native)  # type: ignore[arg-type]
    assert any(f"layer '{layer}'" in what for what in inspect_file(tmp_path / "net.onnx").damage)


def test_what_fills_up_a_row_is_free(whole: bytes) -> None:
    """6 ternary codes are a byte and a half."""
    model = _with_byte(whole, "0.packed", 1, 0b11110000)
    assert list(damaged_weights(model)) == []
    assert session(model, native=False)


def test_weights_in_another_file_are_checked_too(whole: bytes, tmp_path: Path) -> None:
    model = _with_byte(whole, "0.packed", 0, 0b11)
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(ModelFileError, match="layer '0'"):
        session(tmp_path / "net.onnx", native=False)


@pytest.mark.parametrize("dims", [(8, 3), (4, 2)])
def test_weights_of_another_shape_than_they_say(whole: bytes, dims: tuple[int, int]) -> None:
    model = onnx.load_model_from_string(whole)
    (packed,) = (t for t in model.graph.initializer if t.name == "0.packed")
    packed.dims[:] = dims
    assert list(damaged_weights(model)) == ["0"]


def test_the_report_is_json(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(whole[:-300])
    assert json.dumps(inspect_file(tmp_path / "net.onnx").damage)
