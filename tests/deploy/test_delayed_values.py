"""What a step reads of earlier ones and of no other: a plain delay, two steps, the potential before, a maximum.

The last call of such a neuron is needed by no output, and is a step of the loop all the same.
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
from tests.deploy.test_potential_before import WIDTH, quantised, spikes


class Layers(nn.Module):
    """Two layers with neurons that keep their states themselves, and one whose state the loop carries."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.first = nn.Linear(WIDTH, 6), snn.Leaky(beta=0.8, init_hidden=True)
        self.out, self.last = nn.Linear(6, 3), snn.Leaky(beta=0.9, init_hidden=True)
        self.own = snn.Leaky(beta=0.8)

    def forward(self, x: Tensor) -> Any:
        given, old, older = [], torch.zeros(x.shape[1], 6), torch.zeros(x.shape[1], 6)
        for step in x:
            given.append(self.last(self.out(self.read(old, older))))
            old, older = self.first(self.fc(step)), old
        return torch.stack(given)

    def read(self, old: Tensor, _older: Tensor) -> Tensor:
        return old


class TwoBefore(Layers):
    def read(self, _old: Tensor, older: Tensor) -> Tensor:
        return older


class PotentialBefore(Layers):
    def forward(self, x: Tensor) -> Any:
        given, potential = [], torch.zeros(x.shape[1], 6)
        for step in x:
            given.append(potential)
            _, potential = self.own(self.fc(step), potential)
        return torch.stack(given)


class Largest(Layers):
    def forward(self, x: Tensor) -> Any:
        potential, largest = torch.zeros(x.shape[1], 6), torch.zeros(x.shape[1], 6)
        for step in x:
            _, potential = self.own(self.fc(step), potential)
            largest = torch.maximum(largest, potential)
        return largest


class LikeTheFirst(Layers):
    def forward(self, x: Tensor) -> Any:
        given, potential = [], torch.zeros_like(self.fc(x[0]))
        for step in x:
            fired, potential = self.own(self.fc(step), potential)
            given.append(fired)
        return torch.stack(given)


class LastInput(Layers):
    def forward(self, x: Tensor) -> Any:
        given = [self.first(self.fc(step)) for step in x]
        return torch.stack(given), x[-1]


class FromTheInput(Layers):
    def forward(self, x: Tensor) -> Any:
        given, old = [], x[0, :, :6]
        for step in x:
            now = self.first(self.fc(step))
            given.append(self.last(self.out(now + old)))
            old = now
        return torch.stack(given)


def assert_same(model: nn.Module, path: Path) -> None:
    for steps in (1, 2, 7):
        found = sxq.verify(model, path, spikes(steps))
        assert found.ok, found
    assert found.firing_rate > 0


@pytest.mark.parametrize("integer", [False, True], ids=["float", "integer"])
@pytest.mark.parametrize(
    "make", [Layers, pytest.param(TwoBefore, marks=pytest.mark.slow), PotentialBefore], ids=lambda make: make.__name__
)
def test_what_was_in_earlier_steps_leaves_the_steps_free(make: Any, integer: bool, tmp_path: Path) -> None:
    model, sample = quantised(make())
    whole, single = tmp_path / "net.onnx", tmp_path / "step.onnx"
    assert sxq.export_onnx(model, sample, whole, input="spikes", integer=integer).time == "free"
    assert sxq.export_onnx(model, sample, single, input="spikes", integer=integer, form="streaming").time == "free"
    assert_same(model, whole)
    assert_same(model, single)
    x = spikes(6).numpy()
    np.testing.assert_array_equal(*(deploy.run_file(path, x).outputs["output"] for path in (whole, single)))


@pytest.mark.parametrize("make", [TwoBefore, Largest, LikeTheFirst, LastInput], ids=lambda make: make.__name__)
def test_steps_that_read_it_stream(make: Any, tmp_path: Path) -> None:
    model, sample = quantised(make())
    assert sxq.export_onnx(model, sample, tmp_path / "step.onnx", input="spikes", form="streaming").time == "free"
    assert_same(model, tmp_path / "step.onnx")


def test_a_loop_that_begins_with_the_input_is_refused_in_words(tmp_path: Path) -> None:
    model, sample = quantised(FromTheInput())
    with pytest.raises(sxq.errors.UnsupportedModelError, match=r"form='streaming': .*input") as raised:
        sxq.export_onnx(model, sample, tmp_path / "step.onnx", input="spikes", form="streaming")
    assert "slice" not in str(raised.value)


def test_an_unrolled_file_leaves_out_a_call_that_nothing_reads(tmp_path: Path) -> None:
    class Unlike(Layers):
        """The first step is unlike the others, so that no sequence can be had at once."""

        def forward(self, x: Tensor) -> Any:
            old, given = torch.zeros(x.shape[1], 6), []
            for index, step in enumerate(x):
                given.append(self.last(self.out(old) * (1 + (index == 0))))
                old = self.first(self.fc(step))
            return torch.stack(given)

    model, sample = quantised(Unlike())
    path = tmp_path / "net.onnx"
    assert sxq.export_onnx(model, sample, path, input="spikes").time.startswith("fixed")
    found = sxq.verify(model, path, sample)
    assert found.ok, found
    assert [layer.compared for layer in found.layers] == [4 * 2 * 3, 3 * 2 * 6]
