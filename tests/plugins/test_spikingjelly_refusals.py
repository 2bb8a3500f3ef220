"""What of SpikingJelly is a neuron, and which of them are refused, with the option and the remedy."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import base, layer, neuron, surrogate
from torch import Tensor, nn

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks import neurons_of
from snn_extreme_quant_spikingjelly import plugin

from .spikingjelly_nodes import WIDTH, in_mode


class Overriding(neuron.LIFNode):
    def single_step_functional_forward(self, inputs: Any, states: Any, **kwargs: Any) -> Any:
        return super().single_step_functional_forward((inputs[0] * 2,), states, **kwargs)


class OwnLIAF(neuron.LIAFNode):
    pass


class OwnNode(neuron.BaseNode):
    def single_step_functional_forward(self, inputs: Any, states: Any, **kwargs: Any) -> Any:
        return inputs, states


class OwnState(base.MemoryModule):
    def __init__(self) -> None:
        super().__init__()
        self.register_memory("trace", 0.0)


class OldStyle(neuron.LIFNode):
    """SpikingJelly 1 called this method; 2.0 never does."""

    def neuronal_charge(self, x: Tensor) -> None:
        self.v = self.v + 2 * x


class OtherReset(neuron.IFNode):
    def reset(self) -> None:
        super().reset()
        self.v = 0.5


def changed_on_the_instance() -> nn.Module:
    node = neuron.IFNode()
    node.single_step_forward = lambda x: x
    return node


def with_tensor(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        node = neuron.LIFNode()
        setattr(node, name, torch.ones(WIDTH))
        return node

    return make


def starting_from_a_tensor() -> nn.Module:
    node = neuron.IFNode()
    node.set_reset_value("v", torch.zeros(WIDTH))
    return node


def cuba_starting_from_a_tensor() -> nn.Module:
    node = neuron.CUBALIFNode()
    node.set_reset_value("c", torch.zeros(WIDTH))
    return node


def ilif_with_hard_reset() -> nn.Module:
    node = neuron.ILIFNode()
    node.v_reset = 0.0
    return node


def with_surrogate(node: Any, function: Any) -> nn.Module:
    node.surrogate_function = function
    return node


def with_threshold(node: Any) -> nn.Module:
    node.v_threshold = torch.ones(WIDTH)
    return node


def at_low_precision(node: Any) -> nn.Module:
    node._neuron_precision = ("fp16", "fp32", "fp32")
    return node


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "OTTTLIFNode over sequences": (
        lambda: in_mode(neuron.OTTTLIFNode(), "m"),
        ("OTTTLIFNode takes single steps alone", "set its step_mode to 's'"),
    ),
    "QIFNode": (neuron.QIFNode, ("QIFNode", "quadratic", "use LIFNode")),
    "KLIFNode": (neuron.KLIFNode, ("KLIFNode", "ReLU", "use ParametricLIFNode")),
    "LIAFNode": (lambda: neuron.LIAFNode(torch.relu, True), ("LIAFNode", "real activations", "use LIFNode")),
    "subclass of LIAFNode": (lambda: OwnLIAF(torch.relu, True), ("OwnLIAF (a LIAFNode)", "use LIFNode")),
    "DSRIFNode": (neuron.DSRIFNode, ("DSRIFNode", "threshold's height", "use IFNode")),
    "PSN": (lambda: neuron.PSN(4), ("PSN", "sums all steps", "use ParametricLIFNode")),
    "NonSpikingIFNode": (neuron.NonSpikingIFNode, ("NonSpikingIFNode", "membrane potentials", "forward()")),
    "SynapseFilter": (layer.SynapseFilter, ("SynapseFilter", "filters spikes", "use CUBALIFNode")),
    "Delay": (lambda: layer.Delay(2), ("Delay", "earlier steps", "delay the data")),
    "LinearRecurrentContainer": (
        lambda: layer.LinearRecurrentContainer(neuron.IFNode(), 4, 4),
        ("LinearRecurrentContainer", "its layer rc", "forward()"),
    ),
    "ElementWiseRecurrentContainer": (
        lambda: layer.ElementWiseRecurrentContainer(neuron.IFNode(), torch.add),
        ("ElementWiseRecurrentContainer", "a function of yours", "forward()"),
    ),
    "own state": (OwnState, ("OwnState is a MemoryModule with state of its own (trace)", "SpikingJelly's neurons")),
    "own node": (OwnNode, ("OwnNode (a BaseNode)", "base class", "use IFNode or LIFNode")),
    "low precision ILIF": (lambda: at_low_precision(neuron.ILIFNode()), ("ILIFNode runs at a reduced precision",)),
    "ILIF without counts": (
        lambda: with_surrogate(neuron.ILIFNode(), surrogate.Sigmoid()),
        ("ILIFNode(surrogate_function=...)", "use MultiLevelSpikeCount"),
    ),
    "ILIF with hard reset": (ilif_with_hard_reset, ("ILIFNode ignores v_reset", "set v_reset=None")),
    "double PLIF": (lambda: neuron.ParametricLIFNode().double(), ("ParametricLIFNode.w", "float64", ".float()")),
    "soft simple LIF": (
        lambda: neuron.SimpleLIFNode(2.0, True, v_reset=None),
        ("SimpleLIFNode(v_reset=None)", "use LIFNode(v_reset=None)"),
    ),
    "simple LIF with a first step in double": (
        lambda: neuron.SimpleLIFNode(2.0, False, v_reset=0.25),
        ("SimpleLIFNode computes its first step in double", "use LIFNode"),
    ),
    "tensor reset value of the current": (
        cuba_starting_from_a_tensor,
        ("CUBALIFNode starts from a tensor of c", "set_reset_value('c', <number>)"),
    ),
    "tensor threshold of ternary": (
        lambda: with_threshold(neuron.TernaryIFNode()),
        ("TernaryIFNode.v_threshold is a Tensor", "a number alone"),
    ),
    "old-style charge": (OldStyle, ("OldStyle overrides neuronal_charge() of LIFNode", "use LIFNode itself")),
    "overriding a step": (
        Overriding,
        ("Overriding", "single_step_functional_forward()", "use LIFNode itself"),
    ),
    "overriding reset": (OtherReset, ("OtherReset", "reset()", "use IFNode itself")),
    "replaced step": (changed_on_the_instance, ("IFNode", "single_step_forward()", "use IFNode itself")),
    "surrogate without spikes": (
        lambda: neuron.LIFNode(surrogate_function=surrogate.Sigmoid(spiking=False)),
        ("LIFNode(surrogate_function=...)", "spiking=True"),
    ),
    "surrogate that does not fire at 0": (
        lambda: neuron.IFNode(surrogate_function=lambda x: (x > 0).float()),
        ("IFNode(surrogate_function=...)", "use one of spikingjelly.activation_based.surrogate"),
    ),
    "tensor threshold": (with_tensor("v_threshold"), ("LIFNode.v_threshold is a Tensor", "a number alone")),
    "tensor reset": (with_tensor("v_reset"), ("LIFNode.v_reset is a Tensor", "a number alone")),
    "tensor tau": (with_tensor("tau"), ("LIFNode.tau is a Tensor", "a number alone")),
    "tensor reset value": (
        starting_from_a_tensor,
        ("IFNode starts from a tensor of v", "use set_reset_value('v', <number>)"),
    ),
    "low precision": (lambda: at_low_precision(neuron.LIFNode()), ("LIFNode runs at a reduced precision", "clear it")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_option_and_remedy(case: str) -> None:
    make, needles = REFUSED[case]
    with pytest.raises(UnsupportedNeuronError) as caught:
        plugin.read_neuron(make())
    for needle in needles:
        assert needle in str(caught.value)


@pytest.mark.parametrize("case", REFUSED)
def test_unreadable_neurons_are_still_neurons(case: str) -> None:
    """What cannot be read must be found, so that it is refused and not ignored."""
    assert plugin.is_neuron(REFUSED[case][0]()) is True


def test_dropout_is_no_neuron() -> None:
    """Its mask is state, but it does nothing in evaluation."""
    assert plugin.is_neuron(layer.Dropout(0.5)) is False
    assert plugin.is_neuron(layer.Dropout2d(0.5)) is False


class Network(base.MemoryModule):
    """A whole network as a MemoryModule, as users write it to get ``step_mode`` and ``reset``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(layer.Linear(4, 4), neuron.IFNode())

    def single_step_forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


