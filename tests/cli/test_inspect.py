from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

Run = Callable[..., Any]


def test_layers_operators_and_sizes(sxq: Run, here: Path) -> None:
    result = sxq("inspect", "net.onnx", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert not facts["edited"]
    assert facts["file_bytes"] == (here / "net.onnx").stat().st_size
    assert facts["inputs"] == {"input": ["T", "B", 16]}
    assert (facts["opset"], facts["ir_version"]) == (18, 8)
    assert facts["facts"]["input"] == "spikes"
    first, neuron, *_ = facts["layers"]
    assert (first["name"], first["operator"], first["precision"]) == ("0", "TernaryLinearInteger", "ternary, 2 bit")
    assert (first["shape"], first["bytes"], first["exact"]) == ([32, 16], 16 * 8 + 4 * 32, True)
    assert (neuron["kind"], neuron["shape"], neuron["why"]) == ("neuron", [], "computed from exact sums")
    graph = onnx.load(here / "net.onnx").graph
    assert sum(entry["count"] for entry in facts["operators"]) == len(graph.node)
    sizes = facts["sizes"]
    assert (sizes["codes"], sizes["packed_bytes"]) == (16 * 32 + 32 * 4, 16 * 8 + 32 * 1)
    assert sizes["float_bytes"] == facts["file_bytes"] - sizes["packed_bytes"] + 4 * sizes["codes"]


def test_a_table_for_people(sxq: Run, here: Path) -> None:
    result = sxq("inspect", "net.onnx")
    assert result.exit_code == 0
    for word in ("as it was exported", "TernaryLinearInteger", "32x16", "sums of 16 spikes", "snn.extreme_quant"):
        assert word in result.stdout


def test_an_edited_file_is_called_so(sxq: Run, here: Path, tmp_path: Path) -> None:
    model = onnx.load(here / "net.onnx")
    model.graph.node[0].doc_string = "edited"
    onnx.save(model, tmp_path / "edited.onnx")
    assert "changed after it was exported" in sxq("inspect", tmp_path / "edited.onnx").stdout
    assert json.loads(sxq("inspect", tmp_path / "edited.onnx", "--json").stdout)["edited"]


def test_float_layers_are_shown_too(sxq: Run, here: Path, tmp_path: Path) -> None:
    result = sxq("export", "cli_models:build", "--sample", "6,3,16", "-o", tmp_path / "n.onnx")
    assert result.exit_code == 0, result.output
    facts = json.loads(sxq("inspect", tmp_path / "n.onnx", "--json").stdout)
    floats = [layer for layer in facts["layers"] if layer["kind"] == "float"]
    assert sorted(layer["bytes"] for layer in floats) == [4 * 32 * 4, 4 * 16 * 32]
    assert facts["sizes"] == {"packed_bytes": 0, "codes": 0, "float_bytes": facts["file_bytes"], "ratio": 1.0}


def test_what_is_wrong_is_said_in_a_line(sxq: Run, here: Path, tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"\xff\xff\xff\xff")
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "other", [x], [y])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    cases = [("missing.onnx", "cannot be read"), ("no.onnx", "not an ONNX model"), ("other.onnx", "not written by")]
    for name, said in cases:
        result = sxq("inspect", tmp_path / name, "--json")
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_damaged_file_is_shown_as_far_as_it_goes(sxq: Run, here: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    data = (here / "net.onnx").read_bytes()
    path.write_bytes(data[: data.index(b"snn_extreme_quant.sha256") - 200])
    result = sxq("inspect", path, "--json")
    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    assert [layer["name"] for layer in facts["layers"]] == ["0", "1", "2", "3"]
    assert any("is cut off" in what for what in facts["damage"])
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"sxq: error: {path} is damaged: ")
    shown = sxq("inspect", path)
    assert shown.exit_code == 1
    assert "TernaryLinearInteger" in shown.stdout
    assert json.loads(sxq("inspect", "net.onnx", "--json").stdout)["damage"] == []


def test_it_imports_neither_torch_nor_onnxruntime(here: Path) -> None:
    code = (
        "import sys\nfrom snn_extreme_quant.cli import app\n"
        "try:\n    app(['inspect', 'net.onnx', '--json'], standalone_mode=False)\n"
        "finally:\n    print(sorted({'torch', 'onnxruntime', 'brevitas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert json.loads(done.stdout)["sizes"]["codes"] == 640
