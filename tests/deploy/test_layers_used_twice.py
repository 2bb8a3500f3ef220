"""A layer that is called on inputs of different kinds: one operator must be right for all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grid = sxq.FixedPointInput(8, 8)
        self.fc, self.first = nn.Linear(12, 12), nn.Linear(12, 12)
        self.a, self.b = neuron.IFNode(v_threshold=0.7), neuron.IFNode(v_threshold=0.7)


def input_and_spikes(self: Any, x: Tensor) -> Tensor:
    """1 is 256 of the input's units, which is no byte."""
    output: Tensor = self.b(self.fc(self.a(self.fc(self.grid(x)))))
    return output


def spikes_and_their_mean(self: Any, x: Tensor) -> Tensor:
    hidden = self.a(self.fc(x))
    output: Tensor = self.b(self.fc((hidden + x) * 0.5))
    return output


def spikes_and_their_difference(self: Any, x: Tensor) -> Tensor:
    hidden = self.a(self.fc(x))
    output: Tensor = self.b(self.fc(x - hidden))
    return output


def counts_and_spikes(self: Any, x: Tensor) -> Tensor:
    output: Tensor = self.b(self.fc(self.a(self.fc(x + x + x))))
    return output


@pytest.mark.parametrize("config", [sxq.Ternary(), sxq.Binary(), sxq.Uniform(8)], ids=str)
@pytest.mark.parametrize(
    "forward", [input_and_spikes, spikes_and_their_mean, spikes_and_their_difference, counts_and_spikes]
)
def test_one_layer_on_several_grids(forward: Callable[..., Any], config: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = type("Shared", (Net,), {"forward": forward})()
    with torch.no_grad():
        net.fc.weight.mul_(4)
    sxq.quantize_(net, config, skip=["first"])
    real = forward is input_and_spikes
    inputs = torch.rand(6, 6, 12) if real else (torch.rand(6, 6, 12) < 0.5).float()
    report = sxq.export_onnx(net, inputs, tmp_path / "net.onnx", input="real" if real else "spikes")
    assert report.exact, str(report)
    result = sxq.verify(net, tmp_path / "net.onnx", [inputs, torch.cat([inputs, inputs])])
    assert result.spikes_different == 0, str(result)
    assert result.firing_rate > 0.05


def test_a_trace_of_spikes_in_a_loop(tmp_path: Path) -> None:
    """Each step's trace is on a finer grid than the last."""

    class Trace(Net):
        def forward(self, x: Tensor) -> Tensor:
            trace, outputs = None, []
            for step in x:
                trace = step if trace is None else trace * 0.5 + step
                outputs.append(self.a(self.fc(trace)))
            return torch.stack(outputs)

    torch.manual_seed(0)
    net = Trace()
    sxq.quantize_(net, sxq.Ternary(), skip=["first"])
    inputs = (torch.rand(6, 3, 12) < 0.5).float()
    report = sxq.export_onnx(net, inputs, tmp_path / "net.onnx", input="spikes")
    assert report.exact
    assert sxq.verify(net, tmp_path / "net.onnx", inputs).spikes_different == 0


def test_spikes_and_potentials_behind_real_input(tmp_path: Path) -> None:
    """A layer of real numbers is not on a grid, whatever its other call is on."""

    class Mixed(Net):
        def forward(self, x: Tensor) -> Tensor:
            spikes = self.a(self.first(x))
            output: Tensor = self.b(self.fc(spikes) + self.fc(self.a.v))
            return output

    torch.manual_seed(0)
    net = Mixed()
    sxq.quantize_(net, sxq.Ternary())
    inputs = torch.randn(6, 4, 12)
    report = sxq.export_onnx(net, inputs, tmp_path / "net.onnx")
    assert not report.exact
    operators = {layer.name: layer.operator for layer in report.layers}
    assert operators["fc"] == "TernaryLinear"
    result = sxq.verify(net, tmp_path / "net.onnx", inputs)
    assert result.output_difference <= 1.0
    assert result.spikes_different <= 2, str(result)


def test_a_threshold_that_is_never_reached(tmp_path: Path) -> None:
    class Readout(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.node = nn.Linear(12, 3), neuron.LIFNode(v_threshold=float("inf"), step_mode="m")

        def forward(self, x: Tensor) -> Tensor:
            self.node(self.fc(x))
            potential: Tensor = self.node.v
            return potential

    net, inputs = Readout(), (torch.rand(5, 3, 12) < 0.5).float()
    sxq.quantize_(net, sxq.Ternary())
    sxq.export_onnx(net, inputs, tmp_path / "net.onnx", input="spikes")
    assert sxq.verify(net, tmp_path / "net.onnx", inputs).output_difference == 0
