"""The ways in which people write spiking models: each is exported, and verified on other lengths and batch sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import snntorch as snn
import torch
from snntorch import utils
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import run_file
from snn_extreme_quant.deploy.lowering.model import lowering_error
from snn_extreme_quant.errors import ConfigError, ExportError, SampleError


class ExplicitLoop(nn.Module):
    """The loop of snnTorch's tutorials over a sequence, membranes passed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(6, 12), snn.Leaky(beta=0.9, threshold=0.3)
        self.fc2, self.lif2 = nn.Linear(12, 4), snn.Leaky(beta=0.8, threshold=0.3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.reset_mem()
        spikes, potentials = [], []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            potentials.append(mem2)
        return torch.stack(spikes, dim=0), torch.stack(potentials, dim=0)


class StaticInput(nn.Module):
    """The loop of snnTorch's tutorial 5: the same input for a fixed number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(6, 12), snn.Leaky(beta=0.9, threshold=0.3)
        self.fc2, self.lif2 = nn.Linear(12, 4), snn.Leaky(beta=0.8, threshold=0.3)

    def forward(self, x: Tensor) -> Tensor:
        utils.reset(self)
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        spikes = []
        for _ in range(7):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
        return torch.stack(spikes)


class BatchFirstSum(nn.Module):
    """``(B, T, N)`` input, hidden state, spikes summed over time."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(6, 5), snn.Leaky(beta=0.5, threshold=0.4, init_hidden=True)

    def forward(self, x: Tensor) -> Tensor:
        utils.reset(self)
        total: Any = 0
        for step in range(x.shape[1]):
            total = total + self.lif(self.fc(x[:, step]))
        return total


class InPlaceMean(nn.Module):
    """SpikingJelly's single-step loop: ``out += net(x)``, then the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(sj_layer.Linear(6, 5), sj_neuron.LIFNode(v_threshold=0.4, v_reset=None))

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self)
        total: Any = 0.0
        for current in x:
            total += self.net(current)
        return total / x.shape[0]


class JellyImages(nn.Module):
    """SpikingJelly's multi-step image classifier: repeats the image, averages the output."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 4
        self.net = nn.Sequential(
            sj_layer.Conv2d(1, 4, 3, padding=1, bias=False),
            sj_neuron.IFNode(v_threshold=0.5),
            sj_layer.MaxPool2d(2, 2),
            sj_layer.Flatten(),
            sj_layer.Dropout(0.5),
            sj_layer.Linear(36, 5, bias=False),
            sj_neuron.IFNode(v_threshold=0.5),
        )
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.unsqueeze(0).repeat(self.steps, 1, 1, 1, 1)).mean(0)  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A spike-count residual and a skip over a layer, recorded in one step."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(6, 6), snn.Leaky(beta=0.9, threshold=0.3, init_hidden=True)
        self.fc2, self.lif2 = nn.Linear(6, 6), snn.Leaky(beta=0.7, threshold=0.3, init_hidden=True)
        self.fc3, self.lif3 = nn.Linear(12, 3), snn.Leaky(beta=0.7, threshold=0.3, init_hidden=True, output=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = self.lif1(self.fc1(x))
        b = self.lif2(self.fc2(a))
        spikes, potential = self.lif3(self.fc3(torch.cat([a + b, x], dim=-1)))
        return {"spikes": spikes, "potential": potential}


class LastMembrane(nn.Module):
    """Returns only the last membrane potential; its state starts from zeros made by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(6, 5), snn.Leaky(beta=0.5, threshold=0.4)

    def forward(self, x: Tensor) -> Tensor:
        mem = torch.zeros(x.shape[1], 5)
        for step in range(x.shape[0]):
            _, mem = self.lif(self.fc(x[step]), mem)
        return mem


class SharedLayer(nn.Module):
    """One layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.lif1, self.lif2 = (snn.Leaky(beta=0.9, threshold=0.3, init_hidden=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.lif2(self.fc(self.lif1(self.fc(x))))  # type: ignore[no-any-return]


class EncodedFirst(nn.Module):
    """Works on the whole input before the loop, and swaps its axes."""

    def __init__(self) -> None:
        super().__init__()
        self.grid = sxq.FixedPointInput(8, 4)
        self.fc, self.lif = nn.Linear(6, 5), snn.Leaky(beta=0.9, threshold=0.4)

    def forward(self, x: Tensor) -> Tensor:
        x, mem, spikes = self.grid(x).transpose(0, 1), self.lif.reset_mem(), []
        for step in range(x.shape[0]):
            spk, mem = self.lif(self.fc(x[step]), mem)
            spikes.append(spk)
        return torch.stack(spikes, dim=1)


class RepeatedFirst(nn.Module):
    """Repeats a static image for a fixed number of steps, then loops over them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(6, 5), snn.Leaky(beta=0.9, threshold=0.4)

    def forward(self, x: Tensor) -> Tensor:
        sequence, mem, spikes = x.unsqueeze(0).repeat(5, 1, 1), self.lif.reset_mem(), []
        for step in range(5):
            spk, mem = self.lif(self.fc(sequence[step]), mem)
            spikes.append(spk)
        return torch.stack(spikes)


class DampedState(nn.Module):
    """Changes the membrane potential between steps: no plain recurrence, exported step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(6, 5), snn.Leaky(beta=0.9, threshold=0.4)

    def forward(self, x: Tensor) -> Tensor:
        mem, spikes = self.lif.reset_mem(), []
        for step in range(x.shape[0]):
            spk, mem = self.lif(self.fc(x[step]), mem)
            mem = mem * 0.5
            spikes.append(spk)
        return torch.stack(spikes)


class MixedSamples(nn.Module):
    """Mixes the samples of a batch: folding time into the batch would be wrong, and must be noticed."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(6, 5), snn.Leaky(beta=0.9, threshold=0.4, init_hidden=True)

    def forward(self, x: Tensor) -> Tensor:
        self.lif.reset_mem()
        outputs = []
        for step in range(x.shape[0]):
            current = self.fc(x[step])
            outputs.append(self.lif(1.0 + current - current.max(dim=0).values))
        return torch.stack(outputs)


def spikes(*shape: int) -> Tensor:
    """Random spikes."""
    return (torch.rand(shape) < 0.5).float()


FORMS: dict[str, tuple[type[nn.Module], tuple[int, ...], tuple[int, ...], str]] = {
    # model, sample shape, another shape, time
    "explicit loop": (ExplicitLoop, (5, 2, 6), (9, 4, 6), "free"),
    "explicit loop, batch 1": (ExplicitLoop, (5, 1, 6), (9, 4, 6), "free"),
    "explicit loop, one step": (ExplicitLoop, (1, 1, 6), (9, 4, 6), "free"),
    "explicit loop, long": (ExplicitLoop, (40, 2, 6), (50, 1, 6), "free"),
    "static input": (StaticInput, (1, 6), (5, 6), "fixed by the model"),
    "batch first": (BatchFirstSum, (2, 4, 6), (5, 9, 6), "free"),
    "in-place mean": (InPlaceMean, (4, 2, 6), (6, 5, 6), "free"),
    "images": (JellyImages, (1, 1, 6, 6), (7, 1, 6, 6), "fixed by the model"),
    "residual": (Residual, (4, 2, 6), (6, 5, 6), "free"),
    "last membrane": (LastMembrane, (4, 2, 6), (6, 5, 6), "free"),
    "shared layer": (SharedLayer, (4, 2, 6), (6, 5, 6), "free"),
    "encoded first": (EncodedFirst, (2, 8, 6), (5, 9, 6), "free"),
    "repeated first": (RepeatedFirst, (5, 6), (3, 6), "fixed by the model"),
    "damped state, long": (DampedState, (9, 2, 6), (9, 5, 6), "fixed at the sample's"),
    "damped state": (DampedState, (4, 2, 6), (4, 5, 6), "fixed at the sample's"),
    "mixed samples": (MixedSamples, (4, 3, 6), (4, 5, 6), "fixed at the sample's"),
}


def quantised(build: type[nn.Module], config: Any) -> nn.Module:
    """Build a form with weights large enough to fire, and quantise it."""
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    sxq.quantize_(model, config)
    return model


#: What becomes of the weights hardly depends on how a model is called: two forms are tried with others every time.
_ALSO_BINARY = ("explicit loop", "images")


def _cases() -> Iterator[Any]:
    for form in FORMS:
        yield pytest.param(form, sxq.Ternary(), id=f"{form}-ternary")
        marks = () if form in _ALSO_BINARY else pytest.mark.slow
        yield pytest.param(form, sxq.Binary(), marks=marks, id=f"{form}-binary")


@pytest.mark.parametrize(("form", "config"), list(_cases()))
def test_form(form: str, config: Any, tmp_path: Path) -> None:
    build, shape, other, time = FORMS[form]
    model = quantised(build, config)
    sample = spikes(*shape)
    report = sxq.export_onnx(model, sample, tmp_path / "net.onnx", input="spikes")
    assert report.time.startswith(time), report
    result = sxq.verify(model, tmp_path / "net.onnx", [sample, spikes(*other), spikes(*other)])
    assert result.spikes_different == 0, str(result)
    assert result.firing_rate > 0.02, "the test says nothing if nothing fires"
    if report.exact:
        assert result.output_difference == 0
    assert report.exact or form == "mixed samples"


def test_a_file_of_a_fixed_number_of_steps_says_so(tmp_path: Path) -> None:
    build, shape, other, _ = FORMS["damped state"]
    model, path = quantised(build, sxq.Ternary()), tmp_path / "net.onnx"
    sxq.export_onnx(model, spikes(*shape), path, input="spikes")
    longer = spikes(shape[0] + 3, *other[1:])
    said = r"The file is for 4 time steps only \(time is fixed at the sample's.*export it with a sample of 7 steps"
    with pytest.raises(SampleError, match=said):
        sxq.verify(model, path, longer)
    with pytest.raises(SampleError, match=said):
        run_file(path, longer.numpy())
    with pytest.raises(SampleError, match=r"\(4, B, 6\); got \(4, 5, 7\)\.$"):
        run_file(path, np.zeros((4, 5, 7), np.float32))


def test_our_own_refusals_are_in_our_own_words() -> None:
    """However deep below torch's exporter they come up."""
    failure = RuntimeError("Failed to convert the exported program")
    failure.__cause__ = ConfigError("Layer 'x' has 99 bits; use 2 to 16.")
    assert str(lowering_error(failure)) == "Layer 'x' has 99 bits; use 2 to 16."
    own = ExportError("The finished file is not valid.")
    assert lowering_error(own) is own
    assert str(lowering_error(ValueError("no such operator"))).startswith(
        "torch's exporter cannot translate the model:"
    )


def test_folded_file_has_one_scan_and_one_product_a_layer(tmp_path: Path) -> None:
    model = ExplicitLoop()
    sxq.quantize_(model, sxq.Ternary())
    sxq.export_onnx(model, spikes(25, 2, 6), tmp_path / "net.onnx", input="spikes")
    nodes = [n for n in onnx.load(tmp_path / "net.onnx").graph.node if n.domain == "snn.extreme_quant"]
    assert [(n.name, n.op_type) for n in nodes] == [
        ("fc1", "TernaryLinearInteger"),
        ("lif1", "LIF_leak_gt_subtract_delayed"),
        ("fc2", "TernaryLinearInteger"),
        ("lif2", "LIF_leak_gt_subtract_delayed_states"),
    ]


def test_output_names_follow_the_structure(tmp_path: Path) -> None:
    model = Residual()
    sxq.quantize_(model, sxq.Ternary())
    sxq.export_onnx(model, spikes(4, 2, 6), tmp_path / "net.onnx")
    assert [o.name for o in onnx.load(tmp_path / "net.onnx").graph.output] == ["output_spikes", "output_potential"]


@pytest.mark.parametrize("build", [ExplicitLoop, InPlaceMean, JellyImages])
def test_state_of_earlier_runs_does_not_enter_the_file(build: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = next(s for b, s, _, _ in FORMS.values() if b is build)
    model = build()
    sxq.quantize_(model, sxq.Ternary())
    sample = spikes(*shape)
    sxq.export_onnx(model, sample, tmp_path / "fresh.onnx")
    with torch.no_grad():
        model(spikes(*shape) * 3)
    sxq.export_onnx(model, sample, tmp_path / "warm.onnx")
    assert (tmp_path / "fresh.onnx").read_bytes() == (tmp_path / "warm.onnx").read_bytes()


def test_export_and_verify_leave_the_model_as_it_was(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 5), snn.Leaky(beta=0.5, init_hidden=True), nn.Dropout(0.5))
    sxq.quantize_(model, sxq.Ternary())
    model.train()
    model(torch.rand(3, 6))
    before = model[1].mem.clone()
    attributes = {m: set(vars(m)) for m in model.modules()}
    sxq.export_onnx(model, spikes(4, 2, 6), tmp_path / "net.onnx")
    sxq.verify(model, tmp_path / "net.onnx", spikes(4, 2, 6))
    assert model.training
    assert model[2].training
    assert torch.equal(model[1].mem, before)
    assert {m: set(vars(m)) for m in model.modules()} == attributes
    model(torch.rand(3, 6)).sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


class SpareNeuron(nn.Module):
    """A multi-step neuron that the forward pass never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.fires, self.spare = sj_layer.Linear(6, 5), sj_neuron.LIFNode(), sj_neuron.LIFNode()
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.fires(self.fc(x))
        return spikes


@pytest.mark.parametrize("form", ["sequence", "streaming"])
@pytest.mark.parametrize("integer", [False, True])
def test_a_neuron_that_is_never_called(form: Any, integer: bool, tmp_path: Path) -> None:
    model = quantised(SpareNeuron, sxq.Ternary())
    report = sxq.export_onnx(model, spikes(4, 2, 6), tmp_path / "net.onnx", input="spikes", form=form, integer=integer)
    assert report.time.startswith("free")
    result = sxq.verify(model, tmp_path / "net.onnx", spikes(7, 3, 6))
    assert [layer.name for layer in result.layers] == ["fires"]
    assert result.ok, str(result)
