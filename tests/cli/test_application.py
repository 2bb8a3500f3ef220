import os
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
    return CliRunner().invoke(app, arguments, prog_name="sxq")


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


def test_the_package_runs_as_the_command():
    def told(*arguments):
        call = [sys.executable, "-m", "snn_extreme_quant", *arguments]
        result = subprocess.run(call, capture_output=True, text=True, check=False)
        return result.returncode, result.stdout, result.stderr

    assert told("--version") == (0, f"snn-extreme-quant {sxq.__version__}\n", "")
    wrong = "sxq: error: No such command 'dmeo'. Did you mean 'demo'? See sxq --help.\n"
    assert told("dmeo") == (2, "", wrong)


def test_unknown_command_is_a_usage_error():
    result = run("dmeo")
    assert result.exit_code == 2
    assert result.stderr == "sxq: error: No such command 'dmeo'. Did you mean 'demo'? See sxq --help.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nope"],
        ["--debug", "run", "--nope"],
        ["run"],
        ["run", "a.onnx"],
        ["run", "a.onnx", "--input", "x.npy", "--native", "perhaps"],
        ["export", "m:f", "-o", "f.onnx", "--sample", "1", "--decay-bits", "many"],
        ["inspect", "a.onnx", "b.onnx"],
        ["plugins", "x"],
        ["verify", "m:f", "a.onnx"],
        ["demo", "--seed", "-1"],
    ],
)
def test_wrong_usage_is_one_line(arguments):
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("sxq: error: ")
    assert line.endswith(" --help.")


def test_without_a_command_the_help_is_shown():
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.rstrip() == run("--help").stdout.rstrip()


def test_a_bug_shows_where_it_is_and_is_no_answer(failing, monkeypatch, capsys):
    failing(KeyError("nobody foresaw"))
    monkeypatch.setattr(sys, "argv", ["sxq", "plugins", "--json"])
    with pytest.raises(SystemExit) as left:
        main()
    written = capsys.readouterr()
    assert (left.value.code, written.out) == (2, "")
    assert "KeyError: 'nobody foresaw'" in written.err


def test_a_closed_standard_output_is_no_error():
    code = "import os\nos.close(1)\nimport sys\nsys.stdout = None\nfrom snn_extreme_quant.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_said_in_a_line():
    program = "from snn_extreme_quant.cli import main; main()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program, "plugins"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == "sxq: error: standard output cannot be written: no space is left where it goes.\n"


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["plugins"], ["plugins", "--json"]])
def test_a_closed_pipe_is_no_answer(arguments):
    """Nobody reads: the status is that of SIGPIPE, not 1, and nothing is said."""
    reading, writing = os.pipe()
    os.close(reading)
    program = "from snn_extreme_quant.cli import main; main()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


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
    assert result.output == "sxq: error: Two plugins are called 'x' [bold]; uninstall one.\n"


def test_debug_lets_the_error_through(failing):
    failing(PluginError("broken"))
    assert isinstance(run("--debug", "plugins").exception, PluginError)


def test_a_missing_optional_package_is_named_with_its_extra(failing):
    failing(ModuleNotFoundError("No module named 'onnxruntime.capi'", name="onnxruntime.capi"))
    result = run("plugins")
    assert result.exit_code == 2
    assert result.output == 'sxq: error: onnxruntime is not installed; run: pip install "snn-extreme-quant[onnx]"\n'


def test_a_missing_package_that_is_not_optional_is_a_bug_and_shown_as_one(failing):
    failing(ModuleNotFoundError("No module named 'nowhere'", name="nowhere"))
    assert isinstance(run("plugins").exception, ModuleNotFoundError)


@pytest.mark.parametrize(("distribution", "extra"), sorted(set(EXTRAS.values())))
def test_extras_exist(distribution, extra):
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert any(r.startswith(distribution) for r in pyproject["project"]["optional-dependencies"][extra])
