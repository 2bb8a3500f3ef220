"""Neurons of snnTorch that cannot be read: each says which option it is, and what to do."""

from collections.abc import Callable

import pytest
import snntorch as snn
import torch
from snntorch._neurons.neurons import SpikingNeuron
from torch import Tensor, nn

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant_snntorch import plugin


class Overriding(snn.Leaky):
    def fire(self, mem: Tensor) -> Tensor:
        return super().fire(mem) * 2


class OwnNeuron(snn.LIF):
    def forward(self, x: Tensor) -> Tensor:
        return self.fire(x)


class OtherStart(snn.Leaky):
    def reset_mem(self) -> Tensor:
        self.mem = torch.full_like(self.mem, 0.5)
        return self.mem


def changed_on_the_instance() -> nn.Module:
    neuron = snn.Leaky(beta=0.5)
    neuron.fire = lambda mem: mem
    return neuron


def changed_reset() -> nn.Module:
    neuron = snn.Leaky(beta=0.5, reset_mechanism="subtract")
    neuron.reset_mechanism = "zero"
    return neuron


def loaded_reset() -> nn.Module:
    neuron = snn.Leaky(0.9, reset_delay=False)
    neuron.load_state_dict(snn.Leaky(0.9, reset_mechanism="zero").state_dict())
    return neuron


def recurrent(layer: nn.Module) -> nn.Module:
    neuron = snn.RLeaky(0.9, linear_features=4)
    neuron.recurrent = layer
    return neuron


def graded_feedback() -> nn.Module:
    neuron = snn.RLeaky(0.9, linear_features=4)
    neuron.graded_spikes_factor.fill_(2.0)
    return neuron


def hooked() -> nn.Module:
    neuron = snn.RLeaky(0.9, linear_features=4)
    neuron.recurrent.register_forward_hook(lambda module, inputs, output: output * 2)
    return neuron


def zeroed_alpha() -> nn.Module:
    neuron = snn.Alpha(alpha=0.9, beta=0.8)
    neuron.alpha.zero_()
    neuron.beta.zero_()
    return neuron


def inhibited() -> nn.Module:
    with pytest.warns(UserWarning, match="Inhibition"):
        return snn.Leaky(beta=0.5, inhibition=True)


def rounded(mem: Tensor) -> Tensor:
    return mem.round()


DOUBLE = torch.full((4,), 0.5, dtype=torch.float64)

REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "SLSTM": (lambda: snn.SLSTM(4, 4), ("SLSTM", "sigmoid", "use snntorch.RLeaky")),
    "SConv2dLSTM": (lambda: snn.SConv2dLSTM(1, 4, 3), ("SConv2dLSTM", "sigmoid", "use snntorch.RLeaky")),
    "StateLeaky": (lambda: snn.StateLeaky(beta=0.5, channels=4), ("StateLeaky", "convolution", "use snntorch.Leaky")),
    "LinearLeaky": (lambda: snn.LinearLeaky(0.5, 4, 4), ("LinearLeaky", "convolution", "after a torch.nn.Linear")),
    "AssociativeLeaky": (lambda: snn.AssociativeLeaky(4, 2, 2, 4), ("AssociativeLeaky", "cumulative", "use snntorch.")),
    "LeakyParallel": (lambda: snn.LeakyParallel(4, 4), ("LeakyParallel", "torch.nn.RNN", "use snntorch.Leaky")),
    "LIF": (lambda: snn.LIF(0.5), ("LIF", "base class", "use snntorch.Leaky")),
    "own neuron": (lambda: OwnNeuron(beta=0.5), ("OwnNeuron (a LIF)", "base class", "use snntorch.Leaky")),
    "reset_delay": (
        lambda: snn.RSynaptic(0.9, 0.8, linear_features=4, reset_delay=False),
        ("RSynaptic(reset_delay=False)", "use reset_delay=True"),
    ),
    "graded feedback": (graded_feedback, ("RLeaky", "graded", "use a factor of 1")),
    "another recurrent layer": (
        lambda: recurrent(nn.Bilinear(4, 4, 4)),
        ("RLeaky.recurrent is a Bilinear", "use the torch.nn.Linear or Conv2d"),
    ),
    "strided recurrence": (
        lambda: recurrent(nn.Conv2d(2, 2, 3, stride=1, padding=1, groups=2)),
        ("RLeaky.recurrent", "another geometry", "groups 1"),
    ),
    "double recurrence": (
        lambda: recurrent(nn.Linear(4, 4).double()),
        ("RLeaky.recurrent", "torch.float64", ".float()"),
    ),
    "hooked recurrence": (hooked, ("RLeaky.recurrent has hooks", "remove them")),
    "alpha of 0": (zeroed_alpha, ("Alpha has alpha or beta of 0", "use 0 < beta < alpha")),
    "loaded reset mechanism": (
        loaded_reset,
        ("Leaky loaded the reset mechanism of another network", "set reset_mechanism = 'subtract'"),
    ),
    "overriding fire": (lambda: Overriding(beta=0.5), ("Overriding", "fire()", "use Leaky itself")),
    "overriding reset": (lambda: OtherStart(beta=0.5), ("OtherStart", "reset_mem()", "use Leaky itself")),
    "replaced fire": (changed_on_the_instance, ("Leaky", "fire()", "use Leaky itself")),
    "inhibition": (inhibited, ("Leaky(inhibition=True)", "use inhibition=False")),
    "state_quant": (lambda: snn.Leaky(beta=0.5, state_quant=rounded), ("state_quant", "use state_quant=False")),
    "graded surrogate": (
        lambda: snn.Leaky(beta=0.5, spike_grad=lambda x: x.clamp_min(0)),
        ("Leaky(spike_grad=...)", "use one of snntorch.surrogate"),
    ),
    "surrogate that fires at 0": (
        lambda: snn.Leaky(beta=0.5, spike_grad=lambda x: (x >= 0).float()),
        ("Leaky(spike_grad=...)", "use one of snntorch.surrogate"),
    ),
    "float64 beta": (lambda: snn.Leaky(beta=DOUBLE), ("Leaky.beta", "float64", "beta=....float()")),
    "float64 threshold": (
        lambda: snn.Leaky(beta=0.5, threshold=DOUBLE),
        ("Leaky.threshold", "float64", "threshold=....float()"),
    ),
    "float64 constant": (
        lambda: snn.Lapicque(R=DOUBLE[:1], C=DOUBLE[:1]),
        ("Lapicque.R", "float64", "R=....float()"),
    ),
    "changed reset mechanism": (changed_reset, ("Leaky", "another reset mechanism", "reset_mechanism='zero'")),
    "factor 0": (
        lambda: snn.Leaky(beta=0.5, graded_spikes_factor=0.0),
        ("graded_spikes_factor=0", "use a factor other than 0"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_option_and_remedy(case: str) -> None:
    make, needles = REFUSED[case]
    with pytest.raises(UnsupportedNeuronError) as caught:
        plugin.read_neuron(make())
    for needle in needles:
        assert needle in str(caught.value)


@pytest.mark.parametrize("case", [c for c in REFUSED if c not in {"overriding fire", "replaced fire"}])
def test_unreadable_neurons_are_still_neurons(case: str) -> None:
    """What cannot be read must be found, so that it is refused and not ignored."""
    assert plugin.is_neuron(REFUSED[case][0]()) is True


def test_plugin_brings_no_layers() -> None:
    assert dict(plugin.layers()) == {}


def test_every_neuron_of_snntorch_is_readable_or_has_a_reason() -> None:
    def descendants(cls: type) -> set[type]:
        return {cls, *(d for child in cls.__subclasses__() for d in descendants(child))}

    theirs = {c.__name__ for c in descendants(SpikingNeuron) if c.__module__.startswith("snntorch.")}
    known = [c.__name__ for c in plugin.neuron_classes()] + list(plugin.unreadable_neurons())
    assert sorted(known) == sorted({*theirs, "LeakyParallel"})
