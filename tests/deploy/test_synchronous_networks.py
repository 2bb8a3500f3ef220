"""Networks of synchronous neurons as files: torch on counts == torch on spikes == counts file == summed spike file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import (
    ExportError,
    ModelFileError,
    NonFiniteWeightError,
    SampleError,
    UnsupportedModelError,
    UnsupportedNeuronError,
)


def neuron(steps: int, threshold: float, signed: bool = False) -> sxq.SynchronousIF:
    return sxq.SynchronousIF(steps, threshold, signed)


def perceptron(steps: int, signed: bool) -> nn.Module:
    sizes = [(12, 24), (24, 24), (24, 16)]
    parts: list[nn.Module] = []
    for inputs, outputs in sizes:
        parts += [nn.Linear(inputs, outputs), neuron(steps, 0.4, signed)]
    return nn.Sequential(*parts, nn.Linear(16, 5))


class Convolutional(nn.Module):
    def __init__(self, steps: int, signed: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm, self.pool, self.out = nn.BatchNorm2d(6), nn.AvgPool2d(2), nn.Linear(24, 4)
        self.head = nn.Linear(24, 24)
        self.n0, self.n1, self.n2 = (neuron(steps, 0.3, signed) for _ in range(3))
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x: Any) -> Tensor:
        x = self.n0(self.first(x))
        x = self.pool(self.n1(self.norm(self.second(x)) + x)).flatten(1)
        return self.out(self.n2(self.head(x)))


class Attention(nn.Module):
    """Queries, keys and values of two heads; a residual sum; an output that is spikes."""

    def __init__(self, steps: int, signed: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(5))
        self.neurons = nn.ModuleList(neuron(steps, 0.3, signed) for _ in range(5))
        self.scores, self.mixed = neuron(steps, 0.5, signed), neuron(steps, 0.25, signed)

    def forward(self, x: Any) -> Any:
        q, k, v = (self.neurons[i](self.layers[i](x)).unflatten(-1, (2, 6)).transpose(-3, -2) for i in range(3))
        scores = self.scores((q @ k.transpose(-2, -1)) * 0.7)
        y = self.mixed(scores @ v).transpose(-3, -2).flatten(-2)
        y = self.neurons[3](self.layers[3](y) + x)
        return self.neurons[4](self.layers[4](y))


MODELS: dict[str, tuple[Callable[[int, bool], nn.Module], tuple[int, ...]]] = {
    "perceptron": (perceptron, (12,)),
    "convolutional": (Convolutional, (2, 4, 4)),
    "attention": (Attention, (3, 12)),
}


def made(name: str, steps: int, signed: bool = False, config: Any = None) -> tuple[nn.Module, Tensor]:
    """A quantised network, and spikes of three samples."""
    torch.manual_seed(steps)
    build, shape = MODELS[name]
    net = build(steps, signed)
    sxq.quantize_(net, config or sxq.Ternary())
    return net.eval(), (torch.rand(steps, 3, *shape) < 0.4).float()


def outputs_of(path: Path, x: Tensor) -> Tensor:
    runtime = sxq.deploy.session(path, native=False)
    return torch.from_numpy(runtime.run(None, {runtime.get_inputs()[0].name: x.numpy()})[0])


def check(net: nn.Module, spikes: Tensor, folder: Path, *, reason: str = "") -> None:
    """All four are the same; ``reason`` is why a counts file does not promise it."""
    rates = spikes.mean(0)
    with torch.no_grad():
        counted = net(rates)
        with sxq.schedule(net, "spikes"):
            stepped = net(sxq.SpikeTrain(spikes))
    stepped = stepped.spikes.mean(0) if isinstance(stepped, sxq.SpikeTrain) else stepped
    assert torch.equal(stepped, counted)
    assert bool(counted.any())
    for form in ("counts", "sequence"):
        path = folder / f"{form}.onnx"
        report = sxq.export_onnx(net, spikes, path, form=form, input="spikes")  # type: ignore[arg-type]
        promised = form == "sequence" or not reason
        assert report.exact == promised, str(report)
        assert promised or reason in str(report)
        found = sxq.verify(net, path, spikes)
        assert found.spikes_different == 0, str(found)
        assert found.ok, str(found)
        assert 0.02 < found.firing_rate < 0.98
        assert all(entry.fired > 0 for entry in found.layers)
        neurons = [m for m in net.modules() if isinstance(m, sxq.SynchronousIF)]
        assert len(found.layers) == len(neurons)
        answer = outputs_of(path, rates if form == "counts" else spikes)
        if answer.dim() > counted.dim():  # spikes of all steps
            answer = answer.mean(0)
        assert torch.equal(answer, counted)


@pytest.mark.parametrize(
    ("name", "steps", "signed", "config"),
    [
        ("perceptron", 1, False, sxq.Ternary()),
        ("perceptron", 64, True, sxq.Uniform(8)),
        ("convolutional", 2, True, sxq.Binary()),
    ],
)
def test_four_ways_to_the_same_counts(name: str, steps: int, signed: bool, config: Any, tmp_path: Path) -> None:
    net, spikes = made(name, steps, signed, config)
    check(net, spikes, tmp_path)


@pytest.mark.parametrize(("steps", "reason"), [(4, ""), (32, "product of matrices")])
def test_attention_over_any_number_of_positions(steps: int, reason: str, tmp_path: Path) -> None:
    """A counts file leaves them open; 65,536 products of counts up to 16 fit 24 bits, of larger ones they may not."""
    net, spikes = made("attention", steps)
    check(net, spikes, tmp_path, reason=reason)
    longer = (torch.rand(steps, 5, 7, 12) < 0.4).float()
    assert sxq.verify(net, tmp_path / "counts.onnx", longer).ok


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 32, 64, 128])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_all_networks(name: str, steps: int, signed: bool, tmp_path: Path) -> None:
    net, spikes = made(name, steps, signed)
    check(net, spikes, tmp_path, reason="product of matrices" if name == "attention" and steps > 16 else "")


@pytest.mark.slow
@pytest.mark.parametrize("config", [sxq.Uniform(4), sxq.Uniform(16), sxq.Ternary(per="group", group_size=4)])
def test_all_precisions(config: Any, tmp_path: Path) -> None:
    net, spikes = made("perceptron", 8, config=config)
    check(net, spikes, tmp_path)


def test_spikes_are_bytes_from_neuron_to_product(tmp_path: Path) -> None:
    net, spikes = made("perceptron", 16)
    path = tmp_path / "net.onnx"
    report = sxq.export_onnx(net, spikes, path, form="counts", input="spikes", ternary_packing="1.6bit")
    assert [entry.operator for entry in report.layers] == [
        "Ternary5LinearSums", "SynchronousFolded", "Ternary5LinearSums", "SynchronousFolded", "Ternary5LinearSums",
        "SynchronousFolded", "Ternary5LinearCounts",
    ]  # fmt: skip
    graph = onnx.load(str(path)).graph
    # From the input's cast to the last layer nothing stands between the operators; scales are multiplied by a 1 that is
    # made of the input's size, which keeps them next to the products for a runtime to join.
    scales = {"one_of"} | {out for node in graph.node if "one_of" in node.input for out in node.output}
    path_of_counts = [
        node for node in graph.node if not scales & set(node.output) and node.op_type not in ("Size", "Sign")
    ]
    assert [node.op_type for node in path_of_counts] == ["Mul", "Cast", *(e.operator for e in report.layers), "Add"]
    assert report.input_shape == ("B", 12)
    assert str(report.time) == "fixed by the model: 16 steps"


def test_real_input_is_the_same_in_each_step(tmp_path: Path) -> None:
    net, _ = made("convolutional", 8)
    images = torch.rand(5, 2, 4, 4)
    report = sxq.export_onnx(net, images, tmp_path / "net.onnx", form="sequence")
    assert not report.exact  # sums of real numbers
    assert sxq.verify(net, tmp_path / "net.onnx", images).ok
    fixed = nn.Sequential(sxq.FixedPointInput(), net)
    report = sxq.export_onnx(fixed, images, tmp_path / "net.onnx", form="counts")
    assert report.exact
    assert sxq.verify(fixed, tmp_path / "net.onnx", [images, images[:1]]).ok


def test_layers_of_the_frameworks_and_hooks(tmp_path: Path) -> None:
    """A network in SpikingJelly's style, whose layers are called with one step."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1), neuron(4, 0.2), layer.MaxPool2d(2), layer.Flatten(), layer.Linear(16, 6),
        neuron(4, 0.2),
    )  # fmt: skip
    sxq.quantize_(net, sxq.Ternary())
    spikes = (torch.rand(4, 3, 1, 4, 4) < 0.5).float()
    sxq.export_onnx(net, spikes, tmp_path / "net.onnx", form="counts", input="spikes")
    report = sxq.verify(net, tmp_path / "net.onnx", spikes)
    assert report.ok, str(report)


