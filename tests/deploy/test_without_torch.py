"""A device that only runs files needs numpy, onnx and onnxruntime: torch and the frameworks cannot be imported here."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import snntorch as snn
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant import deploy, neurons

ROOT = Path(__file__).parents[2]
#: What a device may lack: all of `pip install snn-extreme-quant[all]` but numpy, onnx, onnxruntime, typer and rich.
ABSENT = (
    "torch", "brevitas", "snntorch", "spikingjelly", "onnxscript", "onnx_ir", "safetensors", "scipy", "sklearn",
    "transformers", "accelerate", "matplotlib", "nir",
)  # fmt: skip
BLOCKED = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "plugins")!r}]
"""
STEPS, SAMPLES = 4, 3


def without_torch(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``code`` where nothing of ``ABSENT`` can be imported."""
    program = BLOCKED + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every form, an input, and what the files give where torch is there."""
    place = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    lif = {"beta": 0.9, "init_hidden": True}
    net = nn.Sequential(nn.Linear(12, 24), snn.Leaky(**lif), nn.Linear(24, 6), snn.Synaptic(alpha=0.5, **lif))
    sxq.quantize_(net, sxq.Ternary())
    spikes = torch.bernoulli(torch.full((STEPS, SAMPLES, 12), 0.4))
    sxq.export_onnx(net, spikes, place / "sequence.onnx", input="spikes")
    sxq.export_onnx(net, spikes, place / "streaming.onnx", input="spikes", form="streaming")
    sxq.export_onnx(net, spikes, place / "integer.onnx", input="spikes", integer=True)
    counting = nn.Sequential(nn.Linear(12, 24), sxq.SynchronousIF(STEPS), nn.Linear(24, 6), sxq.SynchronousIF(STEPS))
    sxq.quantize_(counting, sxq.Binary())
    sxq.export_onnx(counting, spikes, place / "counts.onnx", input="spikes", form="counts")
    np.save(place / "x.npy", spikes.numpy())
    for file in place.glob("*.onnx"):
        ran = deploy.run_file(file, spikes.numpy(), spikes=True)
        np.savez(place / f"{file.stem}.npz", **ran.outputs, **{f"spikes.{k}": v for k, v in ran.spikes.items()})
    return place


def test_the_blocker_blocks() -> None:
    assert "No module named 'torch'" in without_torch("import torch").stderr
    assert "No module named 'torch'" in without_torch("import snn_extreme_quant as sxq; sxq.quantize_").stderr


def test_opening_running_streaming_and_inspecting(folder: Path) -> None:
    done = without_torch(
        """
        from pathlib import Path

        import numpy as np
        import snn_extreme_quant as sxq
        from snn_extreme_quant.exported.inspection import inspect_file

        folder = Path(sys.argv[1])
        x = np.load(folder / "x.npy")
        status = sxq.deploy.native_status()
        assert status.available or status.reason
        for native in (False, "auto"):
            for name in ("sequence", "streaming", "integer", "counts"):
                file, known = folder / f"{name}.onnx", np.load(folder / f"{name}.npz")
                ran = sxq.deploy.run_file(file, x, spikes=True, native=native)
                found = {**ran.outputs, **{f"spikes.{k}": v for k, v in ran.spikes.items()}}
                assert set(found) == set(known) and len(ran.spikes) == 2
                for key, value in found.items():
                    np.testing.assert_array_equal(value, known[key])
                assert inspect_file(file).layers and not inspect_file(file).damage
            runtime = sxq.deploy.session(folder / "sequence.onnx", native=native)
            known = np.load(folder / "sequence.npz")
            np.testing.assert_array_equal(runtime.run(None, {runtime.get_inputs()[0].name: x})[0], known["output"])
            stream = sxq.deploy.Stream(folder / "streaming.onnx", native=native)
            np.testing.assert_array_equal(np.stack([stream.step(row)["output"] for row in x]), known["output"])
        print(sorted(set(sys.modules) & {"torch", "brevitas", "snntorch", "spikingjelly"}))
        """,
        folder,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("name", ["sequence", "streaming", "integer", "counts"])
def test_commands(folder: Path, name: str) -> None:
    file = folder / f"{name}.onnx"
    ran = without_torch(
        "from snn_extreme_quant.cli import main; main()",
        "run", file, "--input", folder / "x.npy", "--output", folder / f"{name}.found.npz", "--spikes", "--json",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert len(json.loads(ran.stdout)["layers"]) == 2
    found, known = np.load(folder / f"{name}.found.npz"), np.load(folder / f"{name}.npz")
    assert set(found) == set(known)
    assert all(np.array_equal(found[key], known[key]) for key in known)
    shown = without_torch("from snn_extreme_quant.cli import main; main()", "inspect", file)
    assert shown.returncode == 0, shown.stderr
    assert "as it was exported" in shown.stdout


def test_a_command_that_needs_torch_says_so(folder: Path) -> None:
    done = without_torch(
        "from snn_extreme_quant.cli import main; main()",
        "verify", "nowhere:net", folder / "sequence.onnx", "--data", folder / "x.npy",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "needs torch, which is not installed" in done.stderr


def test_a_model_of_another_kind_is_told_before_torch_is_missed() -> None:
    for model, words in (("sst2-ternary", "is a SpikingBERT"), ("nowhere", "nowhere is not there")):
        done = without_torch("from snn_extreme_quant.cli import main; main()", "generate", model)
        assert done.returncode == 2
        assert words in done.stderr
        assert "torch" not in done.stderr.replace("-", "")


@pytest.mark.parametrize("package", [sxq, deploy, neurons])
def test_no_lazy_name_is_that_of_a_module(package: object) -> None:
    """Importing the module would bind its name in the package, in the place of what is looked for."""
    modules = {path.stem for path in Path(package.__file__).parent.iterdir()}
    assert not modules & set(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)


def test_looking_around_ends_in_no_error() -> None:
    done = without_torch(
        """
        import inspect, pydoc
        import snn_extreme_quant as sxq
        from snn_extreme_quant import SxqError, VerifyReport
        from snn_extreme_quant.deploy import Difference, IntegerOptions
        for module in (sxq, sxq.deploy):
            inspect.getmembers(module)
            pydoc.plain(pydoc.render_doc(module))
        assert not hasattr(sxq, "quantize_") and not hasattr(sxq, "layers") and hasattr(sxq, "deploy")
        assert IntegerOptions(decay_bits=8).decay_bits == 8
        assert "a.onnx on x: 0 of 0 spikes differ" in str(VerifyReport("a.onnx", "x"))
        try:
            sxq.deploy.export_onnx
        except AttributeError as error:
            assert isinstance(error, SxqError)
            print(error)
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("snn_extreme_quant.deploy.export_onnx needs torch, which is not installed; install")


def test_the_verbs_stay_functions_whatever_was_imported_before() -> None:
    code = """
    import snn_extreme_quant.deploy.runtime.sessions, snn_extreme_quant.deploy.runtime.stream
    from snn_extreme_quant import deploy
    print(callable(deploy.session), callable(deploy.run_file), deploy.runtime.__name__)
    """
    assert without_torch(code).stdout.split() == ["True", "True", "snn_extreme_quant.deploy.runtime"]
