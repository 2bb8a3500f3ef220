"""The snnTorch plugin: the contract, every option bit for bit, and every refusal."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor, nn

from snn_extreme_quant import Ternary
from snn_extreme_quant.frameworks.testing import FrameworkContract, NeuronCase, assert_same_bits, random_currents
from snn_extreme_quant.layers import Conv2d, Linear
from snn_extreme_quant.neurons import neuron_sequence
from snn_extreme_quant_snntorch import plugin

WIDTH = 4
STEPS = 12
RESETS = ("subtract", "zero", "none")
BETA_VECTOR = torch.tensor([0.95, 0.5, 1.4, -0.2])
ALPHA_VECTOR = torch.tensor([0.9, 0.6, 0.99, 0.2])
THRESHOLD_VECTOR = torch.tensor([1.0, 0.3, 0.75, 2.5])


#: The neurons' attributes by the names that the spec has for their states.
STATES = {"v": "mem", "i": "syn", "i_exc": "syn_exc", "i_inh": "syn_inh", "s": "spk"}


def quantised(neuron: Any) -> Any:
    """Quantise the layer inside a recurrent neuron, as ``quantize_`` does."""
    (name,) = plugin.inner_layers(neuron)
    layer = getattr(neuron, name)
    swapped = (Linear if isinstance(layer, nn.Linear) else Conv2d).from_float(layer, Ternary())
    setattr(neuron, name, swapped)
    return neuron


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Draw the same weights each time."""

    def build() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return make()

    return build


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
        NeuronCase("leaky-image", lambda: snn.Leaky(beta=torch.tensor([0.5, 0.9]).view(2, 1, 1)), (2, 5, 4)),
        NeuronCase("lapicque", lambda: snn.Lapicque(beta=0.5, threshold=0.5)),
        NeuronCase("lapicque-rc", lambda: snn.Lapicque(R=2, C=3, threshold=0.2, reset_mechanism="zero")),
        NeuronCase("synaptic", lambda: snn.Synaptic(alpha=0.8, beta=0.9)),
        NeuronCase("synaptic-hidden", lambda: snn.Synaptic(alpha=0.8, beta=0.9, init_hidden=True)),
        NeuronCase("synaptic-same-step", lambda: snn.Synaptic(alpha=0.8, beta=BETA_VECTOR, reset_delay=False), WIDTH),
        NeuronCase("alpha", lambda: snn.Alpha(alpha=0.9, beta=0.8)),
        NeuronCase("alpha-subtract", lambda: snn.Alpha(alpha=0.9, beta=0.8, reset_mechanism="subtract")),
        NeuronCase("alpha-hidden", lambda: snn.Alpha(alpha=0.9, beta=0.8, init_hidden=True)),
        NeuronCase("delta", lambda: snn.DeltaLeaky(beta=0.5, init_hidden=True)),
        NeuronCase("rleaky-linear", seeded(lambda: snn.RLeaky(beta=0.9, linear_features=8))),
        NeuronCase("rleaky-linear-hidden", seeded(lambda: snn.RLeaky(0.9, linear_features=8, init_hidden=True))),
        NeuronCase("rleaky-ternary", seeded(lambda: quantised(snn.RLeaky(0.9, linear_features=8)))),
        NeuronCase("rleaky-conv", seeded(lambda: snn.RLeaky(0.9, conv2d_channels=2, kernel_size=3)), (2, 5, 4)),
        NeuronCase(
            "rleaky-conv-ternary",
            seeded(lambda: quantised(snn.RLeaky(0.9, conv2d_channels=2, kernel_size=(3, 1)))),
            (2, 5, 4),
        ),
        NeuronCase("rleaky-one-to-one", lambda: snn.RLeaky(0.9, V=BETA_VECTOR, all_to_all=False), WIDTH),
        NeuronCase("rsynaptic-linear", seeded(lambda: snn.RSynaptic(0.8, 0.9, linear_features=8))),
        NeuronCase("rsynaptic-ternary", seeded(lambda: quantised(snn.RSynaptic(0.8, 0.9, linear_features=8)))),
        NeuronCase(
            "rsynaptic-conv", seeded(lambda: snn.RSynaptic(0.8, 0.9, conv2d_channels=2, kernel_size=3)), (2, 5, 4)
        ),
        NeuronCase("rsynaptic-one-to-one", lambda: snn.RSynaptic(0.8, 0.9, V=-0.5, all_to_all=False)),
    )


