import json

import pytest
from typer.testing import CliRunner

from snn_extreme_quant.cli import app
from snn_extreme_quant.frameworks import PluginStatus


def run(*arguments, width=200):
    return CliRunner().invoke(app, ["plugins", *arguments], env={"COLUMNS": str(width)})


@pytest.fixture
def statuses(monkeypatch):
    def use(*found):
        monkeypatch.setattr("snn_extreme_quant.frameworks.plugin_statuses", lambda: list(found))

    return use


def test_both_frameworks_are_listed():
    result = run()
    assert result.exit_code == 0
    assert all(word in result.output for word in ("snntorch", "spikingjelly", "snn-extreme-quant"))


def test_json_has_origin_versions_and_state():
    result = run("--json")
    assert result.exit_code == 0
    entries = json.loads(result.output)
    assert [entry["name"] for entry in entries] == ["snntorch", "spikingjelly"]
    assert set(entries[0]) == {"name", "origin", "origin_version", "framework_version", "state", "detail"}


def test_disabled_plugins_are_shown_as_such(monkeypatch):
    monkeypatch.setenv("SXQ_PLUGINS", "none")
    result = run()
    assert result.exit_code == 0
    assert result.output.count("disabled") == 2
    assert [entry["state"] for entry in json.loads(run("--json").output)] == ["disabled"] * 2


def test_an_unknown_name_in_the_environment_is_an_error(monkeypatch):
    monkeypatch.setenv("SXQ_PLUGINS", "snntorhc")
    result = run()
    assert result.exit_code == 2
    assert "Did you mean 'snntorch'?" in result.output


def test_what_is_missing_comes_with_the_command_that_installs_it(statuses):
    detail = 'snntorch is not installed; run: pip install "snn-extreme-quant[snntorch]"'
    statuses(PluginStatus("snntorch", "snn-extreme-quant", "1", "unavailable", detail))
    result = run()
    assert result.exit_code == 0
    assert "unavailable" in result.output
    assert detail in result.output


def test_a_broken_plugin_is_shown_and_sets_the_exit_status(statuses):
    statuses(PluginStatus("other", "their-plugin", "2.0", "broken", "importing other:plugin failed: KeyError: 'x'"))
    result = run()
    assert result.exit_code == 1
    assert "broken" in result.output
    assert "their-plugin 2.0" in result.output
    assert run("--json").exit_code == 1


def test_no_plugin_at_all(statuses):
    statuses()
    assert "No plugin is installed" in run().output
    assert json.loads(run("--json").output) == []
