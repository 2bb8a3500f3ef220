"""Each equation of NeuronSpec's docstring, worked by hand; the frameworks themselves are compared in tests/plugins."""

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_extreme_quant import NeuronSpec
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons import neuron_sequence, neuron_step
from snn_extreme_quant.neurons.spec import Charge

#: A spec for each way of charging, firing and feeding back, and for each pair of reset and timing.
SPECS = [
    *(NeuronSpec(c, "gt", "subtract", "delayed") for c in get_args(Charge)),
    *(NeuronSpec("leak", "ge", r, "same_step", graded=True) for r in ("subtract", "zero", "value", "none")),
    *(NeuronSpec("relax", "ge", r, "delayed") for r in ("subtract", "zero", "cancel", "none")),
    *(NeuronSpec("integrate", "gt", r, "compensated") for r in ("subtract", "zero", "cancel", "none")),
    *(NeuronSpec("alpha", "gt", r, "delayed") for r in ("cancel", "none")),
    *(NeuronSpec("relax", "ge", r, "same_step", fire="ternary") for r in ("subtract", "value", "none")),
    *(NeuronSpec("leak", "ge", r, "same_step", fire="count") for r in ("subtract", "none")),
    NeuronSpec("leak", "gt", "none", "same_step", fire="change"),
    *(NeuronSpec("leak", "gt", "cancel", "delayed", feedback=f) for f in ("elementwise", "linear", "conv")),
    *(NeuronSpec("synaptic", "gt", "subtract", "delayed", feedback=f) for f in ("elementwise", "linear", "conv")),
]


def parameters_for(spec: NeuronSpec) -> dict[str, torch.Tensor]:
    values = torch.tensor([0.75, 0.5, 1.25, 0.625, 1.5])
    return dict(zip(spec.parameter_names, values, strict=False))


def recurrent_for(spec: NeuronSpec) -> Any:
    """Return a layer that carries spikes back, for the specs that need one."""
    return (lambda spikes: -0.5 * spikes.flip(-1)) if spec.feedback in ("linear", "conv") else None


def zeros_for(spec: NeuronSpec, *shape: int) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name in spec.states}


def step(spec: NeuronSpec, x: float, v: float, **parameters: float) -> tuple[float, float]:
    """Advance a neuron without other states by one step."""
    tensors = {name: torch.tensor(value) for name, value in parameters.items()}
    spike, state = neuron_step(spec, tensors, torch.tensor([x]), {"v": torch.tensor([v])})
    return spike.item(), state["v"].item()


def run(spec: NeuronSpec, currents: list[float], **parameters: float) -> tuple[list[float], dict[str, list[float]]]:
    """Run one neuron from zero; return its output and its states after each step."""
    tensors = {name: torch.tensor(value) for name, value in parameters.items()}
    x = torch.tensor(currents).reshape(-1, 1)
    spikes, states = neuron_sequence(spec, tensors, x, zeros_for(spec), recurrent_for(spec))
    return spikes.flatten().tolist(), {name: values.flatten().tolist() for name, values in states.items()}


@pytest.mark.parametrize(
    ("charge", "parameters", "h"),
    [
        ("leak", {"decay": 0.5}, 0.5 * 0.25 + 0.125),
        ("lapicque", {"resistance": 2.0, "inverse_rc": 0.25, "time_step": 0.5, "decay": 0.5}, 0.125 / 4 + 0.5 * 0.25),
        ("integrate", {}, 0.25 + 0.125),
        ("relax_input", {"rest": 0.5, "tau": 2.0}, 0.25 + (0.125 - (0.25 - 0.5)) / 2),
        ("relax", {"rest": 0.5, "tau": 2.0}, 0.25 - (0.25 - 0.5) / 2 + 0.125),
        ("rate_input", {"rest": 0.5, "rate": 0.25}, 0.25 + (0.125 - (0.25 - 0.5)) * 0.25),
        ("rate", {"rest": 0.5, "rate": 0.25}, 0.25 - (0.25 - 0.5) * 0.25 + 0.125),
    ],
)
def test_charge(charge, parameters, h) -> None:
    spec = NeuronSpec(charge, "gt", "none", "same_step")
    assert step(spec, 0.125, 0.25, threshold=10.0, **parameters) == (0.0, h)


