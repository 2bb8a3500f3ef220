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
from snn_extreme_quant.frameworks import reset
from snn_extreme_quant.frameworks.testing import FrameworkContract, NeuronCase, assert_same_bits, random_currents
from snn_extreme_quant.neurons import neuron_sequence
from snn_extreme_quant_spikingjelly import layers as sxq_layers
from snn_extreme_quant_spikingjelly import plugin

WIDTH = 4
STEPS = 12


class TestContract(FrameworkContract):
    framework = plugin
    potential = "v"
    neurons = (
        NeuronCase("if", neuron.IFNode),
        NeuronCase("if-soft-multi", lambda: neuron.IFNode(v_reset=None, step_mode="m")),
        NeuronCase("if-value", lambda: neuron.IFNode(v_reset=-0.5, store_v_seq=True, step_mode="m")),
        NeuronCase("lif", neuron.LIFNode),
        NeuronCase("lif-multi", lambda: neuron.LIFNode(step_mode="m")),
        NeuronCase("lif-soft", lambda: neuron.LIFNode(tau=1.5, v_reset=None, decay_input=False)),
        NeuronCase("lif-value", lambda: neuron.LIFNode(v_reset=0.25, detach_reset=True, store_v_seq=True)),
    )


def check_bit_for_bit(node: Any, sequences: int, seed: int, training: bool = False) -> bool:
    """Compare neuron and spec on ``sequences`` random sequences; return whether a spike was among them."""
    reading = plugin.read_neuron(node)
    currents = random_currents(STEPS, sequences, WIDTH, reading.parameters["threshold"], seed)
    spikes, potentials = neuron_sequence(reading.spec, reading.parameters, currents, torch.full((), reading.v0))
    with torch.set_grad_enabled(training):
        x = currents.clone().requires_grad_(training)
        if reading.multi_step:
            own_spikes = node(x)
            own_potentials = node.v_seq if node.store_v_seq else None
        else:
            steps = [(node(step), node.v) for step in x]
            own_spikes, own_potentials = (torch.stack(values) for values in zip(*steps, strict=True))
    assert_same_bits(own_spikes, spikes, "spikes")
    assert_same_bits(node.v, potentials[-1], "last membrane potential")
    if own_potentials is not None:
        assert_same_bits(own_potentials, potentials, "membrane potentials")
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


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_reset_value_is_where_the_neuron_starts(step_mode: str) -> None:
    node = neuron.LIFNode(step_mode=step_mode)
    node.set_reset_value("v", 0.75)
    node.reset()
    assert plugin.read_neuron(node).v0 == 0.75
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


def at_low_precision() -> nn.Module:
    node = neuron.LIFNode()
    node._neuron_precision = ("fp16", "fp32", "fp32")
    return node


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "ParametricLIFNode": (neuron.ParametricLIFNode, ("ParametricLIFNode", "use its IFNode or LIFNode")),
    "QIFNode": (neuron.QIFNode, ("QIFNode", "use its IFNode or LIFNode")),
    "KLIFNode": (neuron.KLIFNode, ("KLIFNode", "use its IFNode or LIFNode")),
    "ILIFNode": (neuron.ILIFNode, ("ILIFNode overrides", "use LIFNode itself")),
    "SimpleLIFNode": (lambda: neuron.SimpleLIFNode(2.0, True), ("SimpleLIFNode", "use its IFNode or LIFNode")),
    "SynapseFilter": (layer.SynapseFilter, ("SynapseFilter", "use its IFNode or LIFNode")),
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
        ("IFNode starts from a tensor", "use set_reset_value('v', <number>)"),
    ),
    "low precision": (at_low_precision, ("LIFNode runs at a reduced precision", "clear it")),
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
]
NAMES = ["Linear", "Conv1d", "Conv2d"]


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
