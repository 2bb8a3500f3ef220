"""The SpikingJelly plugin: the contract, every option bit for bit, and every refusal."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import base, functional, layer, neuron, surrogate
from torch import Tensor, nn

from snn_extreme_quant import Binary, Ternary
from snn_extreme_quant.errors import SampleError, UnsupportedNeuronError
from snn_extreme_quant.frameworks import neurons_of, reset
from snn_extreme_quant.frameworks.testing import FrameworkContract, NeuronCase, assert_same_bits, random_currents
from snn_extreme_quant.neurons import neuron_sequence
from snn_extreme_quant_spikingjelly import layers as sxq_layers
from snn_extreme_quant_spikingjelly import plugin

WIDTH = 4
STEPS = 12


def vector_plif() -> nn.Module:
    """A leak for each feature: SpikingJelly makes scalars, and takes what broadcasts."""
    node = neuron.ParametricLIFNode()
    node.w = nn.Parameter(torch.tensor([-1.0, 0.0, 0.5, 2.0]))
    return node


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


#: The memories by the names that the spec has for its states.
MEMORIES = {"v": "v", "i": "c"}


def in_mode(node: nn.Module, step_mode: str) -> nn.Module:
    """Set the mode of nodes whose constructor has no argument for it."""
    functional.set_step_mode(node, step_mode)
    return node


def check_bit_for_bit(node: Any, sequences: int, seed: int, training: bool = False) -> bool:
    """Compare neuron and spec on ``sequences`` random sequences; return whether a spike was among them."""
    reading = plugin.read_neuron(node)
    currents = random_currents(STEPS, sequences, WIDTH, reading.parameters["threshold"], seed)
    spikes, states = neuron_sequence(reading.spec, reading.parameters, currents, reading.initial_state())
    with torch.set_grad_enabled(training):
        x = currents.clone().requires_grad_(training)
        if reading.multi_step:
            own_spikes = node(x)
            own_potentials = node.v_seq if getattr(node, "store_v_seq", False) else None
        else:
            steps = [(node(step), node.v) for step in x]
            own_spikes, own_potentials = (torch.stack(values) for values in zip(*steps, strict=True))
    assert_same_bits(own_spikes, spikes, "spikes")
    for name, values in states.items():
        assert_same_bits(getattr(node, MEMORIES[name]), values[-1], f"last state {name!r}")
    if own_potentials is not None:
        assert_same_bits(own_potentials, states["v"], "membrane potentials")
    return bool(spikes.any())


COMMON = (
    (1.0, 0.3, 2.5),  # v_threshold
    (None, 0.0, -0.4, 0.25),  # v_reset
    ("s", "m"),  # step_mode
    (False, True),  # detach_reset
    (False, True),  # store_v_seq
    (False, True),  # with gradients
)


@pytest.mark.parametrize("v_reset", COMMON[1])
def test_if_node_is_reproduced_bit_for_bit(v_reset: float | None) -> None:
    """All combinations of options, 64 sequences each: 12,288 sequences over the four cases of this test."""
    grid = itertools.product(COMMON[0], *COMMON[2:])
    for seed, (threshold, step_mode, detach, store, training) in enumerate(grid):
        node = neuron.IFNode(threshold, v_reset, surrogate.Sigmoid(), detach, step_mode, store_v_seq=store)
        assert check_bit_for_bit(node, 64, seed, training)
    assert (seed + 1) * 64 * len(COMMON[1]) >= 10_000


@pytest.mark.parametrize("v_reset", COMMON[1])
def test_lif_node_is_reproduced_bit_for_bit(v_reset: float | None) -> None:
    """All combinations of options, 12 sequences each: 13,824 sequences over the four cases of this test."""
    grid = itertools.product((2.0, 1.5, 100 / 3), (False, True), COMMON[0], *COMMON[2:])
    fired = 0
    for seed, (tau, decay_input, threshold, step_mode, detach, store, training) in enumerate(grid):
        node = neuron.LIFNode(
            tau, decay_input, threshold, v_reset, surrogate.ATan(), detach, step_mode, store_v_seq=store
        )
        fired += check_bit_for_bit(node, 12, seed, training)
    assert (seed + 1) * 12 * len(COMMON[1]) >= 10_000
    assert fired > seed * 0.9


def check_grid(make: Callable[..., nn.Module], *options: Any, sequences: int, cases: int) -> None:
    """Compare ``make(*o, threshold, v_reset, step_mode, detach, store)`` for all combinations of options."""
    fired = 0
    for seed, (*chosen, training) in enumerate(itertools.product(*options, *COMMON)):
        fired += check_bit_for_bit(make(*chosen), sequences, seed, training)
    assert (seed + 1) * sequences * cases >= 10_000
    assert fired > seed * 0.9


@pytest.mark.parametrize("decay_input", [False, True])
def test_parametric_lif_node_is_reproduced_bit_for_bit(decay_input: bool) -> None:
    """All combinations of options, 12 sequences each: 13,824 sequences over the two cases of this test."""

    def make(tau: float, threshold: float, v_reset: float | None, mode: str, detach: bool, store: bool) -> nn.Module:
        return neuron.ParametricLIFNode(
            tau, decay_input, threshold, v_reset, surrogate.ATan(), detach, mode, store_v_seq=store
        )

    check_grid(make, (2.0, 1.5, 100 / 3), sequences=12, cases=2)


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_trained_leaks_are_read_as_torch_computes_them(step_mode: str) -> None:
    """Weights for which another formula of the sigmoid differs in its last bit, and random ones."""
    weights = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * 3
    odd = [w for w in weights if w.sigmoid() != 1 / (1 + (-w).exp())]
    assert odd
    for seed, w in enumerate([*odd, *weights[:10], *weights[:40].view(10, WIDTH)]):
        node = neuron.ParametricLIFNode(step_mode=step_mode)
        node.w = nn.Parameter(w.clone())
        assert check_bit_for_bit(node, 32, seed)


def test_cuba_lif_node_is_reproduced_bit_for_bit() -> None:
    """All combinations of options, 28 sequences each: 10,752 sequences."""

    def make(decays: Any, threshold: float, v_reset: float | None, mode: str, detach: bool, store: bool) -> nn.Module:
        node = neuron.CUBALIFNode(*decays, threshold, v_reset)
        node.detach_reset, node.store_v_seq = detach, store
        return in_mode(node, mode)

    check_grid(make, ((0.5, 0.75), (0.9, 1 / 3)), sequences=28, cases=1)


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_ilif_node_is_reproduced_bit_for_bit(step_mode: str) -> None:
    """All combinations of options, 72 sequences each: 10,368 sequences over the two cases of this test."""
    flags = (False, True)
    grid = itertools.product((4 / 3, 2.0, 100 / 3), (1.0, 0.3, 2.5), (1, 4), flags, flags)
    fired = 0
    for seed, (tau, threshold, levels, store, training) in enumerate(grid):
        counts = surrogate.MultiLevelSpikeCount(levels, grad_window=(-0.5, levels + 0.5))
        node = neuron.ILIFNode(tau, threshold, counts, training, step_mode, store)
        fired += check_bit_for_bit(node, 72, seed, training)
    assert (seed + 1) * 72 * 2 >= 10_000
    assert fired > seed * 0.9


def test_ilif_node_leaks_in_another_order_in_each_mode() -> None:
    """The two charges differ in their last bits, so one spec cannot serve both."""
    charges = [plugin.read_neuron(neuron.ILIFNode(step_mode=mode)).spec.charge for mode in ("s", "m")]
    assert charges == ["relax", "leak"]


TERNARY_RESETS = [None, 0.0, -0.2, 0.25]


@pytest.mark.parametrize("v_reset", TERNARY_RESETS)
def test_ternary_nodes_are_reproduced_bit_for_bit(v_reset: float | None) -> None:
    """All combinations of options, 24 sequences each: 11,520 sequences over the four cases of this test."""
    flags = (False, True)
    below = 0
    seed = 0
    for threshold, mode, detach, store, training in itertools.product((1.0, 0.3, 2.5), ("s", "m"), flags, flags, flags):
        options = (threshold, v_reset, surrogate.ATan(), detach, mode, store)
        nodes = [neuron.TernaryIFNode(*options)]
        if not store:
            nodes += [neuron.TernaryLIFNode(tau, decay, *options) for tau in (2.0, 1.5) for decay in (False, True)]
        else:
            nodes += [neuron.TernaryLIFNode(100 / 3, detach, *options)]
        for node in nodes:
            assert check_bit_for_bit(node, 24, seed, training)
            node.reset()
            currents = torch.full((2, 1, 1), -2 * threshold * 40)
            below += bool((node(currents if mode == "m" else currents[0]) == -1).any())
            seed += 1
    assert seed * 24 * 4 >= 10_000
    assert below == seed


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_half_threshold_and_simple_nodes_are_reproduced_bit_for_bit(step_mode: str) -> None:
    """All combinations of options, 64 sequences each: 11,520 sequences over the two cases of this test."""
    flags = (False, True)
    seed = 0
    for threshold, detach, training in itertools.product((1.0, 0.3, 2.5), flags, flags):
        shared: dict[str, Any] = {"v_threshold": threshold, "detach_reset": detach, "step_mode": step_mode}
        nodes = [neuron.HalfThresholdIFNode(**shared, store_v_seq=training)]
        nodes += [neuron.SimpleIFNode(v_reset=r, **shared) for r in (None, 0.0, -0.4, 0.25)]
        nodes += [neuron.SimpleLIFNode(tau, True, v_reset=r, **shared) for tau in (2.0, 100 / 3) for r in (0.0, -0.4)]
        nodes += [neuron.SimpleLIFNode(tau, False, v_reset=0.0, **shared) for tau in (2.0, 100 / 3)]
        for node in nodes:
            assert check_bit_for_bit(node, 64, seed, training)
            seed += 1
    assert seed * 64 * 2 >= 10_000


@pytest.mark.parametrize("v_reset", COMMON[1])
def test_nodes_for_online_learning_are_lif_nodes_in_evaluation(v_reset: float | None) -> None:
    """All combinations of options, 120 sequences each: 11,520 sequences over the four cases of this test."""
    flags = (False, True)
    kinds = ((neuron.SLTTLIFNode, "s"), (neuron.SLTTLIFNode, "m"), (neuron.OTTTLIFNode, "s"))
    for seed, ((cls, mode), decay, store, tau) in enumerate(itertools.product(kinds, flags, flags, (1.5, 100 / 3))):
        node = in_mode(cls(tau, decay, 0.75, v_reset, store_v_seq=store).eval(), mode)
        assert check_bit_for_bit(node, 120, seed)
    assert (seed + 1) * 120 * len(COMMON[1]) >= 10_000


@pytest.mark.parametrize("memory", ["v", "c"])
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_reset_values_of_both_memories_count(memory: str, step_mode: str) -> None:
    node = neuron.CUBALIFNode()
    node.set_reset_value(memory, 0.625)
    node.reset()
    assert plugin.read_neuron(node).initial[{"v": "v", "c": "i"}[memory]] == 0.625
    assert check_bit_for_bit(in_mode(node, step_mode), 16, 0)


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_reset_value_is_where_the_neuron_starts(step_mode: str) -> None:
    node = neuron.LIFNode(step_mode=step_mode)
    node.set_reset_value("v", 0.75)
    node.reset()
    assert plugin.read_neuron(node).initial == {"v": 0.75}
    assert check_bit_for_bit(node, 16, 0)


def test_numbers_are_read_when_they_are_asked_for() -> None:
    """A threshold changed after construction is the one that counts."""
    node = neuron.IFNode()
    node.v_threshold = 0.5
    assert plugin.read_neuron(node).parameters["threshold"].item() == 0.5
    assert check_bit_for_bit(node, 16, 0)


@pytest.mark.parametrize("surrogate_class", [surrogate.Sigmoid, surrogate.ATan, surrogate.PiecewiseQuadratic])
def test_surrogates_do_not_matter(surrogate_class: type[nn.Module]) -> None:
    assert check_bit_for_bit(neuron.LIFNode(surrogate_function=surrogate_class()), 16, 0)


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


# Layers.

LAYERS = [
    (layer.Linear, sxq_layers.Linear, (6, 5), (3, 2, 6)),
    (layer.Conv1d, sxq_layers.Conv1d, (2, 4, 3), (3, 2, 2, 9)),
    (layer.Conv2d, sxq_layers.Conv2d, (2, 4, 3), (3, 2, 2, 7, 7)),
    (layer.Conv3d, sxq_layers.Conv3d, (2, 4, 3), (3, 2, 2, 4, 5, 4)),
    (layer.ConvTranspose1d, sxq_layers.ConvTranspose1d, (2, 4, 3), (3, 2, 2, 9)),
    (layer.ConvTranspose2d, sxq_layers.ConvTranspose2d, (2, 4, 3), (3, 2, 2, 7, 7)),
    (layer.ConvTranspose3d, sxq_layers.ConvTranspose3d, (2, 4, 3), (3, 2, 2, 4, 5, 4)),
]
NAMES = [row[0].__name__ for row in LAYERS]


def test_every_layer_of_the_plugin_is_tested() -> None:
    assert {row[0]: row[1] for row in LAYERS} == dict(plugin.layers())


@pytest.mark.parametrize(("float_class", "quantised", "arguments", "shape"), LAYERS, ids=NAMES)
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_layers_take_over_the_step_mode(
    float_class: Any, quantised: Any, arguments: tuple[int, ...], shape: tuple[int, ...], step_mode: str
) -> None:
    """In mode "m" a sequence gives what mode "s" gives step by step."""
    swapped = quantised.from_float(float_class(*arguments, step_mode=step_mode), Binary())
    assert swapped.step_mode == step_mode
    assert f"step_mode={step_mode}" in repr(swapped)
    x = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).float()
    outputs = swapped(x) if step_mode == "m" else torch.stack([swapped(step) for step in x])
    functional.set_step_mode(swapped, "s" if step_mode == "m" else "m")
    others = torch.stack([swapped(step) for step in x]) if step_mode == "m" else swapped(x)
    assert_same_bits(outputs, others, "output in the other step mode")


@pytest.mark.parametrize(("float_class", "quantised", "arguments", "shape"), LAYERS, ids=NAMES)
def test_layers_are_step_modules(
    float_class: Any, quantised: Any, arguments: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    """SpikingJelly's own functions accept them, and refuse modes that do not exist."""
    made = quantised(*arguments, step_mode="m", config=Ternary())
    assert isinstance(made, base.StepModule)
    assert made.step_mode == "m"
    assert made(torch.ones(shape)).shape == float_class(*arguments, step_mode="m")(torch.ones(shape)).shape
    with pytest.raises(ValueError, match="x"):
        made.step_mode = "x"


def test_convolution_mode_m_needs_a_time_axis() -> None:
    made: Any = sxq_layers.Conv2d(2, 4, 3, step_mode="m")
    with pytest.raises(SampleError, match=r"Conv2d\(step_mode='m'\) takes \(T, N, C, H, W\); got \(2, 1, 7, 7\)"):
        made(torch.ones(2, 1, 7, 7))  # torch would take it for one image of two channels


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