@pytest.mark.parametrize(("comparison", "at_threshold"), [("gt", 0.0), ("ge", 1.0)])
@pytest.mark.parametrize("timing", ["same_step", "delayed", "compensated"])
def test_comparison(comparison, at_threshold, timing) -> None:
    spec = NeuronSpec("integrate", comparison, "none", timing)
    above = math.nextafter(1.0, 2.0) + 1e-6
    assert step(spec, 1.0, 0.0, threshold=1.0)[0] == at_threshold
    assert step(spec, above, 0.0, threshold=1.0)[0] == 1.0
    assert step(spec, 0.999, 0.0, threshold=1.0)[0] == 0.0


@pytest.mark.parametrize(
    ("reset", "timing", "trace"),
    [
        # Input 1.5, 0.25, 1.0 with threshold 1: the potentials after each step.
        ("subtract", "same_step", [0.5, 0.75, 0.75]),
        ("zero", "same_step", [0.0, 0.25, 0.0]),
        ("value", "same_step", [-0.5, -0.25, 0.75]),
        ("none", "same_step", [1.5, 1.75, 2.75]),
        ("subtract", "delayed", [1.5, 0.75, 1.75]),
        ("zero", "delayed", [1.5, 0.25, 1.25]),
        ("cancel", "delayed", [1.5, 0.0, 1.0]),
        ("none", "delayed", [1.5, 1.75, 2.75]),
        ("subtract", "compensated", [0.5, 0.75, 0.75]),
        ("zero", "compensated", [0.0, 0.25, 0.0]),
        ("none", "compensated", [1.5, 1.75, 2.75]),
    ],
)
def test_reset_traces(reset, timing, trace) -> None:
    spec = NeuronSpec("integrate", "gt", reset, timing)
    parameters = {"threshold": torch.tensor(1.0), "v_reset": torch.tensor(-0.5)}
    x = torch.tensor([[1.5], [0.25], [1.0]])
    spikes, states = neuron_sequence(spec, parameters, x, {"v": torch.zeros(1)})
    assert states["v"].flatten().tolist() == trace
    assert spikes[0].item() == 1.0


def test_compensated_resets_what_delayed_has_not() -> None:
    """A potential above threshold from outside is reset once, not twice."""
    spec = NeuronSpec("integrate", "gt", "subtract", "compensated")
    assert step(spec, 0.25, 1.5, threshold=1.0) == (0.0, 0.25 + 1.5 - 1.0 + 1.0)


def test_graded_scales_the_spike_and_not_the_reset() -> None:
    spec = NeuronSpec("integrate", "gt", "subtract", "same_step", graded=True)
    assert step(spec, 1.5, 0.0, threshold=1.0, amplitude=-2.0) == (-2.0, 0.5)


def test_synaptic_currents_leak_on_their_own() -> None:
    """i = 0.5 i + x, v = 0.25 v + i: the first current is still felt two steps later; the reset leaves it alone."""
    spec = NeuronSpec("synaptic", "gt", "none", "delayed")
    _, states = run(spec, [1.0, 0.0, 0.0], threshold=9.0, decay=0.25, current_decay=0.5)
    assert states == {"i": [1.0, 0.5, 0.25], "v": [1.0, 0.75, 0.4375]}
    spec = NeuronSpec("synaptic", "ge", "value", "same_step")
    spikes, states = run(spec, [1.0, 0.0], threshold=1.0, decay=0.25, current_decay=0.5, v_reset=-1.0)
    assert spikes == [1.0, 0.0]
    assert states == {"i": [1.0, 0.5], "v": [-1.0, 0.25]}


