"""The README's examples run as they stand, and its figures are those of the benchmarks."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import snn_extreme_quant as sxq
from snn_extreme_quant.cli import app
from snn_extreme_quant.cli.models import build_model

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["snntorch", "spikingjelly"])
def test_example(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert re.search(r"\b0 of [1-9]\d* spikes differ", printed)
    assert (tmp_path / "net.onnx").exists()


MODELS = """
import snntorch as snn
from torch import nn

def build():
    lif = {"beta": 0.9, "threshold": 0.3, "init_hidden": True}
    return nn.Sequential(nn.Linear(64, 32), snn.Leaky(**lif), nn.Linear(32, 10), snn.Leaky(**lif))

def accuracy(model):
    return 90.0
"""


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the README, one after the other, on a model, a checkpoint and data of those names."""
    commands = [shlex.split(line, comments=True)[1:] for line in re.findall(r"^sxq .*$", README, re.MULTILINE)]
    assert {command[0] for command in commands} == {
        "classify", "generate", "search", "plan", "export", "verify", "inspect", "run"
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_models.py").write_text(MODELS)
    torch.manual_seed(0)
    model = build_model("my_models.py:build", None, "ternary", None)
    sxq.save_checkpoint(model, tmp_path / "net.safetensors")
    np.save(tmp_path / "test_spikes.npy", (np.random.default_rng(0).random((8, 5, 64)) < 0.4).astype(np.float32))
    (tmp_path / "reviews.tsv").write_text("sentence\na witty film\ndull\n")
    for command in commands:
        result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
        assert result.exit_code == 0, f"{command}: {result.output}"
    sys.modules.pop("my_models", None)


def test_every_page_is_listed() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in README.partition("## More")[2], page.name


def test_examples_are_short() -> None:
    assert len(EXAMPLES) == 2
    for example in EXAMPLES:
        assert sum(1 for line in example.splitlines() if line.strip()) <= 15


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(((?!http)[^)]+)\)", README))))
def test_link(target: str) -> None:
    assert (ROOT / target.partition("#")[0]).exists()


def test_tables_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # the script imports its neighbours
    spec = importlib.util.spec_from_file_location("doc_tables", ROOT / "benchmarks" / "doc_tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for page in tables.PAGES:
        assert tables.render(page) == (ROOT / page).read_text(encoding="utf-8"), "run: python benchmarks/doc_tables.py"
