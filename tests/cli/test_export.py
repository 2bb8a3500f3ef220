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
from snn_extreme_quant.config import PrecisionPlan, WeightConfig
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.layers import IntegerFirst

Run = Callable[..., Any]


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node if node.domain == "snn.extreme_quant"]


@pytest.mark.parametrize("model", ["cli_models:quantised", "cli_models.py:quantised", "./cli_models.py:quantised"])
def test_a_model_is_found_by_module_and_by_file(sxq: Run, here: Path, tmp_path: Path, model: str) -> None:
    result = sxq("export", model, "--sample", "6,3,16", "--input", "spikes", "-o", tmp_path / "net.onnx", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)  # the module's own print is not in it
    assert facts["exact"]
    assert facts["file_bytes"] == (tmp_path / "net.onnx").stat().st_size
    assert facts["input_shape"] == ["T", "B", 16]
    assert [layer["operator"] for layer in facts["layers"]] == operators(tmp_path / "net.onnx")
    assert "a line that the user's module prints" in result.stderr
    assert (tmp_path / "net.onnx").read_bytes() == (here / "net.onnx").read_bytes()


def test_a_table_for_people(sxq: Run, here: Path, tmp_path: Path) -> None:
    result = sxq("export", "cli_models:build", "--precision", "binary", "--sample", "6,3,16", "-o", tmp_path / "n.onnx")
    assert result.exit_code == 0
    assert "BinaryLinear" in result.stdout
    assert "Not every spike is guaranteed" in result.stdout
    assert "sums real numbers" in result.stdout


def test_options_of_export_onnx(sxq: Run, here: Path, tmp_path: Path) -> None:
    options = ("--ternary-packing", "1.6bit", "--calling", "step", "--input", "spikes", "--precision", "ternary")
    result = sxq("export", "cli_models:build", "--sample", "6,3,16", "-o", tmp_path / "net.onnx", *options)
    assert result.exit_code == 0, result.output
    assert operators(tmp_path / "net.onnx")[0] == "Ternary5LinearInteger"


def test_indices_and_classes(sxq: Run, here: Path, tmp_path: Path) -> None:
    result = sxq(
        "export", "cli_models:Words", "--precision", "ternary", "--sample", "5,2:int64", "-o", tmp_path / "n.onnx"
    )
    assert result.exit_code == 0, result.output
    assert operators(tmp_path / "n.onnx")[0] == "TernaryEmbedding"
    np.save(tmp_path / "ids.npy", np.arange(10).reshape(5, 2) % 9)
    command = ("verify", "cli_models:Words", tmp_path / "n.onnx", "--precision", "ternary", "--data")
    assert sxq(*command, tmp_path / "ids.npy").exit_code == 0
    assert sxq("run", tmp_path / "n.onnx", "--input", tmp_path / "ids.npy").exit_code == 0


