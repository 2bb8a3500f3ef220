"""Outputs are measured by the finite values of their own batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.verification.outputs import OutputVerification

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")


class _Log(nn.Module):
    """An output that is minus infinity wherever nothing fires."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.spikes = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m")
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(self.spikes(x)) + self.spikes.v_threshold * self.factor


def test_an_infinity_tolerates_nothing(tmp_path: Path) -> None:
    x = (torch.rand(3, 2, 5, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    sxq.export_onnx(_Log(1.0), x, tmp_path / "net.onnx")
    assert sxq.verify(_Log(1.0), tmp_path / "net.onnx", x).ok
    other = sxq.verify(_Log(1.5), tmp_path / "net.onnx", x)
    assert other.spikes_different == 0
    assert not other.ok
    assert other.outputs[0].scale == 1.5


def test_each_batch_is_measured_by_its_own_values() -> None:
    found = OutputVerification()
    found.add(torch.tensor([1e6]), torch.tensor([1e6]))
    assert found.ratio == 0
    found.add(torch.tensor([1.1]), torch.tensor([1.0]))
    assert found.ratio == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio"),
    [
        (torch.inf, torch.inf, 0.0),
        (torch.nan, torch.nan, 0.0),
        (-torch.inf, torch.inf, torch.inf),
        (torch.inf, 1.0, torch.inf),
        (1.0, torch.nan, torch.inf),
        (1e-9, 0.0, torch.inf),
        (0.0, 0.0, 0.0),
    ],
)
def test_values_that_are_not_finite(ours: float, theirs: float, ratio: float) -> None:
    found = OutputVerification()
    found.add(torch.tensor([ours]), torch.tensor([theirs]))
    assert found.ratio == ratio


class _Decision(nn.Module):
    """Whether a class fired more than once."""

    def __init__(self, more_than: int = 1) -> None:
        super().__init__()
        self.spikes = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m")
        self.more_than = more_than

    def forward(self, x: Tensor) -> Tensor:
        return self.spikes(x).sum(0) > self.more_than


@pytest.mark.parametrize("integer", [False, True])
def test_truth_values_are_0_and_1(integer: bool, tmp_path: Path) -> None:
    x = (torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    sxq.export_onnx(_Decision(), x, tmp_path / "net.onnx", input="spikes", integer=integer)
    assert sxq.verify(_Decision(), tmp_path / "net.onnx", x).ok
    other = sxq.verify(_Decision(0), tmp_path / "net.onnx", x)
    assert other.spikes_different == 0
    assert not other.ok


def test_the_output_that_differs_is_named(tmp_path: Path) -> None:
    x = (torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    sxq.export_onnx(_Decision(), x, tmp_path / "net.onnx", input="spikes")
    said = "output 'output' differs by up to 1, though all spikes are the same"
    assert said not in str(sxq.verify(_Decision(), tmp_path / "net.onnx", x))
    assert said in str(sxq.verify(_Decision(0), tmp_path / "net.onnx", x))