def test_a_network_without_memories_of_its_own_is_no_neuron() -> None:
    """Its neurons are found inside it."""
    net = Network()
    assert plugin.is_neuron(net) is False
    assert [n.name for n in neurons_of(net)] == ["layers.1"]


@pytest.mark.parametrize(
    "node", [neuron.PSN(4), neuron.DSRIFNode(), neuron.NonSpikingIFNode()], ids=lambda n: type(n).__name__
)
def test_neurons_without_memories_are_neurons_still(node: nn.Module) -> None:
    """They start afresh in each call, but what they compute is no layer's."""
    assert plugin.is_neuron(node) is True


def test_every_neuron_of_spikingjelly_is_readable_or_has_a_reason() -> None:
    theirs = {
        name
        for name, cls in vars(neuron).items()
        if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__.startswith(neuron.__name__)
    }
    known = {c.__name__ for c in plugin.neuron_classes()} | set(plugin.unreadable_neurons())
    assert not theirs - known
    extra = known - theirs
    assert all(issubclass(getattr(layer, name), base.MemoryModule) for name in extra)


def test_every_stateful_layer_of_spikingjelly_has_a_reason() -> None:
    theirs = {
        name
        for name, cls in vars(layer).items()
        if isinstance(cls, type) and issubclass(cls, base.MemoryModule) and cls is not base.MemoryModule
    }
    assert theirs - {"Dropout", "Dropout2d"} <= set(plugin.unreadable_neurons())
