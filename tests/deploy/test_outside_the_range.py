"""Indices that an embedding has no row for, and sequences without a step: every way to run a file refuses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import native_status, run_file, session
from snn_extreme_quant.errors import SampleError

snn = pytest.importorskip("snntorch")
ROWS = 9
IDS = torch.randint(0, ROWS, (4, 2), generator=torch.Generator().manual_seed(0))
RUNTIMES: list[Any] = [False, True] if native_status().available else [False]


def _model(quantised: bool = True) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(ROWS, 12), snn.Leaky(beta=0.9, threshold=0.3, init_hidden=True))
    if quantised:
        sxq.quantize_(model, sxq.Ternary())
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"integer": True}, {"form": "streaming"}, {"quantised": False}], ids=str)
def test_indices_outside_an_embedding(tmp_path: Path, options: dict[str, Any]) -> None:
    model, path = _model(options.pop("quantised", True)), tmp_path / "net.onnx"
    sxq.export_onnx(model, IDS, path, **options)
    assert sxq.verify(model, path, IDS).ok
    for wrong in (-1, -ROWS, ROWS, 2**40):
        ids = IDS.numpy().copy()
        ids[2, 1] = wrong
        for native in RUNTIMES:
            with pytest.raises(SampleError):
                run_file(path, ids, native=native)
        with pytest.raises(SampleError):
            sxq.verify(model, path, ids)


@pytest.mark.parametrize("integer", [False, True])
def test_a_sequence_without_a_step(tmp_path: Path, integer: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12), snn.Leaky(beta=0.9, threshold=0.3, init_hidden=True))
    sxq.quantize_(model, sxq.Ternary())
    path = tmp_path / "net.onnx"
    sxq.export_onnx(model, torch.zeros(4, 2, 5), path, input="spikes", integer=integer)
    for native in RUNTIMES:
        opened = session(path, native=native)
        name = opened.get_inputs()[0].name
        with pytest.raises(Exception, match="takes at least one time step; got none" if native else "Scan"):
            opened.run(None, {name: np.zeros((0, 2, 5), np.float32)})
        assert opened.run(None, {name: np.zeros((1, 2, 5), np.float32)})[0].shape == (1, 2, 12)
