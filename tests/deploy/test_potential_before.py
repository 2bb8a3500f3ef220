"""Models that give or use what a neuron was in the step before: a constant in the first step.

snnTorch's ``DeltaLeaky`` always returns it. Time stays free, and all forms can be had.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant import deploy
from snn_extreme_quant.errors import UnsupportedModelError

T, B, WIDTH = 4, 2, 8


def step_model() -> nn.Module:
    """A step model that returns spikes, potential and the potential before."""
    return nn.Sequential(nn.Linear(WIDTH, 6), snn.DeltaLeaky(beta=0.8, delta_threshold=0.3, init_hidden=True))


class Given(nn.Module):
    """A loop over steps that returns the potentials before each step of two neurons, one of another class."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.start = start
        self.fc, self.delta = nn.Linear(WIDTH, 6), snn.DeltaLeaky(beta=0.8, delta_threshold=0.3)
        self.out, self.last = nn.Linear(6, 3), snn.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> Any:
        state, potential = self.delta.reset_mem(), torch.full((x.shape[1], 3), self.start)
        given = []
        for step in x:
            spikes, state = self.delta(self.fc(step), state)
            before = potential
            fired, potential = self.last(self.out(spikes), potential)
            given.append((fired, state[1], before))
        return tuple(torch.stack(values) for values in zip(*given, strict=True))


class Delayed(nn.Module):
    """A layer that reads the spikes of the step before, and of this step."""

    def __init__(self, first: float = 0.0) -> None:
        super().__init__()
        self.begin = first
        self.fc, self.first = nn.Linear(WIDTH, 6), snn.Leaky(beta=0.8, init_hidden=True)
        self.now, self.then, self.last = nn.Linear(6, 3), nn.Linear(6, 3), snn.Leaky(beta=0.9, init_hidden=True)

    def forward(self, x: Tensor) -> Tensor:
        old, given = torch.full((x.shape[1], 6), self.begin), []
        for step in x:
            spikes = self.first(self.fc(step))
            given.append(self.last(self.now(spikes) + self.then(old)))
            old = spikes
        return torch.stack(given)


class Returned(Delayed):
    """Spikes that come back to the same neurons in the next step: no sequence of them can be had at once."""

    def forward(self, x: Tensor) -> Tensor:
        old, given = torch.zeros(x.shape[1], 6), []
        for step in x:
            old = self.first(self.fc(step) + old)
            given.append(self.last(self.now(old)))
        return torch.stack(given)


def quantised(model: nn.Module) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.7)
    sxq.quantize_(model, sxq.Ternary())
    return model, spikes(T)


def spikes(steps: int, samples: int = B) -> Tensor:
    return torch.bernoulli(torch.full((steps, samples, WIDTH), 0.5), generator=torch.Generator().manual_seed(steps))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        pytest.param(step_model, {}, marks=pytest.mark.slow),
        (step_model, {"integer": True}),
        (lambda: Given(0.25), {}),
        pytest.param(Given, {"integer": True}, marks=pytest.mark.slow),
    ],
    ids=["step-float", "step-integer", "loop-float", "loop-integer"],
)
def test_what_a_neuron_was_is_given_for_any_number_of_steps(make: Any, options: Any, tmp_path: Path) -> None:
    model, sample = quantised(make())
    path, single = tmp_path / "net.onnx", tmp_path / "step.onnx"
    report = sxq.export_onnx(model, sample, path, input="spikes", **options)
    assert report.time == "free"
    sxq.export_onnx(model, sample, single, input="spikes", form="streaming", **options)
    for steps, samples in ((1, 3), (9, 2)):
        x = spikes(steps, samples)
        found = sxq.verify(model, path, x)
        assert found.ok, found
        assert found.firing_rate > 0
        assert sxq.verify(model, single, x).ok
        whole = deploy.run_file(path, x.numpy()).outputs
        stream = deploy.Stream(single)
        rows = [stream.step(row) for row in x]
        for name, value in whole.items():
            assert value.shape[:2] == (steps, samples)
            np.testing.assert_array_equal(np.stack([row[name] for row in rows]), value)
    # What is given of a step is what the neuron was left with in the step before.
    names = list(whole)
    now, before = (whole[names[1]], whole[names[2]]) if make is step_model else (None, whole[names[1]])
    assert not before[0].any()
    assert before[1:].any()
    if now is not None:
        np.testing.assert_array_equal(before[1:], now[:-1])
    else:
        assert (whole[names[2]][0] == model.start).all()


@pytest.mark.parametrize("options", [{}, {"integer": True}], ids=["float", "integer"])
def test_a_layer_may_read_the_spikes_of_the_step_before(options: Any, tmp_path: Path) -> None:
    model, sample = quantised(Delayed())
    path = tmp_path / "net.onnx"
    assert sxq.export_onnx(model, sample, path, input="spikes", **options).time == "free"
    for steps in (1, 11):
        found = sxq.verify(model, path, spikes(steps))
        assert found.ok, found
    assert found.firing_rate > 0
    whole = deploy.run_file(path, spikes(7).numpy()).outputs["output"]
    sxq.export_onnx(model, sample, path, input="spikes", form="streaming", **options)
    assert sxq.verify(model, path, spikes(7)).ok
    np.testing.assert_array_equal(deploy.run_file(path, spikes(7).numpy()).outputs["output"], whole)


def test_what_a_layer_reads_first_may_be_other_than_zeros_but_in_integers(tmp_path: Path) -> None:
    model, sample = quantised(Delayed(first=1.0))
    path = tmp_path / "net.onnx"
    assert sxq.export_onnx(model, sample, path, input="spikes").time == "free"
    assert sxq.verify(model, path, spikes(5)).ok
    with pytest.raises(UnsupportedModelError, match=r"'then' reads what .*in the first step zeros must"):
        sxq.export_onnx(model, sample, path, input="spikes", integer=True)


def test_spikes_that_come_back_fix_the_steps_of_a_sequence_and_stream(tmp_path: Path) -> None:
    model, sample = quantised(Returned())
    path = tmp_path / "net.onnx"
    report = sxq.export_onnx(model, sample, path, input="spikes")
    assert report.time.startswith("fixed at the sample's: the first step reads a constant where later ones read")
    assert sxq.verify(model, path, sample).ok
    assert sxq.export_onnx(model, sample, path, input="spikes", form="streaming").time == "free"
    assert sxq.verify(model, path, spikes(9)).ok
