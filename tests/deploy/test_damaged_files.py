"""Files with flipped, lost and added bytes: only errors of our own."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import run_file
from snn_extreme_quant.errors import ModelFileError, SxqError
from snn_extreme_quant.exported.files import read_model
from snn_extreme_quant.exported.inspection import inspect_file

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
layer = pytest.importorskip("spikingjelly.activation_based.layer")
_X = (torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()


@pytest.fixture(scope="module", params=["sequence", "streaming"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    model = nn.Sequential(
        layer.Linear(4, 3, bias=False, step_mode="m"), neuron.IFNode(v_threshold=0.5, v_reset=None, step_mode="m")
    )
    sxq.quantize_(model, sxq.Ternary())
    path = tmp_path_factory.mktemp("damaged") / "net.onnx"
    sxq.export_onnx(model, _X, path, input="spikes", form=request.param)
    return path.read_bytes()


def _damaged(data: bytes, dice: random.Random) -> bytes:
    """Flip some bytes, mostly of names and of the metadata at the end; or lose some."""
    found = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8))):
        found[dice.randrange(len(found))] = dice.choice((0xFF, 0, dice.randrange(256)))
    if dice.random() < 0.2:
        start = dice.randrange(len(found))
        del found[start : start + dice.randrange(1, 64)]
    return bytes(found)


def test_damaged_files_give_our_errors(exported: bytes, tmp_path: Path) -> None:
    dice, path = random.Random(4), tmp_path / "net.onnx"
    for _ in range(400):
        damaged = _damaged(exported, dice)
        if damaged == exported:  # each flipped byte is the byte that was there
            continue
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError):
            read_model(path)
        for read in (inspect_file, lambda p: read_model(p, allow_edited=True)):
            with contextlib.suppress(ModelFileError):
                read(path)


def test_damaged_files_run_or_give_our_errors(exported: bytes, tmp_path: Path) -> None:
    dice, path, ran = random.Random(5), tmp_path / "net.onnx", 0
    for _ in range(120):
        path.write_bytes(_damaged(exported, dice))
        try:
            run_file(path, _X.numpy(), spikes=True, native=False, allow_edited=True)
            ran += 1
        except SxqError:
            continue
    assert ran  # some bytes are names alone
