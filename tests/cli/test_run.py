from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from snn_extreme_quant.cli.streams import plain_warnings
from snn_extreme_quant.deploy import native_status, run_file, session
from snn_extreme_quant.errors import NativeLibraryError, SampleError

Run = Callable[..., Any]


def test_outputs_and_spikes(sxq: Run, here: Path, tmp_path: Path) -> None:
    out = tmp_path / "y.npz"
    result = sxq("run", "net.onnx", "--input", "x.npy", "--spikes", "--output", out, "--native", "no", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    expected = session("net.onnx", native=False).run(None, {"input": np.load("x.npy")})[0]
    saved = np.load(out)
    assert set(saved.files) == {"output", "spikes.1", "spikes.3"}
    assert np.array_equal(saved["output"], expected)
    assert np.array_equal(saved["spikes.3"], expected)
    (entry,) = facts["outputs"]
    assert (entry["shape"], entry["type"], entry["min"], entry["max"]) == ([6, 3, 4], "float32", 0.0, 1.0)
    rates = {layer["name"]: layer["firing_rate"] for layer in facts["layers"]}
    assert rates == {name: pytest.approx(saved[f"spikes.{name}"].mean()) for name in ("1", "3")}


def test_a_table_for_people(sxq: Run, here: Path) -> None:
    result = sxq("run", "net.onnx", "--input", "x.npy", "--spikes")
    assert result.exit_code == 0
    assert "(6, 3, 32)" in result.stdout
    assert "firing rate" in result.stdout
    assert "layers" not in json.loads(sxq("run", "net.onnx", "--input", "x.npy", "--json").stdout)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float64])
def test_inputs_are_converted_where_nothing_is_lost(here: Path, kind: Any) -> None:
    x = np.load("x.npy")
    outputs = [run_file("net.onnx", value, native=False).outputs["output"] for value in (x, x.astype(kind))]
    assert np.array_equal(*outputs)


def test_what_would_lose_digits_is_refused(here: Path, tmp_path: Path) -> None:
    model = onnx.load("net.onnx")
    graph = model.graph
    graph.input[0].name, graph.input[0].type.tensor_type.elem_type = "ids", onnx.TensorProto.INT32
    graph.node.insert(0, onnx.helper.make_node("Cast", ["ids"], ["input"], to=onnx.TensorProto.FLOAT))
    onnx.save(model, tmp_path / "ids.onnx")
    assert run_file(tmp_path / "ids.onnx", np.load("x.npy"), allow_edited=True, native=False).outputs
    for value in (np.full((1, 1, 16), 0.5), np.full((1, 1, 16), 2**40), np.zeros((1, 1, 16), complex)):
        with pytest.raises(SampleError, match="int32"):
            run_file(tmp_path / "ids.onnx", value, allow_edited=True, native=False)


def test_what_is_wrong_is_said_in_a_line(sxq: Run, here: Path, tmp_path: Path) -> None:
    x = np.load("x.npy")
    np.save(tmp_path / "narrow.npy", x[..., :15])
    np.save(tmp_path / "flat.npy", x[0])
    np.save(tmp_path / "empty.npy", x[:0])
    np.save(tmp_path / "half.npy", x * 0.5)
    np.save(tmp_path / "complex.npy", x * 1j)
    np.savez(tmp_path / "two.npz", a=x, b=x)
    model = onnx.load("net.onnx")
    model.graph.node[0].doc_string = "edited"
    onnx.save(model, tmp_path / "edited.onnx")
    good = ["--input", "x.npy"]
    cases: dict[str, tuple[list[object], str]] = {
        "no file": (["no_such.onnx", *good], "cannot be read"),
        "edited": ([tmp_path / "edited.onnx", *good], "was changed after it was exported"),
        "no input": (["net.onnx", "--input", "no.npy"], "cannot be read"),
        "narrow": (["net.onnx", "--input", tmp_path / "narrow.npy"], "(T, B, 16); got (6, 3, 15)"),
        "flat": (["net.onnx", "--input", tmp_path / "flat.npy"], "(T, B, 16); got (3, 16)"),
        "empty": (["net.onnx", "--input", tmp_path / "empty.npy"], "got (0, 3, 16)"),
        "no spikes": (["net.onnx", "--input", tmp_path / "half.npy"], "not 0 and 1 only"),
        "complex": (["net.onnx", "--input", tmp_path / "complex.npy"], "numbers are needed"),
        "two": (["net.onnx", "--input", tmp_path / "two.npz"], "takes one input, 'input'; got 'a', 'b'"),
        "nothing": (["net.onnx"], "Say what net.onnx is run on"),
        "twice": (["net.onnx", "input=x.npy", "input=x.npy"], "given twice"),
        "named and not": (["net.onnx", "input=x.npy", "x.npy"], "without a name"),
        "no npz": (["net.onnx", *good, "--output", tmp_path / "y.npy"], ".npz"),
        "no folder": (["net.onnx", *good, "--output", tmp_path / "no" / "y.npz"], "does not exist"),
    }
    for name, (arguments, said) in cases.items():
        result = sxq("run", *arguments, "--json")
        assert result.exit_code == 2, f"{name}: {result.output}"
        assert result.stdout == "", name
        assert said in result.stderr, f"{name}: {result.stderr}"
        assert len(result.stderr.splitlines()) == 1, f"{name}: {result.stderr}"
    assert sxq("run", tmp_path / "edited.onnx", *good, "--allow-edited").exit_code == 0
    assert sxq("run", "net.onnx", *good, "--native", "perhaps").exit_code == 2


