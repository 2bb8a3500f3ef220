"""Neurons in fixed point: what folding keeps, what the proof excludes, and what is refused."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from snn_extreme_quant.errors import ConfigError, UnsupportedModelError
from snn_extreme_quant.neurons import NeuronSpec, neuron_sequence
from snn_extreme_quant.neurons.fixed_point import (
    FixedPointNeuron,
    IntegerCurrent,
    IntegerSum,
    RecurrentSums,
    fold_neuron,
)
from snn_extreme_quant.neurons.fixed_point_dynamics import fixed_point_sequence, fixed_point_step
from snn_extreme_quant.neurons.fixed_point_spec import STATE_LIMIT, fixed_point_parameters
from snn_extreme_quant.neurons.spec import Charge, Comparison, Feedback, Fire, Reset, Timing

T, CHANNELS = 6, 5


def all_specs() -> list[NeuronSpec]:
    """Every legal spec."""
    found = []
    for choices in product(*map(get_args, (Charge, Comparison, Reset, Timing)), (False, True), get_args(Fire)):
        for feedback in get_args(Feedback):
            try:
                found.append(NeuronSpec(*choices, feedback))
            except ConfigError:
                continue
    return found


SPECS = all_specs()
#: Numbers of few bits, so that six steps in float32 and in fixed point round nothing.
DYADIC = {
    "threshold": 0.75, "decay": 0.5, "v_reset": -0.25, "amplitude": 2.0, "rest": -0.25, "tau": 2.0, "rate": 0.5,
    "resistance": 2.0, "inverse_rc": 0.5, "time_step": 0.5, "current_decay": 0.75, "excitation_decay": 0.5,
    "inhibition_decay": 0.25, "gain": 1.5, "levels": 4.0, "feedback": -0.25,
}  # fmt: skip


def tensor(*values: float) -> Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def parameters_of(spec: NeuronSpec, numbers: dict[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(numbers[name]) for name in spec.parameter_names}


def fed(spec: NeuronSpec, scale: Tensor, bias: Tensor, reach: int = 9) -> IntegerCurrent:
    return IntegerCurrent((IntegerSum(scale, -reach, reach),), bias)


def in_fixed_point(neuron: FixedPointNeuron, sums: Tensor, recurrent: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
    state = neuron.initial
    return fixed_point_sequence(neuron.spec, neuron.parameters, sums, state, neuron.shift, recurrent)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.operator)
def test_folding_rounds_nothing_that_has_few_bits(spec: NeuronSpec) -> None:
    """Spikes and potentials are those of the float neuron, for every way to charge, fire, reset and feed back."""
    # The float neuron rounds (n + 1/2) thresholds to even; no such potential occurs with this one.
    numbers = DYADIC | ({"threshold": 2977 / 4096} if spec.fire == "count" else {})
    parameters = parameters_of(spec, numbers)
    scale, bias = tensor(0.125, 0.25, 0.0625, -0.125, 0.5), tensor(0.25, 0.0, -0.5, 0.125, 0.0625)
    codes = torch.randint(-1, 2, (CHANNELS, CHANNELS), generator=torch.Generator().manual_seed(3))
    back_scale, back_bias = tensor(0.25, 0.5, 0.125, 0.25, 0.5), tensor(0.0, 0.25, -0.125, 0.5, 0.0)
    by_layer = spec.feedback in ("linear", "conv")
    back = RecurrentSums(back_scale, codes.abs().sum(0), back_bias) if by_layer else None
    start = {name: torch.tensor(0.5 if name != "s" else 1.0) for name in spec.states}
    neuron = fold_neuron(spec, parameters, fed(spec, scale, bias), start, back, decay_bits=20)
    assert neuron.fraction >= 13

    sums = torch.randint(-9, 10, (T, 40, CHANNELS), generator=torch.Generator().manual_seed(1))
    x = (sums * scale + bias).float()
    spikes, states = neuron_sequence(
        spec, parameters, x, start, lambda s: (s.double() @ codes.double() * back_scale + back_bias).float()
    )
    whole, after = in_fixed_point(neuron, sums, (lambda s: s @ codes) if by_layer else None)
    amplitude = parameters["amplitude"] if spec.graded else 1.0
    assert torch.equal(whole.float() * amplitude, spikes)
    assert 0 < (spikes != 0).float().mean() < 1
    for name in spec.outputs[1:]:
        assert torch.allclose(neuron.decoded(after[name]), states[name].double(), atol=1e-6, rtol=0), name


def test_rounding_is_small() -> None:
    """Numbers that have to be rounded give potentials that differ by about 2**-16 of a sum, and hardly a spike."""
    spec = NeuronSpec("leak", "gt", "subtract", "delayed")
    parameters = {"threshold": torch.tensor(1.3), "decay": torch.tensor(0.93)}
    scale, bias = torch.rand(200, dtype=torch.float64) + 0.05, torch.rand(200, dtype=torch.float64) - 0.5
    neuron = fold_neuron(spec, parameters, fed(spec, scale, bias), decay_bits=24)
    sums = torch.randint(-9, 10, (50, 30, 200), generator=torch.Generator().manual_seed(1))
    spikes, states = neuron_sequence(spec, parameters, (sums * scale + bias).float(), {"v": torch.zeros(())})
    whole, after = in_fixed_point(neuron, sums)
    assert (whole != spikes).float().mean() < 1e-3
    same = (whole == spikes).all(0)
    assert ((neuron.decoded(after["v"]) - states["v"])[:, same].abs() / scale.max()).max() < 1e-3


def extreme_inputs(low: int, high: int, steps: int) -> Tensor:
    """What drives a potential farthest: constants, changes of sign at all periods, and chance. Rows by channels."""
    rows = [torch.full((steps,), low), torch.full((steps,), high)]
    for period in (1, 2, 3, 7, 20):
        turn = (torch.arange(steps) // period) % 2 == 1
        rows += [torch.where(turn, low, high), torch.where(turn, high, low)]
    generator = torch.Generator().manual_seed(5)
    rows += list(torch.where(torch.rand(20, steps, generator=generator) < 0.5, low, high))
    return torch.stack(rows, -1)[..., None].expand(-1, -1, 4)


#: Numbers that wear the proof thin: no leak, hardly any, one that turns the sign, thresholds below 0.
THIN = [
    {}, {"threshold": -1.2}, {"decay": 0.999, "tau": 1000.0, "rate": 0.001, "current_decay": 0.99},
    {"decay": 1.0, "tau": 0.6, "rate": 1.7, "current_decay": 1.0}, {"decay": 0.0, "v_reset": 30.0, "rest": 12.0},
    {"decay": 1.02, "threshold": 8.0, "feedback": 1.5, "excitation_decay": 0.99, "gain": 4.3},
]  # fmt: skip


@pytest.mark.parametrize("turn", range(len(THIN)))
def test_bounds_hold(turn: int) -> None:
    """No input in the range that was folded for takes a current or a potential beyond its bound."""
    steps, clipped = 60, 0
    for index, spec in enumerate(SPECS):
        if spec.graded or (index + turn) % 3 or (spec.fire == "count" and THIN[turn].get("threshold", 1) < 0):
            continue
        parameters = parameters_of(spec, DYADIC | THIN[turn])
        scale, bias = tensor(0.11, 0.3, -0.07, 1.9), tensor(0.2, -0.9, 0.4, 0.0)
        codes = torch.tensor([[1, -1, 0, 1], [1, 1, -1, 0], [0, 1, 1, -1], [-1, 0, 1, 1]])
        by_layer = spec.feedback in ("linear", "conv")
        back = RecurrentSums(scale.abs() * 3, codes.abs().sum(0), bias) if by_layer else None
        start = {name: torch.tensor(-2.5 if name != "s" else 1.0) for name in spec.states}
        current = IntegerCurrent((IntegerSum(scale, -5, 8),), bias)
        neuron = fold_neuron(spec, parameters, current, start, back, max_steps=steps, layer="fc")
        _, states = in_fixed_point(
            neuron, extreme_inputs(-5, 8, steps), (lambda s, c=codes: s @ c) if by_layer else None
        )
        reached = max(int(states[name].long().abs().max()) for name in spec.outputs[1:])
        assert reached <= neuron.bounds.potential, spec.operator
        assert reached < STATE_LIMIT
        assert neuron.headroom >= 0
        clipped += reached * 8 > neuron.bounds.potential
    # The bounds are not idle: many are reached within a factor of 8.
    assert clipped > 20


def test_bounds_by_hand() -> None:
    spec = NeuronSpec("leak", "gt", "none", "same_step")
    parameters = {"threshold": torch.tensor(1.0), "decay": torch.tensor(0.5)}
    neuron = fold_neuron(spec, parameters, fed(spec, tensor(1.0), tensor(0.0), 100))
    assert (neuron.fraction, neuron.steps) == (16, None)
    assert neuron.bounds.current == 100 * 2**16
    # 100 units and half a rounding a step, doubled by what stays of the steps before.
    assert neuron.bounds.potential == pytest.approx(2 * (100 * 2**16 + 0.5), rel=1e-3)
    summing = fold_neuron(
        NeuronSpec("integrate", "gt", "none", "same_step"), parameters, fed(spec, tensor(1.0), tensor(0.0), 100)
    )
    assert (summing.fraction, summing.steps) == (13, 1024)
    assert summing.bounds.potential == pytest.approx(1025 * 100 * 2**13, rel=1e-2)


def test_a_decay_of_one_integrates() -> None:
    spec = NeuronSpec("leak", "gt", "subtract", "delayed")
    neuron = fold_neuron(
        spec, {"threshold": torch.tensor(1.0), "decay": torch.tensor(1.0)}, fed(spec, tensor(1.0), tensor(0.0))
    )
    assert neuron.spec.charge == "integrate"
    assert tuple(neuron.parameters) == fixed_point_parameters(neuron.spec) == ("threshold", "gain", "bias")


def test_several_sums() -> None:
    """The unit is the largest scale; each sum has its multiplier; what is fed has gain 1."""
    spec = NeuronSpec("integrate", "ge", "subtract", "same_step")
    sums = (IntegerSum(tensor(0.5, -0.25), -3, 3), IntegerSum(tensor(0.125, 1.0), 0, tensor(7, 2)))
    neuron = fold_neuron(spec, {"threshold": torch.tensor(1.0)}, IntegerCurrent(sums, tensor(0.25, 0.25)), max_steps=8)
    assert neuron.fraction == 16
    assert [m.tolist() for m in neuron.multipliers] == [[2**16, -(2**14)], [2**14, 2**16]]
    assert neuron.parameters["gain"].tolist() == 1
    assert neuron.parameters["threshold"].tolist() == [2**17, 2**16]
    assert neuron.parameters["bias"].tolist() == [2**15, 2**14]
    assert neuron.bounds.current == max(3 * 2**16 + 7 * 2**14 + 2**15, 3 * 2**14 + 2 * 2**16 + 2**14)


@pytest.mark.parametrize("sums", [(), (IntegerSum(tensor(0.0), -3, 3),)], ids=["no sum", "scale 0"])
def test_nothing_feeds_it(sums: tuple[IntegerSum, ...]) -> None:
    """A bias alone drives the neuron."""
    spec = NeuronSpec("integrate", "ge", "zero", "same_step")
    neuron = fold_neuron(spec, {"threshold": torch.tensor(1.0)}, IntegerCurrent(sums, tensor(0.5)), max_steps=9)
    fed_with = torch.full((4, 1), 3) if sums else torch.zeros(4, 1, dtype=torch.int32)
    assert in_fixed_point(neuron, fed_with)[0].flatten().tolist() == [0, 1, 0, 1]


def refused(match: str, numbers: dict[str, float], spec: NeuronSpec | None = None, **options: Any) -> None:
    spec = spec or NeuronSpec("leak", "gt", "subtract", "delayed")
    parameters = parameters_of(spec, DYADIC | numbers)
    scale, high = options.pop("scale", tensor(1.0)), options.pop("high", 9)
    current = IntegerCurrent((IntegerSum(scale, 0, high),), options.pop("bias", tensor(0.0)))
    with pytest.raises(UnsupportedModelError, match=match):
        fold_neuron(spec, parameters, current, layer="block.lif", **options)


def test_refusals() -> None:
    refused("'block.lif' does not fit 32 bit.*current may reach 2e\\+09", {}, high=2_000_000_000)
    refused("'block.lif' does not fit.*lower max_steps", {"decay": 1.0}, high=2**21)
    refused("'block.lif' does not fit.*a decay 1.37e\\+09", {"decay": 1.28}, decay_bits=30)
    refused("'block.lif' does not fit", {"decay": 1.2})
    refused("'block.lif': its threshold holds NaN", {"threshold": float("nan")})
    refused("'block.lif': its scale 0 holds NaN or inf", {}, scale=tensor(1.0, float("inf")))
    refused("'block.lif': its bias holds NaN", {}, bias=tensor(float("nan")))
    refused("decay_bits=31; use 1 to 30", {}, decay_bits=31)
    refused("max_steps=0; use 1 or more", {}, max_steps=0)
    counting = NeuronSpec("leak", "gt", "subtract", "same_step", fire="count")
    refused("'block.lif' counts up to 300", {"levels": 300.0}, counting)
    refused("'block.lif' counts up to 2.5", {"levels": 2.5}, counting)
    refused("'block.lif' counts thresholds", {"threshold": 0.0}, counting)


def test_growth_fits_for_few_steps() -> None:
    """A potential that grows of itself has no bound for ever, and one for a few steps."""
    spec = NeuronSpec("leak", "gt", "subtract", "delayed")
    parameters = {"threshold": torch.tensor(1.0), "decay": torch.tensor(1.2)}
    neuron = fold_neuron(spec, parameters, fed(spec, tensor(1.0), tensor(0.0)), max_steps=20)
    assert neuron.steps == 20
    assert neuron.fraction > 5


@pytest.mark.parametrize(("v", "expected"), [(-3, -1), (-1, 0), (1, 1), (3, 2), (-4, -2), (2**30, 2**29)])
def test_leaks_round_halves_up(v: int, expected: int) -> None:
    spec = NeuronSpec("leak", "gt", "none", "same_step")
    parameters = {"threshold": 2**30, "gain": 1, "bias": 0, "decay": 2**14}
    whole = {name: torch.tensor(value, dtype=torch.int32) for name, value in parameters.items()}
    state = {"v": torch.tensor([v], dtype=torch.int32)}
    assert fixed_point_step(spec, whole, torch.zeros(1, dtype=torch.int32), state, 15)[1]["v"].item() == expected


def test_what_a_step_needs() -> None:
    spec = NeuronSpec("leak", "gt", "none", "same_step", feedback="linear")
    whole = {name: torch.tensor(2**14) for name in fixed_point_parameters(spec)}
    state, x = {"v": torch.zeros(2), "s": torch.zeros(2)}, torch.zeros(2)
    with pytest.raises(ConfigError, match="needs its recurrent layer"):
        fixed_point_step(spec, whole, x, state, 15)
    with pytest.raises(ConfigError, match="needs the parameter 'gain'"):
        fixed_point_step(spec, {k: v for k, v in whole.items() if k != "gain"}, x, state, 15)
    with pytest.raises(ConfigError, match="needs the state 's'"):
        fixed_point_step(spec, whole, x, {"v": x}, 15)
    with pytest.raises(ConfigError, match="shift=0; use 1 to 30"):
        fixed_point_step(spec, whole, x, state, 0)
    with pytest.raises(ConfigError, match="beyond the limit"):
        fixed_point_step(spec, whole, x + 2**20, state, 15, lambda s: s)
    with pytest.raises(ConfigError, match="computed in fixed point as one of leak"):
        fixed_point_step(NeuronSpec("relax", "ge", "zero", "same_step"), whole, x, state, 15)
