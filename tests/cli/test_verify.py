from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

Run = Callable[..., Any]


def test_the_same_network(sxq: Run, here: Path) -> None:
    result = sxq("verify", "cli_models:quantised", "net.onnx", "--data", "x.npy")
    assert result.exit_code == 0, result.output
    assert "0 of 648 spikes differ" in result.stdout
    assert "guaranteed" in result.stdout


def test_json(sxq: Run, here: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "more.npz", a=np.load("x.npy") > 0, b=np.ones((2, 1, 16)))
    data = ("--data", "x.npy", "--data", tmp_path / "more.npz")
    result = sxq("verify", "cli_models:quantised", "net.onnx", *data, "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["ok"]
    assert facts["samples"] == 3 + 3 + 1
    assert facts["spikes_compared"] == 36 * (6 * 3 + 6 * 3 + 2) == sum(e["compared"] for e in facts["layers"])
    assert facts["first_difference"] is None
    assert 0 < facts["firing_rate"] < 1


def test_another_network_differs(sxq: Run, here: Path) -> None:
    """Of the same shape, with other weights: status 1, and the first difference is named."""
    command = ("verify", "cli_models:other", "net.onnx", "--precision", "ternary", "--data", "x.npy")
    result = sxq(*command)
    assert result.exit_code == 1
    found = re.search(r"first difference: layer '(\d)', step (\d+), sample (\d+)", result.stdout)
    assert found is not None
    facts = json.loads(sxq(*command, "--json").stdout)
    assert not facts["ok"]
    assert facts["spikes_different"] > 0
    first = facts["first_difference"]
    assert [first["layer"], str(first["step"]), str(first["sample"])] == list(found.groups())
    assert {first["torch_spike"], first["file_spike"]} == {0.0, 1.0}


def test_an_edited_file(sxq: Run, here: Path, tmp_path: Path) -> None:
    """Refused; compared on demand, and then found to differ."""
    model = onnx.load("net.onnx")
    scale = next(i for i in model.graph.initializer if i.name == "0.scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(1.5), scale.name))
    onnx.save(model, tmp_path / "edited.onnx")
    command = ("verify", "cli_models:quantised", tmp_path / "edited.onnx", "--data", "x.npy")
    result = sxq(*command)
    assert result.exit_code == 2
    assert "was changed after it was exported" in result.stderr
    assert "--allow-edited" in result.stderr
    result = sxq(*command, "--allow-edited", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["first_difference"]["layer"] == "1"


def test_a_network_without_neurons_is_not_ok(sxq: Run, here: Path, tmp_path: Path) -> None:
    assert sxq("export", "cli_models:silent", "--sample", "3,16", "-o", tmp_path / "n.onnx").exit_code == 0
    np.save(tmp_path / "x.npy", np.ones((3, 16), np.float32))
    # Its weights are drawn anew by each call, too: outputs differ, and there is no spike.
    result = sxq("verify", "cli_models:silent", tmp_path / "n.onnx", "--data", tmp_path / "x.npy")
    assert result.exit_code == 1
    assert "No spike was compared" in result.stdout


def test_what_is_wrong_is_said_in_a_line(sxq: Run, here: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "narrow.npy", np.zeros((2, 1, 15), np.float32))
    np.save(tmp_path / "empty.npy", np.zeros((0, 1, 16), np.float32))
    np.save(tmp_path / "real.npy", np.full((2, 1, 16), 0.5, np.float32))
    np.save(tmp_path / "nan.npy", np.full((2, 1, 16), np.nan, np.float32))
    (tmp_path / "cut.onnx").write_bytes((here / "net.onnx").read_bytes()[:-900])
    (tmp_path / "no.onnx").write_bytes(b"GIF89a not a model")
    model, data = "cli_models:quantised", ["--data", "x.npy"]
    cases: dict[str, tuple[list[object], str]] = {
        "no file": ([model, "no_such.onnx", *data], "cannot be read"),
        "a folder": ([model, tmp_path, *data], "cannot be read"),
        "cut": ([model, tmp_path / "cut.onnx", *data], "cut.onnx"),
        "no model": ([model, tmp_path / "no.onnx", *data], "is not an ONNX model"),
        "no data": ([model, "net.onnx", "--data", "no_such.npy"], "cannot be read"),
        "no numbers": ([model, "net.onnx", "--data", "net.onnx"], "no array of numbers"),
        "another shape": ([model, "net.onnx", "--data", tmp_path / "narrow.npy"], "(T, B, 16); got (2, 1, 15)"),
        "no step": ([model, "net.onnx", "--data", tmp_path / "empty.npy"], "give at least one time step"),
        "no spikes": ([model, "net.onnx", "--data", tmp_path / "real.npy"], "not 0 and 1 only"),
        "not a number": ([model, "net.onnx", "--data", tmp_path / "nan.npy"], "NaN"),
        "another model": (["cli_models:Words", "net.onnx", *data], "is of another model"),
    }
    for name, (arguments, said) in cases.items():
        result = sxq("verify", *arguments, "--json")
        assert result.exit_code == 2, f"{name}: {result.output}"
        assert result.stdout == "", name
        assert said in result.stderr, f"{name}: {result.stderr}"
        assert "Traceback" not in result.stderr


def test_native(sxq: Run, here: Path) -> None:
    from snn_extreme_quant.deploy import native_status

    result = sxq("verify", "cli_models:quantised", "net.onnx", "--data", "x.npy", "--native", "--json")
    if not native_status().available:
        assert result.exit_code == 2
        pytest.skip(native_status().reason)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["runtime"].endswith("with native kernels")
