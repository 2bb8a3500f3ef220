"""Neurons: every operator that the library has gives what its body gives, and what torch's step functions give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from snn_extreme_quant.deploy.lowering.functions import NeuronFunction
from snn_extreme_quant.neurons.dynamics import neuron_sequence, neuron_step
from tests.deploy.bodies import Array, bits

from .running import assert_same

#: How the operators of neurons in floats begin.
FLOAT = ("LIF_", "StepLIF_")


def values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    low, high = {"threshold": (0.2, 1.0), "levels": (1, 5), "tau": (1.2, 3.0), "v_reset": (-0.3, 0.3)}.get(
        name, (0.3, 1.1)
    )
    drawn = rng.uniform(low, high, shape)
    return np.asarray(np.round(drawn) if name == "levels" else drawn, np.float32)


def run(operator: str, shape: tuple[int, ...], steps: int, seed: int = 0) -> None:
    function, rng = NeuronFunction.from_name(operator), np.random.default_rng(seed)
    spec = function.spec
    # Multiples of 1/8: membrane potentials meet thresholds exactly, too.
    x = (rng.integers(-8, 12, shape if function.step else (steps, *shape)) * 0.125).astype(np.float32)
    state_shapes = [shape, (), (1,) * len(shape)]
    parameter_shapes = [(), shape, shape[1:] or (1,), (shape[0],) + (1,) * (len(shape) - 1) if shape else ()]
    states = {s: values(s, state_shapes[(i + seed) % 3], rng) for i, s in enumerate(spec.states)}
    parameters = {
        p: values(p, parameter_shapes[(i + seed) % 4] if function.vector else (), rng)
        for i, p in enumerate(spec.parameter_names)
    }
    names = dict(zip(function.inputs, [x, *states.values(), *parameters.values()], strict=True))
    rank = [x.ndim] * len(function.outputs)
    inputs = {name: names.pop(name) for name in ["xs", *(f"{s}0" for s in spec.states)]}
    found = assert_same(operator, inputs, names, rank)

    given = {s: torch.from_numpy(v).expand(shape) for s, v in states.items()}
    numbers = {p: torch.from_numpy(v) for p, v in parameters.items()}
    spikes, after = (neuron_step if function.step else neuron_sequence)(spec, numbers, torch.from_numpy(x), given)
    expected = [spikes, *(after[s] for s in spec.outputs[1:])][: len(found)]
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(bits(ours), bits(theirs)), operator


def test_names_are_operators(library: Any) -> None:
    """The C table and NeuronSpec allow the same neurons."""
    names = {name for name in library.operators if name.startswith(FLOAT)}
    functions = {NeuronFunction.from_name(name) for name in names}
    assert {function.name for function in functions} == names
    assert all(function.spec.feedback == "none" for function in functions)
    assert len(names) == 2 * 508 * 3  # vector or not; a sequence with states or without, or one step


def test_a_neuron_of_every_kind(library: Any) -> None:
    """Each spec in one of its six forms; `test_every_neuron` runs all."""
    by_spec: dict[str, list[str]] = {}
    for name in sorted(n for n in library.operators if n.startswith(FLOAT)):
        by_spec.setdefault(NeuronFunction.from_name(name).spec.operator, []).append(name)
    for index, forms in enumerate(by_spec.values()):
        run(forms[index % len(forms)], (2, 3), 5, seed=index)


@pytest.mark.slow
def test_every_neuron(library: Any) -> None:
    for index, name in enumerate(sorted(n for n in library.operators if n.startswith(FLOAT))):
        run(name, (2, 3), 5, seed=index)


@pytest.mark.parametrize("shape", [(1,), (5,), (0,), (2, 0), (3, 300), (2, 3, 2, 5), (600,)])
@pytest.mark.parametrize("steps", [1, 4])
def test_shapes(library: Any, shape: tuple[int, ...], steps: int) -> None:
    for name in (
        "LIF_leak_gt_subtract_delayed_states",
        "LIF_relax_input_ge_value_same_step_vector",
        "StepLIF_synaptic_gt_zero_compensated_vector",
    ):
        run(name, shape, steps)


@pytest.mark.parametrize("operator", ["LIF_integrate_ge_subtract_same_step", "LIF_alpha_gt_subtract_delayed_states"])
def test_each_instruction_set(instruction_set: str, operator: str) -> None:
    run(operator, (3, 300), 6)


def test_no_steps(library: Any) -> None:
    """The kernel refuses a sequence without a step, as a body does."""
    from snn_extreme_quant.deploy import session
    from tests.deploy.bodies import model_of

    operator = "LIF_leak_gt_subtract_delayed_states"
    inputs = {"xs": np.zeros((0, 4), np.float32), "v0": np.float32(0)}
    inputs = {name: np.asarray(value) for name, value in inputs.items()}
    constants = {"threshold": np.array(1, np.float32), "decay": np.array(0.5, np.float32)}
    model = model_of(operator, inputs, constants, [2, 2])
    with pytest.raises(Exception, match=f"{operator} takes at least one time step; got none"):
        session(model, native=True).run(None, inputs)
    with pytest.raises(Exception, match="Scan"):
        session(model, native=False).run(None, inputs)
