"""Streaming files: steps made one after the other are the sequence, bit for bit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import Stream, session
from tests.deploy import test_every_class as every_class
from tests.deploy.random_networks import FORMS, Network, networks
from tests.deploy.test_model_forms import FORMS as MODELS
from tests.deploy.test_model_forms import quantised, spikes

_SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


def streamed(path: Path, inputs: Tensor, time_axis: int | None, steps: int, native: Any = False) -> list[Any]:
    """The outputs of each step."""
    stream = Stream(path, native=native)
    return [stream.step(inputs if time_axis is None else inputs.select(time_axis, t)) for t in range(steps)]


def assert_same_as_sequence(
    model: nn.Module, inputs: Tensor, folder: Path, *, native: Any = False, time_axis: int | None = 0, **options: Any
) -> None:
    """After 1, 2 and all steps, the streamed outputs are those of the sequence file for so many steps."""
    sequence, streaming = folder / "sequence.onnx", folder / "streaming.onnx"
    sxq.export_onnx(model, inputs, sequence, **options)
    report = sxq.export_onnx(model, inputs, streaming, form="streaming", **options)
    whole = session(sequence, native=native)
    axes = {o["name"]: o["axis"] for o in Stream(streaming)._facts["outputs"]}
    assert [o.name for o in whole.get_outputs()] == list(axes)
    steps = inputs.shape[time_axis] if time_axis is not None else Stream(streaming)._facts["steps"]
    given = streamed(streaming, inputs, time_axis, steps, native)
    for k in {1, min(2, steps), steps} if time_axis is not None else {steps}:
        part = inputs if time_axis is None else inputs.narrow(time_axis, 0, k)
        for (name, axis), expected in zip(axes.items(), whole.run(None, {"input": part.numpy()}), strict=True):
            rows = [row[name] for row in given[:k]]
            found = rows[-1] if axis is None else np.stack(rows, axis)
            if report.exact:
                assert np.array_equal(found, expected), (name, k)
            else:
                assert found.shape == expected.shape


def check(network: Network, *, native: Any = False) -> bool:
    """Stream a network and verify it, on other numbers of steps and samples too."""
    kind = "spikes" if network.spikes_in else "real"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert_same_as_sequence(network.model, network.inputs, folder, native=native, input=kind)
        others = [torch.cat([network.inputs, network.inputs.flip(0)], axis) for axis in (0, 1)]
        inputs = [network.inputs, *others, network.inputs[:1, :1]]
        report = sxq.export_onnx(network.model, network.inputs, folder / "net.onnx", input=kind, form="streaming")
        assert report.exact or not network.exact, str(report)
        assert report.time == "free"
        result = sxq.verify(network.model, folder / "net.onnx", inputs, native=native)
        assert result.spikes_compared > 0
        if report.exact:
            assert result.spikes_different == 0, str(result)
            assert result.output_difference == 0, str(result)
        return report.exact


@pytest.mark.parametrize("form", FORMS)
def test_random_networks(form: str) -> None:
    @given(networks(form))
    @settings(max_examples=2, **_SETTINGS)
    def run(network: Network) -> None:
        check(network)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("native", [False, True], ids=["stock", "native"])
def test_many_random_networks(native: bool) -> None:
    guaranteed: list[bool] = []

    @given(networks())
    @settings(max_examples=60, **_SETTINGS)
    def run(network: Network) -> None:
        guaranteed.append(check(network, native=native))

    run()
    assert sum(guaranteed) > 0.6 * len(guaranteed)