def check_bit_for_bit(neuron: Any, sequences: int, seed: int, shape: tuple[int, ...] = (WIDTH,)) -> bool:
    """Compare neuron and spec on ``sequences`` random sequences; return whether a spike was among them."""
    reading = plugin.read_neuron(neuron)
    currents = random_currents(STEPS, sequences, shape, reading.parameters["threshold"], seed)
    with torch.no_grad():
        spikes, states = neuron_sequence(
            reading.spec, reading.parameters, currents, reading.initial_state(), reading.recurrent
        )
    own_spikes = []
    own_states: dict[str, list[Tensor]] = {name: [] for name in reading.spec.states}
    with torch.no_grad():
        for x in currents:
            output = neuron(x)
            assert isinstance(output, tuple) == reading.returns_state
            own_spikes.append(output[0] if reading.returns_state else output)
            for name, values in own_states.items():
                values.append(getattr(neuron, STATES[name]))
    assert_same_bits(torch.stack(own_spikes), spikes, "spikes")
    for name, values in own_states.items():
        assert_same_bits(torch.stack(values), states[name], f"state {name!r}")
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


@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("mechanism", RESETS)
def test_synaptic_is_reproduced_bit_for_bit(mechanism: str, reset_delay: bool) -> None:
    """All combinations of options, 24 sequences each: 10,368 sequences over the six cases of this test."""
    grid = itertools.product(
        (0.8, ALPHA_VECTOR),
        (0.9, BETA_VECTOR, 1.7),
        (0.75, THRESHOLD_VECTOR),
        (False, True),
        ((False, False), (True, False), (True, True)),
    )
    fired = 0
    for seed, (alpha, beta, threshold, learn, (init_hidden, output)) in enumerate(grid):
        neuron = snn.Synaptic(
            alpha=learnable(alpha, learn),
            beta=learnable(beta, learn),
            threshold=learnable(threshold, learn),
            learn_alpha=learn,
            learn_beta=learn,
            learn_threshold=learn,
            init_hidden=init_hidden,
            output=output,
            reset_mechanism=mechanism,
            reset_delay=reset_delay,
        )
        fired += check_bit_for_bit(neuron, 24, seed)
    assert (seed + 1) * 24 * 6 >= 10_000
    assert fired > seed * 0.9


@pytest.mark.parametrize("mechanism", RESETS)
def test_alpha_is_reproduced_bit_for_bit(mechanism: str) -> None:
    """All combinations of options, 72 sequences each: 10,368 sequences over the three cases of this test."""
    grid = itertools.product(
        ((0.9, 0.8), (0.95, torch.tensor([0.5, 0.1, 0.9, 0.3])), (ALPHA_VECTOR, ALPHA_VECTOR / 2), (1.0, 0.5)),
        (0.75, THRESHOLD_VECTOR),
        (False, True),
        ((False, False), (True, False), (True, True)),
    )
    fired = 0
    for seed, ((alpha, beta), threshold, learn, (init_hidden, output)) in enumerate(grid):
        neuron = snn.Alpha(
            alpha=alpha,
            beta=learnable(beta, learn),
            threshold=learnable(threshold, learn),
            learn_beta=learn,
            learn_threshold=learn,
            init_hidden=init_hidden,
            output=output,
            reset_mechanism=mechanism,
        )
        fired += check_bit_for_bit(neuron, 72, seed)
    assert (seed + 1) * 72 * 3 >= 10_000
    assert fired > seed * 0.9


#: How spikes come back: arguments of the neuron, and the shape of its input.
FEEDBACKS: tuple[tuple[dict[str, Any], tuple[int, ...]], ...] = (
    ({"linear_features": WIDTH}, (WIDTH,)),
    ({"conv2d_channels": 3, "kernel_size": 3}, (3, 4, 5)),
    ({"conv2d_channels": 2, "kernel_size": (5, 1)}, (2, 5, 4)),
    ({"all_to_all": False, "V": 0.5}, (WIDTH,)),
    ({"all_to_all": False, "V": BETA_VECTOR}, (WIDTH,)),
)


@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("mechanism", RESETS)
def test_rleaky_is_reproduced_bit_for_bit(mechanism: str, reset_delay: bool) -> None:
    """All combinations of options, 14 sequences each: 10,752 sequences over the six cases of this test."""
    grid = itertools.product((0.9, 1.7), (0.75, 0.25), (False, True), (False, True), ((False, False), (True, True)))
    seed = 0
    for beta, threshold, learn, low_bit, (init_hidden, output) in grid:
        for feedback, shape in FEEDBACKS:
            if low_bit and "V" in feedback:
                continue
            neuron = snn.RLeaky(
                beta=learnable(beta, learn),
                threshold=learnable(threshold, learn),
                learn_beta=learn,
                learn_threshold=learn,
                learn_recurrent=learn,
                init_hidden=init_hidden,
                output=output,
                reset_mechanism=mechanism,
                reset_delay=reset_delay,
                **feedback,
            )
            assert check_bit_for_bit(quantised(neuron) if low_bit else neuron, 14, seed, shape)
            seed += 1
    assert seed * 14 * 6 >= 10_000