def test_a_streaming_file_gives_what_the_sequence_gives(sxq: Run, here: Path, tmp_path: Path) -> None:
    options = ("--sample", "6,3,16", "--input", "spikes", "--form", "streaming", "-o", tmp_path / "step.onnx")
    assert sxq("export", "cli_models:quantised", *options).exit_code == 0
    assert sxq("verify", "cli_models:quantised", tmp_path / "step.onnx", "--data", "x.npy").exit_code == 0
    whole, steps = (run_file(path, np.load("x.npy"), spikes=True) for path in ("net.onnx", tmp_path / "step.onnx"))
    assert np.array_equal(whole.outputs["output"], steps.outputs["output"])
    assert all(np.array_equal(value, steps.spikes[name]) for name, value in whole.spikes.items())
    with pytest.raises(SampleError, match=r"\(T, B, 16\); got \(3, 16\)"):
        run_file(tmp_path / "step.onnx", np.load("x.npy")[0])


def test_native_kernels_are_told(sxq: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*options: str) -> tuple[dict[str, Any], str]:
        result = sxq("run", "net.onnx", "--input", "x.npy", "--json", *options)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout), result.stderr

    facts, said = told("--native", "no")
    assert (facts["native"], said) == (False, "")
    assert "with native kernels" not in facts["runtime"]
    if native_status().available:
        facts, said = told()
        assert facts["native"]
        assert facts["native_detail"].endswith("kernels compute 4 of 4 nodes of snn.extreme_quant")
        assert facts["runtime"].endswith("with native kernels")
        assert said == f"sxq: native kernels: {facts['native_detail']}\n"

    def cannot() -> Any:
        raise NativeLibraryError("There is no compiler.")

    monkeypatch.setattr(sys.modules["snn_extreme_quant.deploy.runtime.sessions"], "native_library", cannot)
    facts, said = told()
    assert (facts["native"], facts["native_detail"]) == (False, "There is no compiler.")
    assert said == "sxq: native kernels: not used: There is no compiler.\n"


#: Printed in every way there is: by Python, past it, by a library in C, by a child, and when the process ends.
LOUD = """
import atexit, ctypes, os, sys
print("printed")
os.write(1, b"written\\n")
ctypes.CDLL(None).puts(b"from C")
os.system("echo by a child")
sys.__stdout__.write("past the redirection")
atexit.register(lambda: print("at the end"))
from cli_models import quantised
"""


def test_warnings_of_ours_are_a_line_and_of_others_as_usual(capsys: pytest.CaptureFixture[str]) -> None:
    import snn_extreme_quant

    ours = str(Path(snn_extreme_quant.__file__).parent / "deploy" / "session.py")
    with warnings.catch_warnings(record=True) as caught, plain_warnings():
        warnings.simplefilter("always")
        warnings.warn_explicit("The functions run.", RuntimeWarning, ours, 1)
        warnings.warn_explicit("Mind the gap.", UserWarning, "theirs.py", 3)
    assert capsys.readouterr().err == "sxq: warning: The functions run.\n"
    (other,) = caught
    assert other.filename == "theirs.py"


def _fails_while_it_runs(path: Path) -> None:
    """Write a file that onnxruntime loads and that then takes 5 steps only, whatever it says of its input."""
    model = onnx.load("net.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([5, 3, 16]), "to"))
    model.graph.node[0].input[0] = "reshaped"
    model.graph.node.insert(0, onnx.helper.make_node("Reshape", ["input", "to"], ["reshaped"]))
    onnx.save(model, path)


def test_as_a_program(here: Path, tmp_path: Path) -> None:
    """The installed script's function in a process of its own: standard output is for results alone."""
    program = [sys.executable, "-c", "from snn_extreme_quant.cli import main; main()"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)

    (here / "loud.py").write_text(LOUD)
    verified = run("verify", "loud:quantised", "net.onnx", "--data", "x.npy", "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["ok"]
    for said in ("printed", "written", "from C", "by a child", "past the redirection", "at the end"):
        assert said in verified.stderr
    # Without onnxruntime's log and numpy's warnings.
    _fails_while_it_runs(tmp_path / "fails.onnx")
    failed = run("run", str(tmp_path / "fails.onnx"), "--input", "x.npy", "--allow-edited", "--json", "--native", "no")
    assert (failed.returncode, failed.stdout) == (2, "")
    (line,) = failed.stderr.splitlines()
    assert line.startswith(f"sxq: error: {tmp_path}/fails.onnx does not run on an input of shape (6, 3, 16)")


def test_no_step_and_no_sample(sxq: Run, here: Path, tmp_path: Path) -> None:
    for shape, said in (
        ((0, 5, 16), "At least one time step is needed"),
        ((5, 0, 16), "At least one sample is needed"),
    ):
        np.save(tmp_path / "empty.npy", np.zeros(shape, np.float32))
        result = sxq("run", "net.onnx", "--input", tmp_path / "empty.npy")
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in result.stderr
