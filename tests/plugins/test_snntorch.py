"""The snnTorch plugin: the contract, every option bit for bit, and every refusal."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
from snntorch import surrogate
from snntorch._neurons.neurons import SpikingNeuron
from torch import Tensor, nn

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks import reset
from snn_extreme_quant.frameworks.testing import FrameworkContract, NeuronCase, assert_same_bits, random_currents
from snn_extreme_quant.neurons import neuron_sequence
from snn_extreme_quant_snntorch import plugin

WIDTH = 4
STEPS = 12
RESETS = ("subtract", "zero", "none")
BETA_VECTOR = torch.tensor([0.95, 0.5, 1.4, -0.2])
THRESHOLD_VECTOR = torch.tensor([1.0, 0.3, 0.75, 2.5])


class TestContract(FrameworkContract):
    framework = plugin
    potential = "mem"
    neurons = (
        NeuronCase("leaky", lambda: snn.Leaky(beta=0.9)),
        NeuronCase("leaky-hidden", lambda: snn.Leaky(beta=0.9, init_hidden=True)),
        NeuronCase("leaky-output", lambda: snn.Leaky(beta=0.9, init_hidden=True, output=True)),
        NeuronCase("leaky-zero-vector", lambda: snn.Leaky(beta=BETA_VECTOR, reset_mechanism="zero"), WIDTH),
        NeuronCase("leaky-same-step", lambda: snn.Leaky(beta=0.8, reset_delay=False, graded_spikes_factor=2.0)),
        NeuronCase("leaky-learnt", lambda: snn.Leaky(beta=0.8, learn_beta=True, learn_threshold=True)),
        NeuronCase("lapicque", lambda: snn.Lapicque(beta=0.5, threshold=0.5)),
        NeuronCase("lapicque-rc", lambda: snn.Lapicque(R=2, C=3, threshold=0.2, reset_mechanism="zero")),
    )


def check_bit_for_bit(neuron: Any, sequences: int, seed: int) -> bool:
    """Compare neuron and spec on ``sequences`` random sequences; return whether a spike was among them."""
    reading = plugin.read_neuron(neuron)
    currents = random_currents(STEPS, sequences, WIDTH, reading.parameters["threshold"], seed)
    spikes, potentials = neuron_sequence(reading.spec, reading.parameters, currents, torch.full((), reading.v0))
    own_spikes, own_potentials = [], []
    with torch.no_grad():
        for x in currents:
            output = neuron(x)
            assert isinstance(output, tuple) == reading.returns_state
            own_spikes.append(output[0] if reading.returns_state else output)
            own_potentials.append(neuron.mem)
    assert_same_bits(torch.stack(own_spikes), spikes, "spikes")
    assert_same_bits(torch.stack(own_potentials), potentials, "membrane potentials")
    return bool((spikes != 0).any())


def learnable(value: Any, learn: bool) -> Any:
    """A learnable parameter must be floating point."""
    return torch.as_tensor(value, dtype=torch.float32).clone() if learn else value


@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("mechanism", RESETS)
def test_leaky_is_reproduced_bit_for_bit(mechanism: str, reset_delay: bool) -> None:
    """All combinations of options, 8 sequences each: 10,368 sequences over the six cases of this test."""
    grid = itertools.product(
        (0.9, BETA_VECTOR, 1.7, -0.3),  # outside [0, 1] snnTorch clamps
        (0.75, THRESHOLD_VECTOR, 1),
        (1.0, -0.5, torch.tensor([1.0, 2.0, 0.1, 3.0])),
        (False, True),
        ((False, False), (True, False), (True, True)),
    )
    fired = 0
    for seed, (beta, threshold, graded, learn, (init_hidden, output)) in enumerate(grid):
        neuron = snn.Leaky(
            beta=learnable(beta, learn),
            threshold=learnable(threshold, learn),
            graded_spikes_factor=graded,
            learn_beta=learn,
            learn_threshold=learn,
            init_hidden=init_hidden,
            output=output,
            reset_mechanism=mechanism,
            reset_delay=reset_delay,
        )
        fired += check_bit_for_bit(neuron, 8, seed)
    assert (seed + 1) * 8 * 6 >= 10_000
    assert fired > seed * 0.9


@pytest.mark.parametrize("mechanism", RESETS)
def test_lapicque_is_reproduced_bit_for_bit(mechanism: str) -> None:
    """All combinations of options, 32 sequences each: 10,368 sequences over the three cases of this test."""
    grid = itertools.product(
        (
            {"beta": 0.5},
            {"beta": 0.97},
            {"R": 5.1, "C": 0.05},
            {"R": 2, "C": 3},
            {"R": np.float64(1.7), "C": np.float64(2.3)},
            {"beta": 0.8, "R": 1.5},
            {"beta": 0.8, "R": 3},
            {"beta": 0.8, "C": 1.5},
            {"beta": 0.8, "C": 2},
        ),
        (1, 0.1),
        (0.75, THRESHOLD_VECTOR),
        ((False, False), (True, False), (True, True)),
    )
    for seed, (constants, time_step, threshold, (init_hidden, output)) in enumerate(grid):
        neuron = snn.Lapicque(
            **constants,
            time_step=time_step,
            threshold=threshold,
            reset_mechanism=mechanism,
            init_hidden=init_hidden,
            output=output,
        )
        check_bit_for_bit(neuron, 32, seed)
    assert (seed + 1) * 32 * 3 >= 10_000


def test_lapicque_reads_each_constant() -> None:
    """R, C and time step reach the reading: none of them is taken from beta alone."""
    neuron = snn.Lapicque(R=2.0, C=4.0, time_step=0.5)
    parameters = plugin.read_neuron(neuron).parameters
    assert parameters["resistance"].item() == 2.0
    assert parameters["inverse_rc"].item() == 0.125
    assert parameters["time_step"].item() == 0.5
    assert parameters["decay"].item() == 1 - 0.5 / 8


@pytest.mark.parametrize(
    "factory",
    [
        surrogate.atan,
        surrogate.fast_sigmoid,
        surrogate.sigmoid,
        surrogate.straight_through_estimator,
        surrogate.triangular,
        surrogate.heaviside,
        surrogate.SFS,
        surrogate.spike_rate_escape,
    ],
)
def test_surrogates_do_not_matter(factory: Callable[[], Any]) -> None:
    """Every deterministic surrogate of snnTorch fires above threshold; the backward pass is no part of the spec."""
    assert check_bit_for_bit(snn.Leaky(beta=0.5, spike_grad=factory()), 16, 0)


def test_surrogate_disable_is_read() -> None:
    assert check_bit_for_bit(snn.Leaky(beta=0.5, surrogate_disable=True), 16, 0)


def test_subclass_without_own_dynamics_is_read() -> None:
    class Named(snn.Leaky):
        def describe(self) -> str:
            return "a leaky neuron"

    assert check_bit_for_bit(Named(beta=0.5), 16, 0)


class Overriding(snn.Leaky):
    def fire(self, mem: Tensor) -> Tensor:
        return super().fire(mem) * 2


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


def inhibited() -> nn.Module:
    with pytest.warns(UserWarning, match="Inhibition"):
        return snn.Leaky(beta=0.5, inhibition=True)


def rounded(mem: Tensor) -> Tensor:
    return mem.round()


DOUBLE = torch.full((WIDTH,), 0.5, dtype=torch.float64)

REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "Synaptic": (lambda: snn.Synaptic(alpha=0.9, beta=0.8), ("Synaptic", "use snntorch's Leaky or Lapicque")),
    "Alpha": (lambda: snn.Alpha(alpha=0.9, beta=0.8), ("Alpha", "use snntorch's Leaky or Lapicque")),
    "RLeaky": (lambda: snn.RLeaky(beta=0.8, linear_features=4), ("RLeaky", "use snntorch's")),
    "RSynaptic": (lambda: snn.RSynaptic(alpha=0.9, beta=0.8, linear_features=4), ("RSynaptic", "use snntorch's")),
    "SLSTM": (lambda: snn.SLSTM(4, 4), ("SLSTM", "use snntorch's")),
    "StateLeaky": (lambda: snn.StateLeaky(beta=0.5, channels=4), ("StateLeaky", "use snntorch's")),
    "LeakyParallel": (lambda: snn.LeakyParallel(4, 4), ("LeakyParallel", "use snntorch's")),
    "DeltaLeaky": (lambda: snn.DeltaLeaky(beta=0.5), ("DeltaLeaky", "forward()", "use snntorch.Leaky itself")),
    "overriding fire": (lambda: Overriding(beta=0.5), ("Overriding", "fire()", "use snntorch.Leaky itself")),
    "overriding reset": (lambda: OtherStart(beta=0.5), ("OtherStart", "reset_mem()", "use snntorch.Leaky itself")),
    "replaced fire": (changed_on_the_instance, ("Leaky", "fire()", "use snntorch.Leaky itself")),
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


def test_plugin_brings_no_layers() -> None:
    assert dict(plugin.layers()) == {}
