"""A module with models, a file of one of them, and data: what the commands are given."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from snn_extreme_quant.cli import app

SOURCE = """
import os
import torch
import snntorch as snn
from torch import nn
import snn_extreme_quant as sxq

print("a line that the user's module prints")
LIF = {"beta": 0.9, "threshold": 0.3, "init_hidden": True}

def build(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 32), snn.Leaky(**LIF), nn.Linear(32, 4), snn.Leaky(**LIF))

def other():
    return build(1)

def quantised():
    model = build()
    sxq.quantize_(model, sxq.Ternary())
    return model

def synchronous():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(16, 32), sxq.SynchronousIF(T=8, threshold=0.3),
        nn.Linear(32, 8), sxq.SynchronousIF(T=8, threshold=0.2, signed=True), nn.Linear(8, 4),
    )
    sxq.quantize_(model, sxq.Ternary())
    return model

def silent():
    return nn.Linear(16, 4)

class Words(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Embedding(9, 12), snn.Leaky(**LIF))

instance = build()
number = 3

def raises():
    raise ValueError("no such folder")

def leaves():
    raise SystemExit(3)

def gives_a_number():
    return 3
"""


@pytest.fixture
def sxq() -> Iterator[Callable[..., Any]]:
    """Run a command in this process; what it imports is forgotten afterwards."""
    path, modules = list(sys.path), set(sys.modules)
    yield lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if "cli_models" in name:
            del sys.modules[name]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module, its model exported, and inputs."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "cli_models.py").write_text(SOURCE)
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", (rng.random((6, 3, 16)) < 0.4).astype(np.float32))
    arguments = ["export", f"{folder}/cli_models.py:quantised", "--sample", str(folder / "x.npy")]
    result = CliRunner().invoke(app, [*arguments, "--input", "spikes", "-o", str(folder / "net.onnx")])
    assert result.exit_code == 0, result.output
    sys.modules.pop("cli_models", None)
    sys.path.remove(str(folder))
    return folder


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the current folder."""
    monkeypatch.chdir(made)
    return made
