"""The product's promise: 0 differing spikes, over random networks of both frameworks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import snn_extreme_quant as sxq
from tests.deploy.random_networks import Network, networks

_SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


def _check(network: Network) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        kind = "spikes" if network.spikes_in else "real"
        report = sxq.export_onnx(network.model, network.inputs, path, input=kind)
        assert report.exact, str(report)
        assert report.time == "free", str(report)
        shuffled = network.inputs.flatten()[torch.randperm(network.inputs.numel())].reshape(network.inputs.shape)
        others = [
            torch.cat([network.inputs, shuffled], 0),
            torch.cat([network.inputs, shuffled], 1),
            network.inputs[:1, :1],
        ]
        result = sxq.verify(network.model, path, [network.inputs, *others])
        assert result.spikes_different == 0, str(result)
        assert result.output_difference == 0, str(result)
        assert result.spikes_compared > 0


@given(networks())
@settings(max_examples=40, **_SETTINGS)
def test_zero_differences(network: Network) -> None:
    """Depth 1-4, widths 1-130, T 1-20, all neuron options, binary and ternary, conv and linear, other T and B too."""
    _check(network)


@pytest.mark.slow
@given(networks())
@settings(max_examples=200, **_SETTINGS)
def test_zero_differences_many(network: Network) -> None:
    """The same with five times the examples."""
    _check(network)
