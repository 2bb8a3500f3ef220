"""The command around the demo; the demo itself is in tests/demo."""

import sys

import pytest
from typer.testing import CliRunner

from snn_extreme_quant.cli import app
from snn_extreme_quant.demo import DemoReport, Row


def run(*arguments):
    return CliRunner().invoke(app, ["demo", *map(str, arguments)])


@pytest.mark.parametrize(("package", "distribution"), [("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")])
def test_a_missing_package_is_named_before_any_work(monkeypatch, tmp_path, package, distribution):
    for name in list(sys.modules):
        if name.startswith("snn_extreme_quant.demo") or name.partition(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    result = run("--out", tmp_path)
    assert result.exit_code == 2
    assert result.output == f'sxq: error: {distribution} is not installed; run: pip install "snn-extreme-quant[demo]"\n'
    assert list(tmp_path.iterdir()) == []


def test_without_a_framework_it_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("SXQ_PLUGINS", "none")
    result = run("--out", tmp_path)
    assert result.exit_code == 2
    assert "The demo needs snnTorch or SpikingJelly" in result.output


def test_an_output_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    result = run("--out", tmp_path / "file")
    assert result.exit_code == 2
    assert "--out" in result.output


def test_a_json_file_in_no_directory_is_refused(tmp_path):
    result = run("--out", tmp_path, "--json", tmp_path / "nowhere" / "rows.json")
    assert result.exit_code == 2
    assert "--json" in result.output


@pytest.mark.parametrize("different", [0, 1])
def test_a_spike_that_differs_sets_the_exit_status(monkeypatch, tmp_path, different):
    row = Row("snntorch", "binary", 0.99, 20_000, 1_000, different, 0.1, 0.2)
    report = DemoReport((row,), 0, False, 8, 1257, 540, 84_896, 1, (), tmp_path / "sxq_demo.png", 1.0)
    monkeypatch.setattr("snn_extreme_quant.demo.run_demo", lambda *_args, **_options: report)
    result = run("--out", tmp_path)
    assert result.exit_code == different
    assert ("this is a bug" in result.output) == bool(different)


def test_a_negative_seed_is_a_usage_error():
    assert run("--seed", "-1").exit_code == 2
