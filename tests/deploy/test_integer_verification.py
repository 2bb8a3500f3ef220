"""``verify`` of an integer file tells the model's own file from that of another model, even if all spikes agree."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import snntorch as snn
import torch
from torch import nn

import snn_extreme_quant as sxq


class Readout(nn.Module):
    """A hidden layer, a graded neuron, a float readout, and a membrane potential as outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.hidden = nn.Linear(20, 16), snn.Leaky(beta=0.9, threshold=0.3)
        self.fc2, self.graded = nn.Linear(16, 4), snn.Leaky(beta=0.8, threshold=0.1, graded_spikes_factor=2.0)
        self.out = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mem, other, spikes, states, scores = self.hidden.reset_mem(), self.graded.reset_mem(), [], [], []
        for step in x:
            hidden, mem = self.hidden(self.fc(step), mem)
            given, other = self.graded(self.fc2(hidden), other)
            spikes.append(given)
            states.append(mem)
            scores.append(self.out(hidden))
        return torch.stack(spikes), torch.stack(states), torch.stack(scores)


def _scaled(model: Readout) -> None:
    """Every integer stays the same; what one stands for does not."""
    for tensor in (model.fc.weight, model.fc.bias, model.hidden.threshold):
        tensor.mul_(2)


CHANGES: dict[str, Callable[[Readout], object]] = {
    "readout": lambda model: model.out.weight.neg_(),
    "readout_bias": lambda model: model.out.bias.add_(100),
    "amplitude": lambda model: setattr(model.graded, "graded_spikes_factor", torch.tensor(7.0)),
    "units": _scaled,
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Readout, Path, torch.Tensor]:
    model = Readout()
    sxq.quantize_(model, sxq.Ternary(), skip=["out"])
    x, path = (
        torch.randint(0, 2, (6, 3, 20), generator=torch.Generator().manual_seed(1)).float(),
        tmp_path_factory.mktemp("file") / "net.onnx",
    )
    sxq.export_onnx(model.eval(), x, path, input="spikes", integer=True)
    return model, path, x


def test_own_model(exported: tuple[Readout, Path, torch.Tensor]) -> None:
    model, path, x = exported
    report = sxq.verify(model, path, x)
    assert report.ok
    assert report.integer is not None
    assert report.integer.torch_output_difference <= 1e-5


@pytest.mark.parametrize("change", CHANGES)
def test_other_model_of_the_same_spikes(exported: tuple[Readout, Path, torch.Tensor], change: str) -> None:
    model, path, x = exported
    other = copy.deepcopy(model)
    with torch.no_grad():
        CHANGES[change](other)
    report = sxq.verify(other, path, x)
    assert report.spikes_different == 0
    assert report.integer is not None
    assert report.integer.torch_different == 0
    assert report.integer.torch_output_difference > 0.1
    assert not report.ok