@pytest.mark.usefixtures("sxq", "here")
class TestModels:
    """Precision and weights of what MODULE:NAME and its options build."""

    def weights(self, name: str, checkpoint: Path | None = None, **options: Any) -> list[Any]:
        """Codes and scales of each layer."""
        chosen = {"precision": None, "plan": None} | options
        model = build_model(f"cli_models:{name}", checkpoint, **chosen)
        assert not model.training
        layers = [layer for layer in model.modules() if isinstance(layer, IntegerFirst)]
        return [(layer.config, *(value.tolist() for value in layer.integer_weight())) for layer in layers]

    @pytest.mark.parametrize(
        ("precision", "config"),
        [
            ("ternary", snn_extreme_quant.Ternary()),
            ("binary", snn_extreme_quant.Binary()),
            ("uniform:4", snn_extreme_quant.Uniform(4)),
            ("uniform", snn_extreme_quant.Uniform(8)),
        ],
    )
    def test_precisions(self, precision: str, config: WeightConfig) -> None:
        assert [layer[0] for layer in self.weights("build", precision=precision)] == [config] * 2

    def test_plans(self, tmp_path: Path) -> None:
        plan = PrecisionPlan({"0": snn_extreme_quant.Binary()}, snn_extreme_quant.Ternary())
        (tmp_path / "plan.json").write_text(plan.to_json())
        configs = [layer[0] for layer in self.weights("build", plan=tmp_path / "plan.json")]
        assert configs == [snn_extreme_quant.Binary(), snn_extreme_quant.Ternary()]

    def test_checkpoints(self, tmp_path: Path) -> None:
        """Weights of seed 1 into a model of seed 0: what comes out is that of seed 1."""
        expected = self.weights("other", precision="ternary")
        assert expected != self.weights("build", precision="ternary")
        model = build_model("cli_models:other", None, None, None)
        torch.save(model.state_dict(), tmp_path / "plain.pt")
        torch.save({"model_state_dict": model.state_dict(), "epoch": 3}, tmp_path / "wrapped.pt")
        snn_extreme_quant.save_checkpoint(model, tmp_path / "float.safetensors")
        snn_extreme_quant.quantize_(model, snn_extreme_quant.Ternary())
        snn_extreme_quant.save_checkpoint(model, tmp_path / "ours.safetensors")
        torch.save(model.state_dict(), tmp_path / "quantised.pt")
        for name in ("plain.pt", "wrapped.pt", "float.safetensors", "quantised.pt"):
            assert self.weights("build", tmp_path / name, precision="ternary") == expected, name
        assert self.weights("quantised", tmp_path / "plain.pt") == expected
        for built in ("build", "quantised"):
            assert self.weights(built, tmp_path / "ours.safetensors") == expected, built
        with pytest.raises(ConfigError, match="says what precision each layer has"):
            self.weights("build", tmp_path / "ours.safetensors", precision="binary")

    def test_learned_scales(self, tmp_path: Path) -> None:
        """A state_dict of a model with trained scales loads into a model quantised in the same way."""
        learned = snn_extreme_quant.Ternary(scale="learned")
        (tmp_path / "plan.json").write_text(PrecisionPlan({"*": learned}).to_json())
        model = build_model("cli_models:other", None, None, tmp_path / "plan.json")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.mul_(1.0 if "weight" in name.rpartition(".")[2] else 1.5)
        torch.save(model.state_dict(), tmp_path / "learned.pt")
        found = self.weights("build", tmp_path / "learned.pt", plan=tmp_path / "plan.json")
        assert found != self.weights("other", plan=tmp_path / "plan.json")
        layers = [layer for layer in model.modules() if isinstance(layer, IntegerFirst)]
        assert found == [(e.config, *(value.tolist() for value in e.integer_weight())) for e in layers]


