import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import snn_extreme_quant as sxq
from snn_extreme_quant.cli import app, main
from snn_extreme_quant.cli.application import EXTRAS
from snn_extreme_quant.errors import PluginError


def run(*arguments):
    return CliRunner().invoke(app, arguments)


@pytest.fixture
def failing(monkeypatch):
    def use(error):
        def raise_it():
            raise error

        monkeypatch.setattr("snn_extreme_quant.frameworks.plugin_statuses", raise_it)

    return use


def test_help_names_the_commands():
    result = run("--help")
    assert result.exit_code == 0
    assert {"demo", "export", "inspect", "plugins", "run", "verify", "--version", "--debug"} <= set(
        result.output.split()
    )


@pytest.mark.parametrize("command", ["demo", "export", "inspect", "plugins", "run", "verify"])
def test_each_command_has_help(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.output


def test_version():
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"snn-extreme-quant {sxq.__version__}\n")


def test_unknown_command_is_a_usage_error():
    result = run("dmeo")
    assert result.exit_code == 2
    assert "No such command" in result.output


def test_main_runs_the_application(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sxq", "--version"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    assert sxq.__version__ in capsys.readouterr().out


def test_help_imports_neither_torch_nor_what_is_optional():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom snn_extreme_quant.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        f"print(sorted({{'torch', 'numpy', *{list(EXTRAS)!r}}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_error_of_ours_is_one_line_and_exit_status_2(failing):
    failing(PluginError("Two plugins are called 'x'\n  [bold]; uninstall one."))
    result = run("plugins")
    assert result.exit_code == 2
    assert result.output == "Error: Two plugins are called 'x' [bold]; uninstall one.\n"


def test_debug_lets_the_error_through(failing):
    failing(PluginError("broken"))
    assert isinstance(run("--debug", "plugins").exception, PluginError)


def test_a_missing_optional_package_is_named_with_its_extra(failing):
    failing(ModuleNotFoundError("No module named 'onnxruntime.capi'", name="onnxruntime.capi"))
    result = run("plugins")
    assert result.exit_code == 2
    assert result.output == 'Error: onnxruntime is not installed; run: pip install "snn-extreme-quant[onnx]"\n'


def test_a_missing_package_that_is_not_optional_is_a_bug_and_shown_as_one(failing):
    failing(ModuleNotFoundError("No module named 'nowhere'", name="nowhere"))
    assert isinstance(run("plugins").exception, ModuleNotFoundError)


@pytest.mark.parametrize(("distribution", "extra"), sorted(set(EXTRAS.values())))
def test_extras_exist(distribution, extra):
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert any(r.startswith(distribution) for r in pyproject["project"]["optional-dependencies"][extra])
