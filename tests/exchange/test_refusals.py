"""Models, neurons and samples that NIR cannot carry: refused by name, with the remedy."""

import sys
from collections import OrderedDict
from collections.abc import Callable

import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import (
    ConfigError,
    MissingDependencyError,
    SampleError,
    UnsupportedModelError,
    UnsupportedNeuronError,
)
from snn_extreme_quant.exchange import from_nir, to_nir

from .custom import Custom, leaky
from .networks import build


def over_time(self: Custom, x: Tensor) -> Tensor:
    return torch.stack([self.lif(self.first(step)) for step in x])


def twice(self: Custom, x: Tensor) -> Tensor:
    return self.second(self.lif(self.first(self.first(x))))


def doubled(self: Custom, x: Tensor) -> Tensor:
    x = self.first(x)
    return self.lif(x + x)


def branching(self: Custom, x: Tensor) -> Tensor:
    return self.first(x) if x.sum() > 0 else self.second(x)


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "pool": (lambda: nn.Sequential(nn.Linear(4, 4), nn.MaxPool1d(2)), "Layer '1': NIR has no node for .*MaxPool1d"),
    "norm": (lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "batch norm has no node"),
    "subclass": (
        lambda: nn.Sequential(nn.Linear(4, 4), type("Flatten", (nn.Flatten,), {})()),
        "Layer '1': NIR has no node for .*test_refusals.Flatten",
    ),
    "namesake": (
        lambda: nn.Sequential(nn.Linear(4, 4), type("Dropout", (nn.Tanh,), {})()),
        "Layer '1': NIR has no node for .*test_refusals.Dropout",
    ),
    "loop": (lambda: Custom(over_time), "computes one time step"),
    "branch": (lambda: Custom(branching), "decides by its input's values"),
    "twice": (lambda: Custom(twice), "Layer 'first' is called more than once"),
    "doubled": (lambda: Custom(doubled), "'first' is added to itself"),
    "sigmoid": (lambda: Custom(lambda m, x: m.second(m.first(x).sigmoid())), r"calls sigmoid\(\)"),
    "constant": (lambda: Custom(lambda m, x: m.second(m.first(x) + 1.0)), "A sum takes 1.0"),
    "potential": (lambda: Custom(lambda m, x: m.second(m.first.weight)), "no membrane"),
    "sum of sums": (
        lambda: Custom(lambda m, x: m.second((m.first(x) + x) + (m.lif(m.first(x)) + x))),
        "called more than once|sum of two sums",
    ),
    "sum at the end": (lambda: Custom(lambda m, x: m.first(x) + m.second(x)), "output is a sum"),
    "nothing": (nn.Identity, "gives its input unchanged"),
    "layer itself": (lambda: nn.Linear(4, 4), "put it into nn.Sequential"),
    "name": (lambda: nn.Sequential(OrderedDict(output=nn.Linear(4, 4))), "as NIR's own node is"),
    "padding": (lambda: nn.Sequential(nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular")), "'circular'"),
    "kernel": (lambda: nn.Sequential(nn.Conv2d(1, 1, (3, 1))), "kernel of 3x1"),
    "ceil": (lambda: nn.Sequential(nn.AvgPool2d(2, ceil_mode=True)), "ceil_mode=False"),
    "batch": (lambda: nn.Sequential(nn.Flatten(0)), r"use Flatten\(1\)"),
    "axes": (lambda: nn.Sequential(nn.Linear(4, 4)), "takes 2 axes"),
}
SAMPLES = {"padding": (1, 1, 8), "kernel": (1, 1, 8, 8), "ceil": (1, 1, 8, 8), "axes": (1, 7, 4)}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_nir_cannot_carry(name: str) -> None:
    make, message = MODELS[name]
    with pytest.raises(UnsupportedModelError, match=message):
        to_nir(make(), torch.zeros(SAMPLES.get(name, (2, 4))))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_types_are_checked(dtype: torch.dtype) -> None:
    net, sample = build("LIFNode", sxq.Ternary())
    assert "output" in to_nir(net.to(dtype), sample.to(dtype) + 1).nodes


NEURONS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no reset": (lambda: leaky(reset_mechanism="none"), "Layer '1': NIR has no neuron node with no reset"),
    "graded": (lambda: leaky(graded_spikes_factor=2.0), "graded spikes; fold"),
    "partly leaking": (lambda: leaky(beta=torch.tensor([0.5, 1.0, 1.0, 1.0])), "Use two layers"),
    "synapse without leak": (lambda: snn.Synaptic(1.0, 0.5, init_hidden=True), "A decay of 1"),
    "alpha": (lambda: snn.Alpha(0.9, 0.8, init_hidden=True), "charging by 'alpha'"),
    "recurrent": (lambda: snn.RLeaky(0.9, linear_features=4, init_hidden=True), "fed back"),
    "ternary spikes": (neuron.TernaryLIFNode, "spikes by 'ternary'"),
    "no spec": (lambda: leaky(inhibition=True), "inhibition"),
}


@pytest.mark.parametrize("name", NEURONS)
def test_neurons_that_nir_cannot_carry(name: str) -> None:
    make, message = NEURONS[name]
    with pytest.raises(UnsupportedNeuronError, match=message):
        to_nir(nn.Sequential(nn.Linear(4, 4), make()))


def test_samples_and_time_steps_are_checked() -> None:
    net = nn.Sequential(nn.Linear(4, 4), leaky())
    with pytest.raises(SampleError, match="does not fit"):
        to_nir(net, torch.zeros(2, 5))
    for dt in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="time step in seconds"):
            to_nir(net, dt=dt)
        with pytest.raises(ConfigError, match="time step in seconds"):
            from_nir(to_nir(net), dt=dt)
    with pytest.raises(UnsupportedModelError, match="got int"):
        to_nir(3)


def test_the_package_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(4, 4), leaky())
    graph = to_nir(net)
    monkeypatch.setitem(sys.modules, "nir", None)
    for call in (lambda: to_nir(net), lambda: from_nir(graph)):
        with pytest.raises(MissingDependencyError, match=r'pip install "snn-extreme-quant\[nir\]"'):
            call()
