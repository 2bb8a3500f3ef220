from pathlib import Path

import pulse
import pytest
import torch
from sxq_pulse import plugin
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks.testing import FrameworkContract, NeuronCase


class TestContract(FrameworkContract):
    framework = plugin
    potential = "v"
    neurons = (
        NeuronCase("cell", pulse.Cell, width=8),
        NeuronCase("without leak", lambda: pulse.Cell(threshold=0.5, leak=1.0), width=8),
        NeuronCase("image", pulse.Cell, width=(2, 5, 5)),
        NeuronCase("current", lambda: pulse.Current(threshold=0.7, leak=0.8, synapse=0.3), width=8),
    )


def test_noise_is_refused() -> None:
    with pytest.raises(UnsupportedNeuronError, match="deploy Cell"):
        plugin.read_neuron(pulse.Noisy())


def test_a_model_goes_all_the_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(pulse.Dense(6, 8), pulse.Cell(0.3), nn.Linear(8, 4), pulse.Current(0.5)).eval()
    assert len(sxq.quantize_(net, sxq.Ternary()).replaced) == 2
    sample = (torch.rand(10, 3, 6) < 0.5).float()
    sxq.export_onnx(net, sample, tmp_path / "net.onnx")
    report = sxq.verify(net, tmp_path / "net.onnx", sample)
    assert report.spikes_different == 0
