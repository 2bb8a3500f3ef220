"""Synchronous neurons with a trained threshold for each channel, in models of one ordinary input."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import native_status
from snn_extreme_quant.errors import NonFiniteWeightError, UnsupportedModelError
from snn_extreme_quant.neurons.equilibrium import ChannelIF


def network(signed: bool) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        nn.Linear(20, 24),
        ChannelIF(8, 24, signed=signed),
        nn.Linear(24, 16),
        nn.ReLU(),
        ChannelIF(8, 16, 0.5, True),
    ]
    net = nn.Sequential(*layers, nn.Linear(16, 3))
    for neuron in (net[1], net[4]):
        neuron.set_thresholds(torch.rand(neuron.log_threshold.shape) + 0.2)
    sxq.quantize_(net, sxq.Ternary())
    return net


@pytest.mark.parametrize(("form", "signed"), [("counts", True), ("counts", False), ("sequence", True)])
def test_files_give_the_counts_of_the_model(form: str, signed: bool, tmp_path: Path) -> None:
    net, path = network(signed), tmp_path / "net.onnx"
    spikes = sxq.rate_encode(torch.rand(30, 20), steps=8)
    assert sxq.export_onnx(net, spikes, path, form=form, input="spikes").exact
    report = sxq.verify(net, path, spikes)
    assert report.ok, str(report)
    assert all(0.02 < layer.fired / layer.compared < 0.9 for layer in report.layers)
    if native_status().available:
        assert sxq.verify(net, path, spikes, native=True).ok
    operators = [node.op_type for node in onnx.load(str(path)).graph.node if node.domain]
    # Thresholds by channel fold, behind a rectifier too.
    assert operators.count("SynchronousFolded") == (2 if form == "counts" else 0)


def test_rates_that_are_not_rounded_and_bad_thresholds_are_refused(tmp_path: Path) -> None:
    net = network(signed=True)
    net[1].mode = "equilibrium"
    with pytest.raises(UnsupportedModelError, match="not rounded"):
        sxq.export_onnx(net, torch.rand(2, 20), tmp_path / "net.onnx", form="counts")
    net[1].mode = "simulated"
    with torch.no_grad():
        net[1].log_threshold[3] = torch.inf
    with pytest.raises(NonFiniteWeightError, match=r"'1'"):
        sxq.export_onnx(net, torch.rand(2, 20), tmp_path / "net.onnx", form="counts")
