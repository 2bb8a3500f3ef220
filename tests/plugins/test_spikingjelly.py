"""The SpikingJelly plugin: the contract, reset and state, and what a spec says of its neurons."""

import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn

from snn_extreme_quant.frameworks import reset
from snn_extreme_quant.frameworks.testing import FrameworkContract, NeuronCase
from snn_extreme_quant_spikingjelly import plugin

from .spikingjelly_nodes import WIDTH, in_mode, vector_plif


class TestContract(FrameworkContract):
    framework = plugin
    potential = "v"
    neurons = (
        NeuronCase("if", neuron.IFNode),
        NeuronCase("if-soft-multi", lambda: neuron.IFNode(v_reset=None, step_mode="m")),
        NeuronCase("if-value", lambda: neuron.IFNode(v_reset=-0.5, store_v_seq=True, step_mode="m")),
        NeuronCase("if-image", lambda: neuron.IFNode(step_mode="m"), (2, 5, 4)),
        NeuronCase("lif", neuron.LIFNode),
        NeuronCase("lif-multi", lambda: neuron.LIFNode(step_mode="m")),
        NeuronCase("lif-soft", lambda: neuron.LIFNode(tau=1.5, v_reset=None, decay_input=False)),
        NeuronCase("lif-value", lambda: neuron.LIFNode(v_reset=0.25, detach_reset=True, store_v_seq=True)),
        NeuronCase("plif", neuron.ParametricLIFNode),
        NeuronCase("plif-multi", lambda: neuron.ParametricLIFNode(3.0, decay_input=False, step_mode="m")),
        NeuronCase("plif-vector", vector_plif, WIDTH),
        NeuronCase("cuba", neuron.CUBALIFNode),
        NeuronCase("cuba-multi", lambda: in_mode(neuron.CUBALIFNode(v_reset=None), "m")),
        NeuronCase("ilif", neuron.ILIFNode),
        NeuronCase("ilif-multi", lambda: neuron.ILIFNode(step_mode="m")),
        NeuronCase("ternary-if", neuron.TernaryIFNode),
        NeuronCase("ternary-if-multi", lambda: neuron.TernaryIFNode(v_reset=None, step_mode="m")),
        NeuronCase("ternary-lif", neuron.TernaryLIFNode),
        NeuronCase("ternary-lif-multi", lambda: neuron.TernaryLIFNode(v_reset=0.25, step_mode="m")),
        NeuronCase("half-threshold", neuron.HalfThresholdIFNode),
        NeuronCase("half-threshold-multi", lambda: neuron.HalfThresholdIFNode(0.3, step_mode="m")),
        NeuronCase("simple-if", neuron.SimpleIFNode),
        NeuronCase("simple-if-multi", lambda: neuron.SimpleIFNode(v_reset=None, step_mode="m")),
        NeuronCase("simple-lif", lambda: neuron.SimpleLIFNode(2.0, True)),
        NeuronCase("simple-lif-multi", lambda: neuron.SimpleLIFNode(2.0, False, step_mode="m")),
        NeuronCase("sltt", neuron.SLTTLIFNode),
        NeuronCase("ottt", lambda: neuron.OTTTLIFNode().eval()),
    )


def test_reset_reaches_neurons_that_reset_net_has_cached_away() -> None:
    net = nn.Sequential(nn.Sequential(neuron.IFNode()))
    functional.reset_net(net)
    old = net[0][0]
    net[0][0] = neuron.IFNode(v_reset=None)
    net(torch.full((1, 2), 0.5))
    functional.reset_net(net)
    assert bool((net[0][0].v == 0.5).all()), "SpikingJelly no longer caches: after_swap() may go"
    reset(net)
    assert net[0][0].v == 0.0
    plugin.after_swap(net)
    net(torch.full((1, 2), 0.5))
    functional.reset_net(net)
    assert net[0][0].v == 0.0
    assert old.v == 0.0


def test_state_survives_a_reset_that_writes_in_place() -> None:
    """Where both the state and the reset value are tensors, SpikingJelly's reset writes into the state."""
    node = neuron.IFNode(v_reset=None)
    node(torch.full((1, 2), 0.5))
    node.set_reset_value("v", torch.zeros(1, 2))
    state = plugin.get_state(node)
    node.reset()
    plugin.set_state(node, state)
    assert bool((node.v == 0.5).all())


def test_state_holds_the_recorded_potentials() -> None:
    node = neuron.IFNode(v_reset=None, store_v_seq=True)
    node(torch.full((1, 2), 0.5))
    state = plugin.get_state(node)
    node(torch.full((1, 2), 0.25))
    plugin.set_state(node, state)
    assert node.v_seq.tolist() == [[[0.5, 0.5]]]


def test_reading_multi_step_follows_the_mode() -> None:
    node = neuron.LIFNode(step_mode="m")
    assert plugin.read_neuron(node).multi_step is True
    node.step_mode = "s"
    assert plugin.read_neuron(node).multi_step is False
    assert plugin.read_neuron(node).returns_state is False


def test_spec_says_what_spikingjelly_does() -> None:
    """Reaching the threshold is enough, and the reset comes in the same step."""
    spec = plugin.read_neuron(neuron.IFNode()).spec
    assert (spec.comparison, spec.timing, spec.reset) == ("ge", "same_step", "value")
    threshold: Tensor = plugin.read_neuron(neuron.IFNode()).parameters["threshold"]
    assert neuron.IFNode()(threshold.reshape(1, 1)).item() == 1.0


def test_a_signed_neuron_is_written_as_it_was_read():
    node = neuron.TernaryIFNode(v_threshold=0.75, v_reset=None)
    reading = plugin.read_neuron(node)
    twin = plugin.write_neuron(reading)
    assert type(twin) is type(node)
    assert plugin.read_neuron(twin).spec == reading.spec
    currents = torch.randn(20, 50)
    spikes = [torch.stack([each(x) for x in currents]) for each in (node, twin)]
    assert torch.equal(*spikes)
    assert spikes[0].min() == -1