ALPHA = {"threshold": -1.0, "excitation_decay": 0.5, "inhibition_decay": 0.25, "gain": 2.0}


def test_alpha_sums_two_currents() -> None:
    """e = e/2 + x and f = f/4 - x, v = 2 (e + f): the potential rises and falls after the input."""
    _, states = run(NeuronSpec("alpha", "gt", "none", "delayed"), [1.0, 1.0, 0.0], **ALPHA)
    assert states == {"i_exc": [1.0, 1.5, 0.75], "i_inh": [-1.0, -1.25, -0.3125], "v": [0.0, 0.5, 0.875]}


def test_alpha_resets_all_three_states() -> None:
    """With a threshold of -1 every step resets what the step before has fired."""
    _, states = run(NeuronSpec("alpha", "gt", "cancel", "delayed"), [1.0, 1.0], **ALPHA)
    assert states == {"i_exc": [0.0, 0.0], "i_inh": [0.0, 0.0], "v": [0.0, 0.0]}
    # v = 2 (e + f) + f before, e - theta, f - f.
    _, states = run(NeuronSpec("alpha", "gt", "subtract", "delayed"), [1.0, 1.0], **ALPHA)
    assert states == {"i_exc": [2.0, 3.0], "i_inh": [0.0, 0.0], "v": [0.0, 2.0]}


@pytest.mark.parametrize(
    ("reset", "up", "down"), [("subtract", 0.5, -0.5), ("value", -0.25, -0.25), ("none", 1.5, -1.5)]
)
def test_ternary_spikes_have_a_sign(reset, up, down) -> None:
    """A negative spike adds the threshold; both reset to the same value."""
    spec = NeuronSpec("integrate", "ge", reset, "same_step", fire="ternary")
    numbers = {"threshold": 1.0, "v_reset": -0.25}
    assert step(spec, 1.5, 0.0, **numbers) == (1.0, up)
    assert step(spec, -1.5, 0.0, **numbers) == (-1.0, down)
    assert step(spec, 0.75, 0.0, **numbers) == (0.0, 0.75)
    assert step(spec, -1.0, 0.0, **numbers)[0] == -1.0, "reaching the negative threshold is enough"


@pytest.mark.parametrize(
    ("h", "count"),
    [(-1.0, 0.0), (0.2, 0.0), (0.25, 0.0), (0.26, 1.0), (0.75, 2.0), (1.25, 2.0), (1.3, 3.0), (9.0, 3.0)],
)
def test_count_rounds_to_even_and_saturates(h, count) -> None:
    """Half-way counts round to the even number, as torch does; at most ``levels``, at least none."""
    spec = NeuronSpec("integrate", "ge", "subtract", "same_step", fire="count")
    spikes, potential = step(spec, h, 0.0, threshold=0.5, levels=3.0)
    assert spikes == count
    assert potential == pytest.approx(h - 0.5 * count)


def test_change_fires_on_differences_of_either_sign() -> None:
    spec = NeuronSpec("leak", "gt", "none", "same_step", fire="change")
    spikes, states = run(spec, [1.0, 1.5, -2.0, 0.0], threshold=0.75, decay=1.0)
    assert states["v"] == [1.0, 2.5, 0.5, 0.5]
    assert spikes == [1.0, 1.0, 1.0, 0.0]


def test_feedback_comes_a_step_later_and_before_the_reset() -> None:
    """v = v/2 + x + s_before * w, then the delayed reset of 1."""
    spec = NeuronSpec("leak", "gt", "subtract", "delayed", feedback="elementwise")
    spikes, states = run(spec, [1.5, 0.0, 0.0], threshold=1.0, decay=0.5, feedback=4.0)
    assert spikes == states["s"] == [1.0, 1.0, 1.0]
    assert states["v"] == [1.5, 0.75 + 4.0 - 1.0, 1.875 + 4.0 - 1.0]


