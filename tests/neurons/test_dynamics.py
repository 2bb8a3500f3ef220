"""Each equation of NeuronSpec's docstring, worked by hand; the frameworks themselves are compared in tests/plugins."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_extreme_quant import NeuronSpec
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons import neuron_sequence, neuron_step

#: A spec for each way of charging, and for each pair of reset and timing.
SPECS = [
    *(NeuronSpec(c, "gt", "subtract", "delayed") for c in ("leak", "lapicque", "integrate", "relax_input", "relax")),
    *(NeuronSpec("leak", "ge", r, "same_step", graded=True) for r in ("subtract", "zero", "value", "none")),
    *(NeuronSpec("relax", "ge", r, "delayed") for r in ("subtract", "zero", "cancel", "none")),
    *(NeuronSpec("integrate", "gt", r, "compensated") for r in ("subtract", "zero", "none")),
]


def parameters_for(spec: NeuronSpec) -> dict[str, torch.Tensor]:
    values = torch.tensor([0.75, 0.5, 1.25, 0.625, 1.5])
    return dict(zip(spec.parameter_names, values, strict=False))


def step(spec: NeuronSpec, x: float, v: float, **parameters: float) -> tuple[float, float]:
    tensors = {name: torch.tensor(value) for name, value in parameters.items()}
    spike, potential = neuron_step(spec, tensors, torch.tensor([x]), torch.tensor([v]))
    return spike.item(), potential.item()


@pytest.mark.parametrize(
    ("charge", "parameters", "h"),
    [
        ("leak", {"decay": 0.5}, 0.5 * 0.25 + 0.125),
        ("lapicque", {"resistance": 2.0, "inverse_rc": 0.25, "time_step": 0.5, "decay": 0.5}, 0.125 / 4 + 0.5 * 0.25),
        ("integrate", {}, 0.25 + 0.125),
        ("relax_input", {"rest": 0.5, "tau": 2.0}, 0.25 + (0.125 - (0.25 - 0.5)) / 2),
        ("relax", {"rest": 0.5, "tau": 2.0}, 0.25 - (0.25 - 0.5) / 2 + 0.125),
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
    spikes, potentials = neuron_sequence(spec, parameters, x, torch.zeros(1))
    assert potentials.flatten().tolist() == trace
    assert spikes[0].item() == 1.0


def test_compensated_resets_what_delayed_has_not() -> None:
    """A potential above threshold from outside is reset once, not twice."""
    spec = NeuronSpec("integrate", "gt", "subtract", "compensated")
    assert step(spec, 0.25, 1.5, threshold=1.0) == (0.0, 0.25 + 1.5 - 1.0 + 1.0)


def test_graded_scales_the_spike_and_not_the_reset() -> None:
    spec = NeuronSpec("integrate", "gt", "subtract", "same_step", graded=True)
    assert step(spec, 1.5, 0.0, threshold=1.0, amplitude=-2.0) == (-2.0, 0.5)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.operator)
def test_sequence_is_the_step_repeated(spec) -> None:
    parameters = parameters_for(spec)
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    spikes, potentials = neuron_sequence(spec, parameters, x, torch.zeros(()))
    v = torch.zeros(2, 3)
    for t in range(5):
        s, v = neuron_step(spec, parameters, x[t], v)
        assert torch.equal(spikes[t], s)
        assert torch.equal(potentials[t], v)
    assert x.equal(torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))), "the input was written to"


def test_no_steps() -> None:
    spec = NeuronSpec("integrate", "gt", "subtract", "delayed")
    spikes, potentials = neuron_sequence(spec, {"threshold": torch.tensor(1.0)}, torch.zeros(0, 2), torch.zeros(2))
    assert spikes.shape == potentials.shape == (0, 2)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.operator)
def test_a_missing_parameter_is_named(spec) -> None:
    parameters = parameters_for(spec)
    for name in spec.parameter_names:
        rest = {k: v for k, v in parameters.items() if k != name}
        with pytest.raises(ConfigError, match=f"{spec.operator} needs the parameter '{name}'"):
            neuron_step(spec, rest, torch.zeros(1), torch.zeros(1))


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=20), st.floats(0.125, 2, width=32))
def test_soft_reset_loses_no_charge(currents, threshold) -> None:
    """Without leak: input = threshold * spikes + what is left, up to rounding."""
    spec = NeuronSpec("integrate", "ge", "subtract", "same_step")
    x = torch.tensor(currents).reshape(-1, 1)
    spikes, potentials = neuron_sequence(spec, {"threshold": torch.tensor(threshold)}, x, torch.zeros(1))
    assert abs(sum(currents) - threshold * spikes.sum().item() - potentials[-1].item()) < 1e-4
