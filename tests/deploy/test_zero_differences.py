"""The product's promise: 0 differing spikes, over random networks of both frameworks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.lowering.repacking import TernaryPacking
from snn_extreme_quant.frameworks import frameworks
from tests.deploy.random_networks import FORMS, Network, networks
from tests.deploy.random_neurons import SNNTORCH, SPIKINGJELLY

PACKINGS = st.sampled_from(get_args(TernaryPacking))
_SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


def _check(network: Network, packing: TernaryPacking) -> bool:
    """Export and verify, on other numbers of steps and samples too; return whether the file is guaranteed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        kind = "spikes" if network.spikes_in else "real"
        report = sxq.export_onnx(network.model, network.inputs, path, input=kind, ternary_packing=packing)
        event("guaranteed" if report.exact else "not guaranteed")
        assert report.exact or not network.exact, str(report)
        assert report.time == "free", str(report)
        shuffled = network.inputs.flatten()[torch.randperm(network.inputs.numel())].reshape(network.inputs.shape)
        others = [
            torch.cat([network.inputs, shuffled], 0),
            torch.cat([network.inputs, shuffled], 1),
            network.inputs[:1, :1],
        ]
        result = sxq.verify(network.model, path, [network.inputs, *others])
        assert result.spikes_compared > 0
        if report.exact:
            assert result.spikes_different == 0, str(result)
            assert result.output_difference == 0, str(result)
        return report.exact


def test_the_networks_draw_every_neuron_that_is_read() -> None:
    readable = {cls for framework in frameworks() for cls in framework.neuron_classes()}
    assert readable == {*SNNTORCH, *SPIKINGJELLY}, "draw the new class in random_neurons.py"


@pytest.mark.parametrize("form", FORMS)
def test_zero_differences(form: str) -> None:
    """All neurons, layers and precisions; T 1 to 24, other T and B than exported with."""

    @given(networks(form), PACKINGS)
    @settings(max_examples=3, **_SETTINGS)
    def check(network: Network, packing: TernaryPacking) -> None:
        _check(network, packing)

    check()


@pytest.mark.slow
def test_zero_differences_many() -> None:
    """The same with many more examples, of which most must be guaranteed: else the test would say little."""
    guaranteed: list[bool] = []

    @given(networks(), PACKINGS)
    @settings(max_examples=200, **_SETTINGS)
    def check(network: Network, packing: TernaryPacking) -> None:
        guaranteed.append(_check(network, packing))

    check()
    assert sum(guaranteed) > 0.6 * len(guaranteed)