@pytest.mark.parametrize("mechanism", RESETS)
def test_rsynaptic_is_reproduced_bit_for_bit(mechanism: str) -> None:
    """All combinations of options, 28 sequences each: 10,752 sequences over the three cases of this test."""
    grid = itertools.product((0.8, 0.3), (0.75, 0.25), (False, True), (False, True), ((False, False), (True, True)))
    seed = 0
    for alpha, threshold, learn, low_bit, (init_hidden, output) in grid:
        for feedback, shape in FEEDBACKS:
            if low_bit and "V" in feedback:
                continue
            neuron = snn.RSynaptic(
                alpha=learnable(alpha, learn),
                beta=0.9,
                threshold=learnable(threshold, learn),
                learn_alpha=learn,
                learn_threshold=learn,
                learn_recurrent=learn,
                init_hidden=init_hidden,
                output=output,
                reset_mechanism=mechanism,
                **feedback,
            )
            assert check_bit_for_bit(quantised(neuron) if low_bit else neuron, 28, seed, shape)
            seed += 1
    assert seed * 28 * 3 >= 10_000


def test_delta_leaky_is_reproduced_bit_for_bit() -> None:
    """All combinations of options, 256 sequences each: 10,240 sequences. Beta is not clamped, resets do nothing."""
    grid = itertools.product(
        (0.9, BETA_VECTOR, 1.7, -0.3, 1),
        (0.75, THRESHOLD_VECTOR),
        (False, True),
        ({"init_hidden": True}, {"init_hidden": True, "reset_mechanism": "zero", "reset_delay": False}),
    )
    for seed, (beta, threshold, learn, options) in enumerate(grid):
        neuron = snn.DeltaLeaky(threshold, beta=learnable(beta, learn), learn_beta=learn, **options)
        assert check_bit_for_bit(neuron, 256, seed)
    assert (seed + 1) * 256 >= 10_000


def test_delta_leaky_with_states_from_outside() -> None:
    """Without ``init_hidden`` the caller hands over ``(mem, mem_prev)`` and gets the next pair."""
    neuron = snn.DeltaLeaky(0.5, beta=0.9)
    reading = plugin.read_neuron(neuron)
    assert (reading.arguments, reading.grouped, reading.returns_state) == (("v", "v_before"), True, True)
    currents = random_currents(STEPS, 16, WIDTH, reading.parameters["threshold"])
    spikes, states = neuron_sequence(reading.spec, reading.parameters, currents, reading.initial_state())
    pair = (torch.zeros(16, WIDTH), torch.zeros(16, WIDTH))
    for t, x in enumerate(currents):
        before = pair[0]
        spike, pair = neuron(x, pair)
        assert_same_bits(spike, spikes[t], "spikes")
        assert_same_bits(pair[0], states["v"][t], "potential")
        assert_same_bits(pair[1], before, "potential before")


@pytest.mark.parametrize("make", [snn.Synaptic, snn.Alpha, snn.Lapicque])
def test_grading_by_the_buffer_is_read(make: Any) -> None:
    """Their constructors take no ``graded_spikes_factor``, but they multiply by the buffer, which a checkpoint sets."""
    neuron = make(beta=0.8) if make is snn.Lapicque else make(alpha=0.9, beta=0.8)
    neuron.graded_spikes_factor.fill_(-2.5)
    assert plugin.read_neuron(neuron).spec.graded
    assert check_bit_for_bit(neuron, 32, 0)


def test_the_one_to_one_weight_is_the_one_that_is_used() -> None:
    """After ``.to()`` the buffer ``V`` and the V of the recurrent module are two tensors; the module's counts."""
    neuron = snn.RLeaky(0.9, V=0.5, all_to_all=False, learn_recurrent=False)
    neuron.recurrent.V = torch.tensor(0.25)
    assert plugin.read_neuron(neuron).parameters["feedback"].item() == 0.25
    assert check_bit_for_bit(neuron, 32, 0)


def test_a_loaded_reset_mechanism_that_does_not_matter() -> None:
    """With the usual delay snnTorch never looks at the buffer that a checkpoint may have changed."""
    neuron = snn.Leaky(0.9)
    neuron.load_state_dict(snn.Leaky(0.9, reset_mechanism="zero").state_dict())
    assert plugin.read_neuron(neuron).spec.reset == "subtract"
    assert check_bit_for_bit(neuron, 32, 0)


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
