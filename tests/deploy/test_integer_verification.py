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
from snn_extreme_quant.deploy import run_file


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
    assert "outputs differ" in str(report).splitlines()[0]


@pytest.mark.parametrize("form", ["sequence", "streaming"])
def test_other_weights(tmp_path: Path, form: str) -> None:
    """Spikes of the file that are not the model's are counted, and the first is named."""

    def build(quantizer: sxq.Ternary | sxq.Binary) -> nn.Module:
        torch.manual_seed(3)
        fire = {"beta": 0.9, "threshold": 0.3, "init_hidden": True}
        model = nn.Sequential(nn.Linear(20, 16), snn.Leaky(**fire), nn.Linear(16, 7), snn.Leaky(**fire))
        sxq.quantize_(model, quantizer)
        return model.eval()

    x = torch.randint(0, 2, (6, 3, 20), generator=torch.Generator().manual_seed(1)).float()
    model, other, path = build(sxq.Ternary()), build(sxq.Binary()), tmp_path / "net.onnx"
    sxq.export_onnx(model, x, path, input="spikes", integer=True, form=form)
    assert sxq.verify(model, path, x).first_difference is None
    report = sxq.verify(other, path, [x[:, :1], x[:, 1:]])
    found, integer = report.first_difference, report.integer
    assert not report.ok
    assert integer is not None
    assert report.spikes_different == integer.torch_different == sum(e.different for e in report.layers) > 0
    assert f"{report.spikes_different} of {report.spikes_compared} spikes differ (" in str(report).splitlines()[0]
    assert found is not None
    place = (found.step, found.sample, *found.channel)
    assert run_file(path, x.numpy(), spikes=True).spikes[found.layer][place] == found.file_spike == found.golden_spike
    assert found.torch_spike != found.file_spike
