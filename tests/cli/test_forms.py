"""Files of every form through every command: streaming, counts, integer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import snn_extreme_quant
from snn_extreme_quant.cli.models import build_model
from snn_extreme_quant.deploy import FileRun, run_file
from snn_extreme_quant.errors import SampleError
from snn_extreme_quant.neurons import SpikeTrain

Run = Callable[..., Any]
EXPORT = ("--sample", "6,3,16", "--input", "spikes")


def facts_of(result: Any) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# Integer files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def integer_file(sxq: Run, here: Path, tmp_path: Path) -> Path:
    path = tmp_path / "integer.onnx"
    options = ("--integer", "--decay-bits", "12", "--max-steps", "64")
    facts = facts_of(sxq("export", "cli_models:quantised", *EXPORT, *options, "-o", path, "--json"))
    assert [layer["operator"][:6] for layer in facts["layers"]] == ["Ternar", "IntLIF"] * 2
    assert [(e["name"], e["decay_bits"]) for e in facts["fixed_point"]] == [("1", 12), ("3", 12)]
    return path


def test_an_integer_file_is_verified(sxq: Run, here: Path, integer_file: Path) -> None:
    command = ("verify", "cli_models:quantised", integer_file, "--data", "x.npy")
    facts = facts_of(sxq(*command, "--json"))
    integer = facts["integer"]
    assert integer["torch_compared"] == integer["compared"] == facts["spikes_compared"] == 648
    assert integer["torch_different"] == 0
    assert integer["agreement"] == 1 - integer["different"] / 648
    assert (integer["samples"], facts["samples"]) == (3, 3)
    assert "golden model" in sxq(*command).stdout
    assert facts_of(sxq("verify", "cli_models:quantised", "net.onnx", "--data", "x.npy", "--json"))["integer"] is None


def test_an_integer_file_of_another_model(sxq: Run, here: Path, integer_file: Path) -> None:
    command = ("verify", "cli_models:other", integer_file, "--precision", "ternary", "--data", "x.npy")
    result = sxq(*command, "--json")
    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    assert not facts["ok"]
    different = facts["integer"]["torch_different"]
    assert facts["spikes_different"] == different > 0
    assert facts["integer"]["agreement"] < 1
    first = facts["first_difference"]
    assert first["golden_spike"] == first["file_spike"] == 1 - first["torch_spike"]
    shown = sxq(*command)
    assert shown.exit_code == 1
    assert f": {different} of 648 spikes differ ({different} between" in shown.stdout.splitlines()[0]
    assert f"first difference: layer {first['layer']!r}, step {first['step']}, sample {first['sample']}" in shown.stdout


def test_an_integer_file_is_inspected(sxq: Run, here: Path, integer_file: Path) -> None:
    facts = facts_of(sxq("inspect", integer_file, "--json"))
    assert (facts["form"], facts["integer"], facts["takes"]) == ("sequence", True, "spikes, 0 and 1")
    assert facts["types"] == {"input": "float32", "output": "float32"}
    found = {layer["name"]: layer["fixed_point"] for layer in facts["layers"]}
    assert found["0"] is found["2"] is None
    for name in ("1", "3"):
        entry = found[name]
        assert set(entry) == {"fraction", "decay_bits", "current", "potential", "headroom", "max_steps"}
        assert (entry["decay_bits"], entry["max_steps"]) == (12, None)
        assert max(entry["current"], entry["potential"]) * 2 ** entry["headroom"] == pytest.approx(2**30, rel=0.01)
    text = sxq("inspect", integer_file).stdout
    for word in ("integers only", "leak bits", "any number", "IntLIF_leak_gt_subtract_delayed"):
        assert word in text
    assert "leak bits" not in sxq("inspect", "net.onnx").stdout


def test_an_integer_file_runs(sxq: Run, here: Path, integer_file: Path) -> None:
    facts = facts_of(sxq("run", integer_file, "--input", "x.npy", "--spikes", "--json"))
    assert facts["counted_steps"] is None
    assert {layer["name"]: layer["type"] for layer in facts["layers"]} == {"1": "uint8", "3": "uint8"}
    found = run_file(integer_file, np.load("x.npy"), spikes=True)
    assert np.array_equal(found.spikes["3"], found.outputs["output"])


# Counts --------------------------------------------------------------------------------------------------------------


def synchronous(sxq: Run, path: Path, form: str, kind: str) -> Path:
    sample = "8,3,16" if kind == "spikes" else "3,16"
    options = ("--sample", sample, "--input", kind, "--form", form, "-o", path)
    result = sxq("export", "cli_models:synchronous", *options)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture
def train(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    np.save(tmp_path / "train.npy", (rng.random((8, 3, 16)) < 0.4).astype(np.float32))
    return tmp_path / "train.npy"


def test_counts_are_verified_and_run(sxq: Run, here: Path, tmp_path: Path, train: Path) -> None:
    path = synchronous(sxq, tmp_path / "counts.onnx", "counts", "spikes")
    assert facts_of(sxq("verify", "cli_models:synchronous", path, "--data", train, "--json"))["spikes_compared"] == 120
    out = tmp_path / "y.npz"
    facts = facts_of(sxq("run", path, "--input", train, "--spikes", "--output", out, "--json"))
    assert facts["counted_steps"] == 8
    saved, spikes = np.load(out), np.load(train)
    model = build_model("cli_models:synchronous", None, None, None)
    with torch.no_grad():
        expected = model(torch.from_numpy(spikes).mean(0))
        with snn_extreme_quant.schedule(model, "spikes"):
            trains = [model[:depth](SpikeTrain(torch.from_numpy(spikes))) for depth in (2, 4)]
    assert np.array_equal(saved["output"], expected)
    for name, value in zip(("1", "3"), trains, strict=True):
        assert saved[f"spikes.{name}"].dtype == np.int16
        assert np.array_equal(saved[f"spikes.{name}"], value.spikes.sum(0).numpy())
    assert saved["spikes.3"].min() < 0 < saved["spikes.3"].max()
    rates = {layer["name"]: layer["firing_rate"] for layer in facts["layers"]}
    assert rates == {name: pytest.approx(np.abs(saved[f"spikes.{name}"]).mean() / 8) for name in ("1", "3")}
    assert "numbers of spikes in 8 steps" in sxq("run", path, "--input", train, "--spikes").stdout


def test_counts_take_rates_too(sxq: Run, here: Path, tmp_path: Path, train: Path) -> None:
    path, spikes = synchronous(sxq, tmp_path / "counts.onnx", "counts", "spikes"), np.load(train)
    assert facts_of(sxq("inspect", path, "--json"))["takes"] == "rates of spikes, multiples of 1/8 from 0 to 1"
    found = [run_file(path, value).outputs["output"] for value in (spikes, spikes.astype(bool), spikes.mean(0))]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    for value, message in (
        (spikes[:7], "counts the spikes of 8 steps; the input has 7"),
        (spikes * 0.5, "not 0 and 1 only"),
        (spikes.mean(0) * 0.3, "multiples of 1/8 from 0 to 1"),
        (spikes.mean(0) + 1, "multiples of 1/8 from 0 to 1"),
        (spikes.mean(0) - 1, "multiples of 1/8 from 0 to 1"),
        (spikes.mean(0) * np.nan, "NaN"),
        (spikes[..., :15], r"\(B, 16\); got \(3, 15\)"),
        (spikes[0, 0], r"\(B, 16\); got \(16,\)"),
    ):
        with pytest.raises(SampleError, match=message):
            run_file(path, value)


@pytest.mark.parametrize("kind", ["real", "spikes"])
def test_both_schedules_fire_the_same(sxq: Run, here: Path, tmp_path: Path, train: Path, kind: str) -> None:
    x = np.load(train) if kind == "spikes" else np.load(train)[0] * 0.7
    files = [synchronous(sxq, tmp_path / f"{form}.onnx", form, kind) for form in ("counts", "sequence")]
    counts, steps = (run_file(path, x, spikes=True) for path in files)
    assert (counts.counted_steps, steps.counted_steps) == (8, None)
    assert np.array_equal(counts.outputs["output"], steps.outputs["output"])
    for name in ("1", "3"):
        assert steps.spikes[name].shape == (8, *counts.spikes[name].shape)
        assert np.array_equal(steps.spikes[name].sum(0), counts.spikes[name])
        assert steps.firing_rate(name) == pytest.approx(counts.firing_rate(name))


# Streaming -----------------------------------------------------------------------------------------------------------


def test_a_streaming_file_is_inspected(sxq: Run, here: Path, tmp_path: Path) -> None:
    path = tmp_path / "step.onnx"
    assert sxq("export", "cli_models:quantised", *EXPORT, "--form", "streaming", "-o", path).exit_code == 0
    facts = facts_of(sxq("inspect", path, "--json"))
    assert (facts["form"], facts["integer"]) == ("streaming", False)
    assert facts["states"] == [
        {"name": "1.v", "shape": ["B", 32], "dtype": "float32", "initial": 0.0},
        {"name": "3.v", "shape": ["B", 4], "dtype": "float32", "initial": 0.0},
    ]
    assert facts["inputs"] == {"input": ["B", 16], "1.v": ["B", 32], "3.v": ["B", 4]}
    text = sxq("inspect", path).stdout
    assert "before the first step" in text
    assert "input 1.v" not in text  # a state has its row in the table instead
    assert facts_of(sxq("inspect", "net.onnx", "--json"))["states"] == []


def test_a_streaming_file_of_integers(sxq: Run, here: Path, tmp_path: Path) -> None:
    path = tmp_path / "step.onnx"
    assert sxq("export", "cli_models:quantised", *EXPORT, "--integer", "--form", "streaming", "-o", path).exit_code == 0
    facts = facts_of(sxq("inspect", path, "--json"))
    assert (facts["form"], facts["integer"]) == ("streaming", True)
    assert {state["name"]: state["dtype"] for state in facts["states"]} == {"1.v": "int32", "3.v": "int32"}
    verified = facts_of(sxq("verify", "cli_models:quantised", path, "--data", "x.npy", "--json"))
    assert verified["integer"]["torch_different"] == 0
    assert {value.dtype.name for value in run_file(path, np.load("x.npy"), spikes=True).spikes.values()} == {"uint8"}


# What cannot be ------------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_said_in_a_line(sxq: Run, here: Path, tmp_path: Path) -> None:
    cases: dict[str, tuple[tuple[str, ...], str]] = {
        "no integer file": (("--decay-bits", "8"), "--decay-bits is of integer files: add --integer"),
        "no integer file, steps": (("--max-steps", "8"), "--max-steps is of integer files"),
        "too many bits": (("--integer", "--decay-bits", "40"), "use a number from 1 to 30"),
        "no steps": (("--integer", "--max-steps", "0"), "max_steps=0"),
        "nothing to count": (("--form", "counts"), "form='counts' is for models of synchronous neurons"),
        "raw input": (("--integer", "--input", "real"), "FixedPointInput"),
    }
    for name, (options, said) in cases.items():
        result = sxq("export", "cli_models:quantised", *EXPORT, *options, "-o", tmp_path / "n.onnx", "--json")
        assert result.exit_code == 2, f"{name}: {result.output}"
        assert result.stdout == "", name
        errors = [line for line in result.stderr.splitlines() if line.startswith("sxq: error: ")]
        assert len(errors) == 1, f"{name}: {result.stderr}"
        assert said in errors[0], f"{name}: {errors[0]}"
    assert not (tmp_path / "n.onnx").exists()


def test_damaged_facts_are_left_out(sxq: Run, here: Path, integer_file: Path, tmp_path: Path) -> None:
    """An edited file is shown as far as it can be read."""
    model = onnx.load(integer_file)
    (entry,) = (e for e in model.metadata_props if e.key == "snn_extreme_quant")
    facts = json.loads(entry.value)
    facts["fixed_point"] = [{**facts["fixed_point"][0], "fraction": "many"}, 7, {"name": 3}, facts["fixed_point"][1]]
    facts |= {"states": [{"name": "v"}, None], "schedule": 4}
    entry.value = json.dumps(facts)
    onnx.save(model, tmp_path / "edited.onnx")
    shown = facts_of(sxq("inspect", tmp_path / "edited.onnx", "--json"))
    assert shown["edited"]
    assert [layer["name"] for layer in shown["layers"] if layer["fixed_point"]] == ["3"]
    assert shown["states"] == []
    assert sxq("inspect", tmp_path / "edited.onnx").exit_code == 0


def test_a_rate_of_nothing() -> None:
    assert FileRun("", {}, {"n": np.zeros((0, 3))}).firing_rate("n") == 0.0
