"""Embeddings whose rows have different scales, in integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.config import WeightConfig
from snn_extreme_quant.errors import UnsupportedModelError


def _model(scales: Tensor, config: WeightConfig | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(len(scales), 12), snn.Leaky(beta=0.9, threshold=0.001, init_hidden=True),
        nn.Linear(12, 4), snn.Leaky(beta=0.9, threshold=0.1, init_hidden=True),
    )  # fmt: skip
    model[0].weight.data = torch.randn(len(scales), 12) * scales.unsqueeze(1)
    sxq.quantize_(model, config or sxq.Ternary())
    return model.eval()


@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-4])
def test_small_rows(tmp_path: Path, smallest: float) -> None:
    """A sample of small rows alone is computed as well as one with the large row."""
    scales = torch.full((11,), smallest)
    scales[0] = 1.0
    ids = torch.randint(1, 11, (6, 3), generator=torch.Generator().manual_seed(0))
    model = _model(scales)
    sxq.export_onnx(model, ids, tmp_path / "net.onnx", integer=True)
    report = sxq.verify(model, tmp_path / "net.onnx", ids)
    assert report.ok
    assert report.integer is not None
    assert report.integer.agreement > 0.98


def test_a_row_that_would_be_rounded_away(tmp_path: Path) -> None:
    scales = torch.full((11,), 1e6)
    scales[4] = 1e-3
    ids = torch.randint(0, 11, (6, 3), generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        UnsupportedModelError, match=r"Embedding '0': the scale of row 4.*one scale for the whole tensor"
    ):
        sxq.export_onnx(_model(scales), ids, tmp_path / "net.onnx", integer=True)


@pytest.mark.parametrize("bits", [8, 12, 13, 16])
def test_wide_codes(tmp_path: Path, bits: int) -> None:
    """Up to 12 bit rows have factors of their own; beyond, the tensor needs one scale."""
    scales, ids = torch.linspace(0.1, 1.0, 11), torch.arange(11).repeat(6, 1)
    if bits > 12:
        with pytest.raises(UnsupportedModelError, match="12 bit at most"):
            sxq.export_onnx(_model(scales, sxq.Uniform(bits)), ids, tmp_path / "net.onnx", integer=True)
    model = _model(scales, sxq.Uniform(bits) if bits <= 12 else sxq.Uniform(bits, per="tensor"))
    sxq.export_onnx(model, ids, tmp_path / "net.onnx", integer=True)
    report = sxq.verify(model, tmp_path / "net.onnx", ids)
    assert report.ok
    assert report.integer is not None
    assert report.integer.agreement > 0.98
