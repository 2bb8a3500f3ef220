"""Options that make no sense are refused, and none is silently left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import Stream, session
from snn_extreme_quant.errors import ConfigError, SampleError

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("session") / "net.onnx"
    model = nn.Sequential(neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m"))
    sxq.export_onnx(model, torch.ones(3, 2, 4), found, input="spikes", form="streaming")
    return found


@pytest.mark.parametrize("threads", [-1, 1.5, "2", True, 10**9])
def test_threads_that_are_no_number(path: Path, threads: Any) -> None:
    with pytest.raises(ConfigError, match="threads"):
        session(path, threads=threads, native=False)


@pytest.mark.parametrize("native", [1, 0, "yes", None])
def test_native_is_a_bool_or_auto(path: Path, native: Any) -> None:
    with pytest.raises(ConfigError, match="native"):
        session(path, native=native)


@pytest.mark.parametrize(
    "providers", [["NoSuchExecutionProvider"], ["NoSuchExecutionProvider", "CPUExecutionProvider"], [], "CPU", [3]]
)
def test_providers_that_are_not_available(path: Path, providers: Any) -> None:
    with pytest.raises(ConfigError, match="provider"):
        session(path, providers=providers, native=False)


def test_options_that_make_sense(path: Path) -> None:
    session(path, threads=0, native=False)
    session(path, threads=2, providers=["CPUExecutionProvider"], native=False)
    session(path, providers=[("CPUExecutionProvider", {})], native=False)


@pytest.mark.parametrize(
    "wrong",
    [3, [1.0], {1: 2, "x": 3}, {"{name}": "text"}, {"{name}": object()}, {"{name}": np.full((2, 4), np.nan)}],
)
def test_a_wrong_state_is_refused_and_the_old_one_kept(path: Path, wrong: Any) -> None:
    stream = Stream(path, native=False)
    stream.step(np.zeros((2, 4), np.float32))
    before = stream.state
    given = {str(k).format(name=next(iter(before))): v for k, v in wrong.items()} if isinstance(wrong, dict) else wrong
    with pytest.raises(SampleError):
        stream.state = given
    assert {name: value.tobytes() for name, value in stream.state.items()} == {
        name: value.tobytes() for name, value in before.items()
    }


@pytest.mark.parametrize("threshold", [torch.ones(3), "a", None, torch.tensor([1.0, -1.0]), -1.0])
def test_a_synchronous_neuron_has_one_threshold(threshold: Any) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        sxq.SynchronousIF(4, threshold)