def bad(here: Path, tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    """Wrong usage by name: arguments of ``export``, and what is said."""
    out, sample = ["-o", tmp_path / "net.onnx"], ["--sample", "6,3,16"]
    (tmp_path / "broken.py").write_text("import nothing_of_the_kind\n")
    (tmp_path / "wrong.py").write_text("def build(:\n")
    (tmp_path / "damaged.pt").write_bytes(b"PK\x03\x04 not a zip file")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x08\x00\x00")
    torch.save(Unsafe(), tmp_path / "object.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"0.weight": torch.zeros(2, 2)}, tmp_path / "strange.pt")
    np.save(tmp_path / "text.npy", np.array(["a"]))
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "plan.json").write_text("{}")
    model = ["cli_models:build"]
    return {
        "no colon": (["cli_models", *out, *sample], "write MODULE:NAME"),
        "no name": (["cli_models:", *out, *sample], "write MODULE:NAME"),
        "no module": (["cli_modelz:build", *out, *sample], "no module 'cli_modelz'"),
        "no file": (["cli_modelz.py:build", *out, *sample], "no file cli_modelz.py"),
        "no such name": (["cli_models:biuld", *out, *sample], "Did you mean 'build'?"),
        "a number": (["cli_models:number", *out, *sample], "is a int"),
        "gives a number": (["cli_models:gives_a_number", *out, *sample], "must give a torch.nn.Module"),
        "raises": (["cli_models:raises", *out, *sample], "raised ValueError: no such folder (cli_models.py, line"),
        "leaves": (["cli_models:leaves", *out, *sample], "raised SystemExit: 3"),
        "imports what is not there": ([f"{tmp_path}/broken.py:build", *out, *sample], "'nothing_of_the_kind'"),
        "not Python": ([f"{tmp_path}/wrong.py:build", *out, *sample], "SyntaxError"),
        "no shape": ([*model, *out, "--sample", "six"], "--sample six"),
        "an empty shape": ([*model, *out, "--sample", "6,0,16"], "--sample 6,0,16"),
        "a type that is none": ([*model, *out, "--sample", "6,3:int9"], "--sample 6,3:int9"),
        "another shape": ([*model, *out, "--sample", "6,3,15"], "does not accept an input of shape"),
        "text": ([*model, *out, "--sample", tmp_path / "text.npy"], "numbers are needed"),
        "pickled": ([*model, *out, "--sample", tmp_path / "object.npy"], "no array of numbers"),
        "no sample file": ([*model, *out, "--sample", "nowhere.npy"], "cannot be read"),
        "no folder": ([*model, "-o", tmp_path / "no" / "net.onnx", *sample], "does not exist"),
        "no precision": ([*model, *out, *sample, "--precision", "ternry"], "Did you mean 'ternary'?"),
        "no bits": ([*model, *out, *sample, "--precision", "uniform:four"], "uniform:4"),
        "too many bits": ([*model, *out, *sample, "--precision", "uniform:40"], "use 2 to 16"),
        "bits of ternary": ([*model, *out, *sample, "--precision", "ternary:2"], "no field 'bits'"),
        "both": ([*model, *out, *sample, "--precision", "binary", "--plan", "p.json"], "not both"),
        "no plan": ([*model, *out, *sample, "--plan", tmp_path / "plan.json"], "Not a precision plan"),
        "no checkpoint": ([*model, *out, *sample, "--checkpoint", "no.pt"], "no.pt cannot be read"),
        "damaged pt": ([*model, *out, *sample, "--checkpoint", tmp_path / "damaged.pt"], "no state_dict"),
        "an object": ([*model, *out, *sample, "--checkpoint", tmp_path / "object.pt"], "not loaded"),
        "a list": ([*model, *out, *sample, "--checkpoint", tmp_path / "list.pt"], "holds a list"),
        "of another model": ([*model, *out, *sample, "--checkpoint", tmp_path / "strange.pt"], "is not of this model"),
        "damaged": ([*model, *out, *sample, "--checkpoint", tmp_path / "damaged.safetensors"], "no safetensors file"),
    }  # fmt: skip


class Unsafe:
    """An object of a class: loading it would run code."""


def test_what_is_wrong_is_said_in_a_line(sxq: Run, here: Path, tmp_path: Path) -> None:
    cases = bad(here, tmp_path)
    before = set(tmp_path.iterdir())
    for name, (arguments, said) in cases.items():
        for more in ([], ["--json"]):
            result = sxq("export", *arguments, *more)
            assert result.exit_code == 2, f"{name}: {result.output}"
            assert result.stdout == "", name
            errors = [line for line in result.stderr.splitlines() if line.startswith("sxq: error: ")]
            assert len(errors) == 1, f"{name}: {result.stderr}"
            assert said in errors[0], f"{name}: {errors[0]}"
            assert "Traceback" not in result.stderr, name
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("arguments", [["cli_models:build"], ["cli_models:build", "--calling", "loop"]])
def test_usage(sxq: Run, here: Path, arguments: list[str]) -> None:
    result = sxq("export", *arguments, *([] if len(arguments) == 1 else ["--sample", "1,1,16", "-o", "n.onnx"]))
    assert result.exit_code == 2
    assert result.stderr.startswith("sxq: error: ")
    assert len(result.stderr.splitlines()) == 1