class Shared(nn.Module):
    """One neuron layer in three places, whose spikes go to a product, to a sum and out; a layer of two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.neuron = nn.Linear(8, 8), nn.Linear(8, 8), neuron(16, 0.2)

    def forward(self, x: Any) -> dict[str, Any]:
        y = self.neuron(self.first(x))
        z = self.neuron(self.second(y))
        return {"sum": self.neuron(self.second(z) + y), "rates": y}


def test_layers_used_several_times(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Shared().eval()
    sxq.quantize_(net, sxq.Ternary(per="group", group_size=4))
    spikes = (torch.rand(16, 3, 8) < 0.4).float()
    report = sxq.export_onnx(net, spikes, tmp_path / "net.onnx", form="counts", input="spikes")
    assert report.exact
    found = sxq.verify(net, tmp_path / "net.onnx", spikes)
    assert found.ok, str(found)
    assert found.spikes_compared == 3 * 3 * 8


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    net, spikes = made("perceptron", 4)
    sxq.set_schedule(net, "spikes")
    net.train()
    sxq.export_onnx(net, spikes, tmp_path / "net.onnx", form="counts", input="spikes")
    sxq.verify(net, tmp_path / "net.onnx", spikes)
    assert net.training
    assert all(m.schedule == "spikes" for m in net.modules() if isinstance(m, sxq.SynchronousIF))
    assert not any("forward" in vars(m) or m._forward_hooks for m in net.modules())


@pytest.mark.parametrize("form", ["counts", "sequence"])
def test_differences_are_found_and_located(form: Any, tmp_path: Path) -> None:
    net, spikes = made("perceptron", 8)
    path = tmp_path / "net.onnx"
    sxq.export_onnx(net, spikes, path, form=form, input="spikes")
    net[3].threshold.mul_(1.5)
    report = sxq.verify(net, path, spikes)
    assert report.spikes_different > 0
    assert not report.ok
    assert report.layers[0].different == 0
    found = report.first_difference
    assert found is not None
    assert found.layer == "3"
    assert 0 <= found.step < 8
    # A higher threshold loses spikes: the file fires on, the model is silent.
    assert (found.torch_spike, found.file_spike) == (0.0, 1.0)


def test_other_models_and_inputs_are_refused_by_verify(tmp_path: Path) -> None:
    net, spikes = made("perceptron", 8)
    path = tmp_path / "net.onnx"
    sxq.export_onnx(net, spikes, path, form="counts", input="spikes")
    with pytest.raises(ModelFileError, match="another model"):
        sxq.verify(made("convolutional", 8)[0], path, spikes)
    with pytest.raises(ModelFileError, match="T = 8"):
        sxq.verify(made("perceptron", 4)[0], path, spikes)
    with pytest.raises(ModelFileError, match="another model"):
        sxq.verify(nn.Sequential(nn.Linear(12, 5)), path, spikes)
    with pytest.raises(SampleError, match=r"train \(8, B, \.\.\.\)"):
        sxq.verify(net, path, spikes.mean(0))
    with pytest.raises(SampleError, match="not spikes"):
        sxq.verify(net, path, spikes * 0.5)
    with pytest.raises(SampleError, match="no input"):
        sxq.verify(net, path, [])


class Twice(sxq.SynchronousIF):
    def forward(self, current: Any) -> Any:
        return super().forward(current * 2)


def test_what_is_refused_says_why(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    net, spikes = made("perceptron", 8)

    def export(model: nn.Module, sample: Tensor = spikes, **options: Any) -> None:
        sxq.export_onnx(model, sample, path, **{"form": "counts", "input": "spikes", **options})

    with pytest.raises(ExportError, match="form='count': use"):
        export(net, form="count")
    with pytest.raises(ExportError, match=r"form='streaming'.*no single step"):
        export(net, form="streaming")
    with pytest.raises(ExportError, match="calling='step'"):
        export(net, calling="step")
    with pytest.raises(SampleError, match=r"train \(8, B"):
        export(net, spikes[:4])
    with pytest.raises(UnsupportedModelError, match="one schedule"):
        export(nn.Sequential(net, snn.Leaky(0.5, init_hidden=True)))
    with pytest.raises(UnsupportedModelError, match=r"different T: \[4, 8\]"):
        export(nn.Sequential(net, neuron(4, 1.0)))
    with pytest.raises(UnsupportedModelError, match=r"Layer '1': Twice overrides forward"):
        export(nn.Sequential(nn.Linear(12, 12), Twice(8)))
    stepping = nn.Sequential(nn.Linear(12, 12), snn.Leaky(0.5, init_hidden=True))
    with pytest.raises(ExportError, match="synchronous neurons"):
        export(stepping, input="real")
    broken = nn.Sequential(nn.Linear(12, 12), neuron(8, 1.0))
    broken[1].threshold.fill_(-1.0)
    with pytest.raises(NonFiniteWeightError, match="threshold of '1'"):
        export(broken)
    with pytest.raises(UnsupportedNeuronError, match="form='counts'"):
        sxq.to_nir(net, spikes)
    assert not path.exists()


def test_counts_are_decided_where_a_sum_meets_a_threshold(tmp_path: Path) -> None:
    """Every sum of a layer at least once, among them those on the edge between two counts."""
    linear = sxq.Linear(6, 2, config=sxq.Binary())
    net = nn.Sequential(linear, neuron(4, 0.5), sxq.Linear(2, 2, config=sxq.Binary())).eval()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([0.25, -0.25]).view(2, 1).expand(2, 6))
        linear.bias.copy_(torch.tensor([0.0625, 0.8125]))
    counts = torch.arange(25)
    rates = torch.stack([(counts - 4 * i).clamp(0, 4) for i in range(6)], 1).float() / 4
    spikes = (rates * 4 > torch.arange(4).view(4, 1, 1)).float()
    sxq.export_onnx(net, spikes, tmp_path / "net.onnx", form="counts", input="spikes")
    report = sxq.verify(net, tmp_path / "net.onnx", spikes)
    assert report.ok, str(report)
    assert np.isclose(report.firing_rate, net[1](linear(rates)).mean().item(), atol=1e-3)
