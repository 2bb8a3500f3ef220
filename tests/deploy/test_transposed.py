"""Transposed convolutions with output padding, of which onnxruntime takes less than torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import snntorch as snn
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import UnsupportedModelError
from tests.deploy.random_layers import spikes


def network(**geometry: int) -> nn.Module:
    torch.manual_seed(0)
    conv = nn.ConvTranspose2d(2, 4, 3, **geometry)
    model = nn.Sequential(conv, snn.Leaky(0.9, threshold=0.2, init_hidden=True))
    sxq.quantize_(model, sxq.Ternary())
    return model


@pytest.mark.parametrize(
    "geometry",
    [
        {"stride": 2, "padding": 0, "output_padding": 1},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": 1, "padding": 1, "output_padding": 1, "dilation": 2},
        {"stride": 2, "padding": 1, "output_padding": 2, "dilation": 3},
    ],
    ids=str,
)
def test_output_padding(geometry: dict[str, int], tmp_path: Path) -> None:
    model, x = network(**geometry), spikes(4, 2, 2, 5, 4)
    report = sxq.export_onnx(model, x, tmp_path / "net.onnx", input="spikes")
    assert report.exact
    result = sxq.verify(model, tmp_path / "net.onnx", x)
    assert (result.spikes_different, result.output_difference) == (0, 0)
    assert result.firing_rate > 0


def test_output_padding_that_onnxruntime_refuses(tmp_path: Path) -> None:
    model = network(stride=1, padding=0, output_padding=1, dilation=2)
    with pytest.raises(UnsupportedModelError, match=r"Layer '0'.*output_padding=1 with stride=1.*below the stride"):
        sxq.export_onnx(model, spikes(4, 2, 2, 5, 4), tmp_path / "net.onnx", input="spikes")
    assert not list(tmp_path.iterdir())
