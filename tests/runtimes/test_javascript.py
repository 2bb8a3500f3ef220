"""The same files give the same bits in onnxruntime-node and in onnxruntime-web, there in node and in Chromium."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.runtimes.cases import TYPES, Cases, compare, decode, encode, read
from tests.runtimes.tools import JAVASCRIPT, command


@pytest.fixture(params=JAVASCRIPT)
def runtime(request: pytest.FixtureRequest, node: str) -> str:
    if request.param == "chromium":
        request.getfixturevalue("chromium")
    return str(request.param)


def run(runtime: str, folder: Path, results: Path) -> dict[str, Any]:
    """Run a folder of cases; ``results`` is the file for what they give."""
    done = subprocess.run(command(runtime, folder, results), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    return found


def _check(runtime: str, folder: Path, results: Path) -> tuple[list[Any], dict[str, Any]]:
    entries = read(folder)
    found = run(runtime, folder, results)
    comparison = compare(entries, found["results"])
    assert comparison.failed == []
    assert comparison.files == len(entries)
    assert comparison.spikes > 1000
    assert comparison.different == 0
    return entries, found


def test_every_spike_is_the_same(runtime: str, folder_of_cases: Callable[..., Path], tmp_path: Path) -> None:
    entries, found = _check(runtime, folder_of_cases(every=False), tmp_path / "results.json")
    # The comparison is one of values: a spike that is turned over is found.
    spikes = next(i for i, entry in enumerate(entries) if entry["spikes"])
    outputs = found["results"][spikes]["outputs"]
    name = next(iter(outputs))
    outputs[name] = encode(1 - np.array(decode(outputs[name])))
    assert compare(entries, found["results"]).different > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_network_in_every_precision(runtime: str, folder_of_cases: Callable[..., Path], tmp_path: Path) -> None:
    _check(runtime, folder_of_cases(every=True), tmp_path / "results.json")


def test_a_damaged_file_is_an_error_and_the_next_file_runs(runtime: str, tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"not a model")
    case = {"name": "damaged", "file": "damaged.onnx", "spikes": False, "inputs": {}, "expected": {}}
    (tmp_path / "cases.json").write_text(json.dumps([case, case]), encoding="utf-8")
    found = run(runtime, tmp_path, tmp_path / "results.json")
    comparison = compare([case, case], found["results"])
    assert len(comparison.failed) == 2
    assert comparison.files == 0


def test_every_type_goes_there_and_back(runtime: str, tmp_path: Path) -> None:
    """Integers of all widths, with their extremes: JavaScript has other arrays for them, and BigInt for 64 bit."""
    cases, nodes, inputs, outputs, feeds = Cases(tmp_path), [], [], [], {}
    for name, dtype in TYPES.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        nodes.append(onnx.helper.make_node("Identity", [name], [f"{name}_out"]))
        inputs.append(onnx.helper.make_tensor_value_info(name, kind, ["n", 2]))
        outputs.append(onnx.helper.make_tensor_value_info(f"{name}_out", kind, ["n", 2]))
        whole = np.issubdtype(dtype, np.integer)
        ends = [np.iinfo(dtype).min, np.iinfo(dtype).max] if whole else [0, 1]
        feeds[name] = np.array([[0, 1], ends], dtype)
    graph = onnx.helper.make_graph(nodes, "types", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "types.onnx")
    cases.add_file("types", tmp_path / "types.onnx", feeds)
    cases.write()
    comparison = compare(cases.entries, run(runtime, tmp_path, tmp_path / "results.json")["results"])
    assert comparison.failed == []
    assert (comparison.values, comparison.different) == (4 * len(TYPES), 0)
