"""An input that a model does not take: hooks are spoken of only where the user set some."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import SampleError

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")


@pytest.mark.parametrize("hooked", [False, True])
def test_ids_out_of_range(tmp_path: Path, hooked: bool) -> None:
    model = nn.Sequential(
        nn.Embedding(5, 4), nn.BatchNorm1d(3), neuron.IFNode(v_threshold=0.5, v_reset=None, step_mode="m")
    ).eval()
    ids = torch.tensor([[0, 1, 2], [3, 4, 0]])
    sxq.export_onnx(model, ids, tmp_path / "net.onnx", calling="sequence")
    if hooked:
        model[0].register_forward_hook(lambda *_: None)
    with pytest.raises(SampleError, match="layer '0'") as refused:
        sxq.verify(model, tmp_path / "net.onnx", ids + 3)
    assert ("Forward hooks on '0'" in str(refused.value)) == hooked
