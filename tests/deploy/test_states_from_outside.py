"""Models that change a neuron's state or options other than through its call, or call it in unusual ways.

What the file cannot follow is refused, and nothing is exported that is another model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import UnsupportedModelError

Forward = Callable[[Any, Tensor], Any]


class Jelly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 16)
        self.node = neuron.LIFNode(v_reset=None)
        self.start = nn.Parameter(torch.full((16,), 0.4))


class Torch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 16)
        self.lif = snn.Leaky(beta=0.9)
        self.hidden = snn.Leaky(beta=0.9, init_hidden=True)
        self.synaptic = snn.Synaptic(alpha=0.8, beta=0.9)


def model(base: type[nn.Module], forward: Forward) -> nn.Module:
    torch.manual_seed(0)
    net = type("Model", (base,), {"forward": forward})()
    sxq.quantize_(net, sxq.Ternary())
    return net


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5).float()


# Refused -------------------------------------------------------------------------------------------------------------


def starts_from_a_tensor(self: Any, x: Tensor) -> Tensor:
    self.node.v = torch.full((x.shape[1], 16), 0.9)
    return torch.stack([self.node(self.fc(step) * 2) for step in x])


def starts_from_a_parameter(self: Any, x: Tensor) -> Tensor:
    functional.reset_net(self)
    self.node.v = self.start.expand(x.shape[1], -1)
    return torch.stack([self.node(self.fc(step) * 2) for step in x])


def damps_the_potential(self: Any, x: Tensor) -> Tensor:
    outputs = []
    for step in x:
        outputs.append(self.node(self.fc(step) * 2))
        self.node.v = self.node.v * 0.5
    return torch.stack(outputs)


def changes_the_threshold(self: Any, x: Tensor) -> Tensor:
    outputs = []
    for step in range(x.shape[0]):
        self.node.v_threshold = 1.0 if step % 2 else 0.3
        outputs.append(self.node(self.fc(x[step]) * 2))
    return torch.stack(outputs)


def damps_the_hidden_potential(self: Any, x: Tensor) -> Tensor:
    outputs = []
    for step in x:
        outputs.append(self.hidden(self.fc1(step) * 2))
        self.hidden.mem = self.hidden.mem * 0.5
    return torch.stack(outputs)


def changes_the_leak(self: Any, x: Tensor) -> Tensor:
    outputs, beta = [], torch.tensor(0.9)
    for step in range(x.shape[0]):
        self.hidden.beta = beta * (0.5 if step % 2 else 1.0)
        outputs.append(self.hidden(self.fc1(x[step]) * 2))
    return torch.stack(outputs)


REFUSED = {
    Jelly: (starts_from_a_tensor, starts_from_a_parameter, damps_the_potential, changes_the_threshold),
    Torch: (damps_the_hidden_potential, changes_the_leak),
}


@pytest.mark.parametrize(
    ("base", "forward"),
    [(base, forward) for base, forwards in REFUSED.items() for forward in forwards],
    ids=lambda value: value.__name__,
)
def test_refused(base: type[nn.Module], forward: Forward, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"of neuron '(node|hidden)' after call .* changed other than"):
        sxq.export_onnx(model(base, forward), spikes(6, 3, 8), tmp_path / "net.onnx", input="spikes")
    assert not list(tmp_path.iterdir())


def test_a_hook_that_changes_the_state_is_refused(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(8, 16), neuron.LIFNode(v_reset=None))
    sxq.quantize_(net, sxq.Ternary())
    with torch.no_grad():
        net[0].weight.mul_(3)
    net[1].register_forward_hook(lambda module, _args, _output: setattr(module, "v", module.v * 0.5))
    with pytest.raises(UnsupportedModelError, match="changed other than through its call"):
        sxq.export_onnx(net, spikes(6, 3, 8), tmp_path / "net.onnx", input="spikes")


# Exported ------------------------------------------------------------------------------------------------------------


def one_neuron_for_two_layers(self: Any, x: Tensor) -> Tensor:
    first = second = self.lif.reset_mem()
    outputs = []
    for step in x:
        hidden, first = self.lif(self.fc1(step) * 2, first)
        output, second = self.lif(self.fc2(hidden) * 2, second)
        outputs.append(output)
    return torch.stack(outputs)


def starts_anew_with_an_empty_state(self: Any, x: Tensor) -> Tensor:
    empty = state = self.lif.reset_mem()
    outputs = []
    for step in range(x.shape[0]):
        state = empty if step % 3 == 2 else state
        output, state = self.lif(self.fc1(x[step]) * 2, state)
        outputs.append(output)
    return torch.stack(outputs)


def state_of_another_shape(self: Any, x: Tensor) -> Tensor:
    state, outputs = self.fc2.weight[:1] * 1.0, []
    for step in x:
        output, state = self.lif(self.fc1(step) * 2, state)
        outputs.append(output)
    return torch.stack(outputs)


def states_of_another_shape(self: Any, x: Tensor) -> Tensor:
    current = potential = torch.ones(1, 16)
    outputs = []
    for step in x:
        output, current, potential = self.synaptic(self.fc1(step) * 2, current, potential)
        outputs.append(output)
    return torch.stack(outputs)


def truncated_and_by_keyword(self: Any, x: Tensor) -> Tensor:
    state, outputs = self.lif.init_leaky(), []
    for step in range(x.size(0)):
        output, state = self.lif(input_=self.fc1(x[step]) * 2, mem=state.detach())
        outputs.append(output)
    return torch.stack(outputs)


def mean_rate(self: Any, x: Tensor) -> Tensor:
    return truncated_and_by_keyword(self, x).mean(0)


def sum_by_size(self: Any, x: Tensor) -> Tensor:
    return truncated_and_by_keyword(self, x).sum(0) / x.size(0)


def reads_the_potential(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    for step in x:
        output = self.hidden(self.fc1(step) * 2)
    return output, self.hidden.mem


EXPORTED = {
    one_neuron_for_two_layers: "fixed",
    starts_anew_with_an_empty_state: "fixed",
    truncated_and_by_keyword: "free",
    mean_rate: "free",
    sum_by_size: "free",
    reads_the_potential: "free",
}


@pytest.mark.parametrize("forward", EXPORTED, ids=lambda forward: forward.__name__)
@pytest.mark.parametrize("shape", [(7, 3, 8), (5, 1, 8)], ids=["B=3", "B=1"])
def test_exported(forward: Forward, shape: tuple[int, ...], tmp_path: Path) -> None:
    net, inputs = model(Torch, forward), spikes(*shape)
    report = sxq.export_onnx(net, inputs, tmp_path / "net.onnx", input="spikes")
    assert report.time.startswith(EXPORTED[forward]), report.time
    result = sxq.verify(net, tmp_path / "net.onnx", [inputs, torch.cat([inputs, inputs], 1)])
    assert result.spikes_different == 0, str(result)
    assert result.output_difference == 0, str(result)
    assert report.exact


@pytest.mark.parametrize("forward", [state_of_another_shape, states_of_another_shape], ids=lambda f: f.__name__)
def test_a_state_that_fits_one_sample_alone_is_refused(forward: Forward, tmp_path: Path) -> None:
    """snnTorch starts anew where the shape is another: for one sample the model is another than for several."""
    with pytest.raises(UnsupportedModelError, match="another batch size"):
        sxq.export_onnx(model(Torch, forward), spikes(6, 3, 8), tmp_path / "net.onnx", input="spikes")


@pytest.mark.parametrize("forward", [mean_rate, one_neuron_for_two_layers], ids=lambda forward: forward.__name__)
def test_a_sample_of_one_step_is_taken_by_its_file(forward: Forward, tmp_path: Path) -> None:
    net, inputs = model(Torch, forward), spikes(1, 4, 8)
    sxq.export_onnx(net, inputs, tmp_path / "net.onnx", input="spikes")
    assert sxq.verify(net, tmp_path / "net.onnx", inputs).ok


def test_a_recurrent_layer_reads_the_last_axis(tmp_path: Path) -> None:
    net, inputs = (
        nn.Sequential(nn.Linear(6, 4), snn.RLeaky(0.9, linear_features=4, init_hidden=True)),
        spikes(5, 2, 3, 6),
    )
    sxq.quantize_(net, sxq.Ternary())
    report = sxq.export_onnx(net, inputs, tmp_path / "net.onnx", input="spikes")
    assert report.exact
    assert report.time == "free"
    assert sxq.verify(net, tmp_path / "net.onnx", [inputs, torch.cat([inputs, inputs])]).ok


def test_real_numbers_fed_back_are_not_guaranteed(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(8, 64), snn.RLeaky(beta=0.9, linear_features=64)

        def forward(self, x: Tensor) -> Tensor:
            spike, potential = self.lif.reset_mem()
            potentials = []
            for step in range(x.shape[0]):
                fed = spike * 0.3 + potential * 0.123 if step else spike
                spike, potential = self.lif(self.fc(x[step]), fed, potential)
                potentials.append(potential)
            return torch.stack(potentials)

    net = Mixed()
    sxq.quantize_(net, sxq.Ternary())
    report = sxq.export_onnx(net, spikes(6, 3, 8), tmp_path / "net.onnx", input="spikes")
    (verdict,) = (layer for layer in report.layers if layer.name == "lif")
    assert not verdict.exact
    assert verdict.reason.startswith("its recurrent layer sums real numbers")


def test_each_output_is_held_against_its_own_size(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif, self.head = nn.Linear(8, 16), snn.Leaky(beta=0.9, init_hidden=True), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            current = self.fc(x)
            return self.head(self.lif(current * 2)), current * 1e7

    net, inputs = Two(), spikes(5, 3, 8)
    sxq.quantize_(net, sxq.Ternary(), skip=["head"])
    sxq.export_onnx(net, inputs, tmp_path / "net.onnx", input="spikes")
    assert sxq.verify(net, tmp_path / "net.onnx", inputs).ok
    with torch.no_grad():
        net.head.bias.add_(3.0)
    assert not sxq.verify(net, tmp_path / "net.onnx", inputs).ok
