"""``sxq demo --quick``, once, from end to end."""

import json

import onnx
import pytest
import torch
from typer.testing import CliRunner

from snn_extreme_quant.cli import app

ROW = {
    "framework",
    "weights",
    "accuracy",
    "file_bytes",
    "spikes_compared",
    "spikes_different",
    "firing_rate",
    "latency_ms",
}
FRAMEWORKS = ("snntorch", "spikingjelly")
WEIGHTS = ("float", "ternary", "binary")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    threads = torch.get_num_threads()
    result = CliRunner().invoke(app, ["demo", "--quick", "--out", str(out), "--json", str(out / "rows.json")])
    assert result.exit_code == 0, result.output
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    return out, json.loads((out / "rows.json").read_text()), result.output


def test_there_is_a_row_for_each_framework_and_precision(demo):
    _, facts, _ = demo
    assert [(row["framework"], row["weights"]) for row in facts["rows"]] == [
        (f, w) for f in FRAMEWORKS for w in WEIGHTS
    ]
    assert all(set(row) == ROW for row in facts["rows"])
    assert facts["quick"] is True


def test_no_spike_of_a_quantised_network_differs(demo):
    _, facts, _ = demo
    quantised = [row for row in facts["rows"] if row["weights"] != "float"]
    assert [row["spikes_different"] for row in quantised] == [0] * 4
    neurons = 32 * 64 + 64 * 16 + 64 + 10
    assert {row["spikes_compared"] for row in quantised} == {facts["steps"] * facts["test_images"] * neurons}


def test_torch_classifies_like_the_files_do(demo):
    _, facts, _ = demo
    assert facts["torch_agrees"] >= 4


def test_even_short_training_is_far_above_chance(demo):
    _, facts, _ = demo
    assert min(row["accuracy"] for row in facts["rows"]) > 0.5
    assert all(0 < row["firing_rate"] < 1 for row in facts["rows"])


def test_the_files_are_small_where_the_weights_are(demo):
    out, facts, _ = demo
    for row in facts["rows"]:
        path = out / f"digits_{row['framework']}_{row['weights']}.onnx"
        onnx.checker.check_model(str(path))
        assert path.stat().st_size == row["file_bytes"]
        assert row["file_bytes"] < {"float": 400_000, "ternary": 40_000, "binary": 25_000}[row["weights"]]


def test_the_picture_is_a_png(demo):
    out, _, _ = demo
    data = (out / "sxq_demo.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    assert min(width, height) > 800


def test_the_output_has_the_table_and_how_to_read_it(demo):
    _, _, output = demo
    assert all(word in output for word in ("ternary", "binary", "--quick", "FixedPointInput", "1 thread", "batch 1"))
