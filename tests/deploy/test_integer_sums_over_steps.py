"""Integer files that add over all steps or samples: the range is proved for so many, or the model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import run_file
from snn_extreme_quant.errors import UnsupportedModelError


class LinearAttention(nn.Module):
    """``q (k^T v)`` over the tokens of all steps, as in spatio-temporal spiking attention."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.project, self.first = layer.Linear(width, 3 * width), neuron.LIFNode(v_threshold=0.1)
        self.context = neuron.LIFNode(v_threshold=20.0)
        self.output, self.last = layer.Linear(width, width), neuron.LIFNode(v_threshold=0.3)
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        T, B, N, D = x.shape
        parts = self.first(self.project(x)).split(D, -1)
        q, k, v = (part.permute(1, 0, 2, 3).reshape(B, T * N, D) for part in parts)
        z = q @ (k.transpose(-1, -2) @ v)
        out: Tensor = self.last(self.output(self.context(z.reshape(B, T, N, D).permute(1, 0, 2, 3))))
        return out


class Between(nn.Module):
    """Two layers, and something of the first one's spikes between them."""

    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what
        self.a, self.n = layer.Linear(6, 8), neuron.IFNode(v_threshold=0.3)
        self.b, self.m = layer.Linear(8, 5), neuron.IFNode(v_threshold=0.3)
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.m(self.b(self.what(self.n(self.a(x)))))
        return out


def _export(model: nn.Module, sample: Tensor, path: Path) -> sxq.ExportReport:
    sxq.quantize_(model, sxq.Ternary())
    return sxq.export_onnx(model.eval(), sample, path, input="spikes", integer=True)


def test_products_over_steps_are_bounded_for_the_most_steps(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = LinearAttention()
    report = _export(model, (torch.rand(4, 2, 6, 16) < 0.5).float(), tmp_path / "net.onnx")
    steps = {entry.name: (entry.max_steps, entry.over_steps) for entry in report.fixed_point}
    assert steps == {"first": (None, False), "context": (1024, True), "last": (None, False)}
    # Sums of more than a byte, which 4 steps never give.
    spikes = (torch.rand(200, 1, 6, 16) < 0.7).float()
    for native in (False, "auto"):
        result = sxq.verify(model, tmp_path / "net.onnx", spikes, native=native)
        assert result.ok, str(result)
        assert result.spikes_different == 0
        assert result.firing_rate > 0
    with pytest.warns(RuntimeWarning, match="'context' is proved for 1024 time steps, and the input has 1025"):
        run_file(tmp_path / "net.onnx", np.zeros((1025, 1, 6, 16), np.float32))


def _over_samples(s: Tensor) -> Tensor:
    return s @ (s.transpose(-1, -2) @ s)


def _pairs_of_steps(s: Tensor) -> Tensor:
    by_sample = s.transpose(0, 1)
    scores = (by_sample @ by_sample.transpose(1, 2)).flatten(1)
    return s * scores.sum(1)[None, :, None]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (_over_samples, "sums over samples"),
        (_pairs_of_steps, "part of the steps, or over pairs"),
        (lambda s: s[: s.shape[0] // 2].sum(0, keepdim=True), "takes some of the steps"),
        (lambda s: s[1:].sum(0, keepdim=True), "takes some of the steps"),
        (lambda s: s[1:], "takes some of the steps"),
    ],
    ids=["samples", "pairs", "half", "but the first", "moved"],
)
def test_what_has_no_bound_is_refused(what: Any, reason: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(UnsupportedModelError, match=reason):
        _export(Between(what), (torch.rand(4, 2, 6) < 0.6).float(), tmp_path / "net.onnx")
