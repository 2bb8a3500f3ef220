"""The states of snnTorch's neurons: what a reset clears, what is held, and who else knows the neurons."""

import copy
from collections.abc import Callable

import pytest
import snntorch as snn
import torch
from snntorch._neurons.neurons import SpikingNeuron
from torch import nn

from snn_extreme_quant.frameworks import reset
from snn_extreme_quant.frameworks.testing import assert_same_bits
from snn_extreme_quant_snntorch import plugin

STATEFUL: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "Leaky": (lambda: snn.Leaky(beta=0.9, init_hidden=True), ("mem",)),
    "Synaptic": (lambda: snn.Synaptic(alpha=0.9, beta=0.8, init_hidden=True), ("mem", "syn")),
    "Alpha": (lambda: snn.Alpha(alpha=0.9, beta=0.8, init_hidden=True), ("mem", "syn_exc", "syn_inh")),
    "RLeaky": (lambda: snn.RLeaky(beta=0.9, linear_features=4, init_hidden=True), ("mem", "spk")),
    "RSynaptic": (
        lambda: snn.RSynaptic(alpha=0.9, beta=0.9, linear_features=4, init_hidden=True),
        ("mem", "spk", "syn"),
    ),
}


@pytest.mark.parametrize("case", STATEFUL)
def test_reset_clears_every_state_tensor(case: str) -> None:
    """Not the membrane potential alone: a synaptic current left over changes the next sequence."""
    make, names = STATEFUL[case]
    net = nn.Sequential(nn.Sequential(make()))
    x = torch.rand(6, 2, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = torch.stack([net(step) for step in x])
        assert all(bool(getattr(net[0][0], name).any()) for name in names)
        reset(net)
        assert not any(bool(getattr(net[0][0], name).any()) for name in names)
        assert_same_bits(torch.stack([net(step) for step in x]), first, "spikes after a reset")


@pytest.mark.parametrize("case", STATEFUL)
def test_state_holds_every_state_tensor(case: str) -> None:
    make, names = STATEFUL[case]
    neuron = make()
    x = torch.rand(6, 2, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for step in x[:3]:
            neuron(step)
        state = plugin.get_state(neuron)
        want = {name: getattr(neuron, name).clone() for name in names}
        for step in x[3:]:
            neuron(step)
        plugin.set_state(neuron, state)
    assert set(names) <= set(state)
    for name in names:
        assert_same_bits(getattr(neuron, name), want[name], name)


def test_a_fresh_neuron_has_no_pending_reset_to_restore() -> None:
    neuron = snn.Leaky(beta=0.9)
    state = plugin.get_state(neuron)
    neuron(torch.ones(2, 4))
    plugin.set_state(neuron, state)
    assert "reset" not in vars(neuron)
    assert neuron.mem.shape == (0,)


def test_reset_reaches_copies_and_leaves_no_graph() -> None:
    """snnTorch's own reset does not know deep copies; a potential with a graph could not be copied either."""
    net = nn.Sequential(snn.Leaky(beta=0.9, init_hidden=True))
    twin = copy.deepcopy(net)
    for model in (net, twin):
        model(torch.ones(1, 4, requires_grad=True))
        reset(model)
        assert not model[0].mem.any()
        assert not model[0].mem.requires_grad
    copy.deepcopy(net)


def test_capturing_hides_the_process_wide_list() -> None:
    """``utils.reset`` inside a traced forward pass must not touch other networks."""
    before = SpikingNeuron.instances
    with plugin.capturing():
        assert SpikingNeuron.instances == []
        snn.Leaky(beta=0.5)
    assert SpikingNeuron.instances is before