def test_feedback_of_a_synaptic_neuron_is_a_current() -> None:
    """It leaks like the input current: i = i/2 + x + s_before * w."""
    spec = NeuronSpec("synaptic", "gt", "none", "delayed", feedback="elementwise")
    _, states = run(spec, [1.5, 0.0, -9.0], threshold=1.0, decay=0.5, current_decay=0.5, feedback=0.25)
    assert states["i"][:2] == [1.5, 0.75 + 0.25]
    assert states["v"][:2] == [1.5, 0.75 + 1.0]


def test_feedback_through_a_layer_sees_all_neurons() -> None:
    spec = NeuronSpec("leak", "gt", "none", "delayed", feedback="linear")
    layer = torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 2.0], [0.5, 0.0]]))
        layer.bias.copy_(torch.tensor([0.25, -0.25]))
        numbers = {"threshold": torch.tensor(1.0), "decay": torch.tensor(0.0)}
        spikes, states = neuron_sequence(
            spec, numbers, torch.tensor([[3.0, 0.0], [0.0, 0.0]]), zeros_for(spec, 2), layer
        )
    assert spikes.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert states["v"].tolist() == [[3.0 + 0.25, -0.25], [0.25, 0.5 - 0.25]]


@pytest.mark.parametrize("feedback", ["linear", "conv"])
def test_a_missing_recurrent_layer_is_an_error(feedback) -> None:
    spec = NeuronSpec("leak", "gt", "none", "delayed", feedback=feedback)
    with pytest.raises(ConfigError, match=f"_fed_{feedback} needs its recurrent layer"):
        neuron_step(spec, parameters_for(spec), torch.zeros(2), zeros_for(spec, 2))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.operator)
def test_sequence_is_the_step_repeated(spec) -> None:
    parameters, layer = parameters_for(spec), recurrent_for(spec)
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    start = {name: torch.zeros(()) for name in spec.states}
    spikes, states = neuron_sequence(spec, parameters, x, start, layer)
    now = zeros_for(spec, 2, 3)
    for t in range(5):
        s, now = neuron_step(spec, parameters, x[t], now, layer)
        assert torch.equal(spikes[t], s)
        assert set(now) == set(spec.states)
        for name, value in now.items():
            assert torch.equal(states[name][t], value)
    assert x.equal(torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))), "the input was written to"
    assert all(bool((value == 0).all()) for value in start.values()), "the initial state was written to"


def test_no_steps() -> None:
    spec = NeuronSpec("synaptic", "gt", "subtract", "delayed")
    spikes, states = neuron_sequence(spec, parameters_for(spec), torch.zeros(0, 2), zeros_for(spec, 2))
    assert spikes.shape == states["v"].shape == states["i"].shape == (0, 2)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.operator)
def test_a_missing_parameter_or_state_is_named(spec) -> None:
    parameters, layer = parameters_for(spec), recurrent_for(spec)
    for name in spec.parameter_names:
        rest = {k: v for k, v in parameters.items() if k != name}
        with pytest.raises(ConfigError, match=f"{spec.operator} needs the parameter '{name}'"):
            neuron_step(spec, rest, torch.zeros(1), zeros_for(spec, 1), layer)
    for name in spec.states:
        rest = {k: v for k, v in zeros_for(spec, 1).items() if k != name}
        with pytest.raises(ConfigError, match=f"{spec.operator} needs the state '{name}'"):
            neuron_step(spec, parameters, torch.zeros(1), rest, layer)


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=20), st.floats(0.125, 2, width=32))
def test_soft_reset_loses_no_charge(currents, threshold) -> None:
    """Without leak: input = threshold * spikes + what is left, up to rounding."""
    spec = NeuronSpec("integrate", "ge", "subtract", "same_step")
    x = torch.tensor(currents).reshape(-1, 1)
    spikes, states = neuron_sequence(spec, {"threshold": torch.tensor(threshold)}, x, {"v": torch.zeros(1)})
    assert abs(sum(currents) - threshold * spikes.sum().item() - states["v"][-1].item()) < 1e-4
