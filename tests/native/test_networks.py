"""Whole networks: 0 differing spikes with the native kernels, over the random networks of both frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

import snn_extreme_quant as sxq
from tests.deploy.random_networks import Network, networks
from tests.deploy.test_model_forms import FORMS, quantised, spikes

_SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


def _check(network: Network, path: Path) -> None:
    kind = "spikes" if network.spikes_in else "real"
    report = sxq.export_onnx(network.model, network.inputs, path, input=kind)
    result = sxq.verify(network.model, path, [network.inputs, network.inputs[:1, :1]], native=True)
    assert result.spikes_compared > 0
    if report.exact:
        assert result.spikes_different == 0, str(result)
        assert result.output_difference == 0, str(result)
    # A network may have no node that a kernel computes (a real input's product, a recurrent layer): it is no example
    # of this test, and a test without any example fails as unsatisfiable.
    assume(result.runtime.endswith("native kernels"))


def test_random_networks(library: Any, tmp_path: Path) -> None:
    @given(networks())
    @settings(max_examples=3, **_SETTINGS)
    def check(network: Network) -> None:
        _check(network, tmp_path / "net.onnx")

    check()


@pytest.mark.slow
def test_many_random_networks(library: Any, tmp_path: Path) -> None:
    @given(networks())
    @settings(max_examples=60, **_SETTINGS)
    def check(network: Network) -> None:
        _check(network, tmp_path / "net.onnx")

    check()


@pytest.mark.slow
@pytest.mark.parametrize("config", [sxq.Ternary(), sxq.Binary()], ids=["ternary", "binary"])
def test_every_form_of_model(library: Any, tmp_path: Path, config: Any) -> None:
    for build, shape, other, _ in FORMS.values():
        torch.manual_seed(0)
        model = quantised(build, config)
        sxq.export_onnx(model, spikes(*shape), tmp_path / "net.onnx", input="spikes")
        result = sxq.verify(model, tmp_path / "net.onnx", spikes(*other), native=True)
        assert result.spikes_different == 0, str(result)
