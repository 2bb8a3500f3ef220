"""Fixed-point neurons: names, shapes, steps and refusals. That all runtimes agree is tested in tests/operators."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from snn_extreme_quant.deploy.integer.golden import golden_run
from snn_extreme_quant.deploy.integer.neuron_functions import IntegerNeuron
from snn_extreme_quant.deploy.lowering.functions import is_integer_neuron, is_neuron
from snn_extreme_quant.errors import ConfigError, ModelFileError
from snn_extreme_quant.exported.operators import KINDS
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.neurons.fixed_point_spec import STATE_LIMIT
from tests.deploy.integer_bodies import assert_equal, fed, model_of, run_golden, run_onnxruntime
from tests.deploy.integer_cases import SPECS, neuron_case, neuron_cases


def test_the_numbers_reach_what_matters() -> None:
    """Among the cases are silent and firing neurons, clipped states, and negative potentials."""
    cases = [case for spec in SPECS[::4] for case in neuron_cases(spec)]
    spikes = np.concatenate([case.expected[0].ravel() for case in cases])
    states = np.concatenate([v.ravel() for case in cases for v in case.expected[1:]])
    assert 0.05 < np.mean(spikes != 0) < 0.95
    assert {-1, 0, 1, 4} <= set(spikes.tolist())
    assert (states == STATE_LIMIT).sum() > 30
    assert (states == -STATE_LIMIT).sum() > 30
    assert np.mean(states < 0) > 0.2


def test_names() -> None:
    """A name says all of an operator, and no two have the same."""
    every = [
        IntegerNeuron(spec, step=step, states=states, layout=layout)
        for spec, (step, states) in product(SPECS, ((False, False), (False, True), (True, True)))
        for layout in (KINDS if spec.feedback in ("linear", "conv") else ("",))
    ]
    assert len({neuron.name for neuron in every}) == len(every)
    for neuron in every:
        assert IntegerNeuron.from_name(neuron.name) == neuron
        assert is_integer_neuron(neuron.name)
        assert is_neuron(neuron.name)


@pytest.mark.parametrize(
    "name",
    ["LIF_leak_gt_subtract_delayed", "IntLIF_relax_ge_zero_same_step", "IntLIF_leak_gt_subtract_delayed_graded",
     "IntLIF_leak_gt_subtract_delayed_by_ternary", "IntLIF_leak_gt_subtract_delayed_fed_linear", "IntLIF_", "",
     "IntLIF_leak_gt_subtract_delayed_fed_linear_by_float"],
)  # fmt: skip
def test_names_that_there_are_not(name: str) -> None:
    with pytest.raises(ConfigError):
        IntegerNeuron.from_name(name)


@pytest.mark.parametrize("shape", [(1,), (0, 3), (2, 3, 1, 2)])
def test_shapes(shape: tuple[int, ...]) -> None:
    """One neuron, no sample, several axes."""
    for spec in (NeuronSpec("leak", "gt", "subtract", "delayed"), NeuronSpec("integrate", "ge", "value", "same_step")):
        for step in (False, True):
            case = neuron_case(spec, "", "small", shape=shape, states=True, step=step)
            assert_equal(case, "golden", run_golden(model_of(case), fed(case))) if 0 not in shape else None
            assert_equal(case, "onnxruntime", run_onnxruntime(model_of(case), fed(case)))


def test_one_step_at_a_time_is_the_sequence() -> None:
    for spec in SPECS[::7]:
        layout = "ternary4" if spec.feedback in ("linear", "conv") else ""
        shape = (2, 4, 5, 3) if spec.feedback == "conv" else (3, 6)
        whole = neuron_case(spec, layout, "mixed", shape=shape, states=True, step=False)
        single = neuron_case(spec, layout, "mixed", shape=shape, states=True, step=True)
        model = model_of(single)
        states = {f"{name}0": whole.inputs[f"{name}0"] for name in spec.states}
        for t, x in enumerate(whole.inputs["xs"]):
            results = dict(zip(spec.outputs, run_golden(model, {"xs": x} | states), strict=True))
            for name, expected in zip(spec.outputs, whole.expected, strict=True):
                assert np.array_equal(results[name], expected[t])
            states = {f"{name}0": results[name] for name in spec.states}


def test_currents_beyond_the_limit_are_refused() -> None:
    case = neuron_case(SPECS[0], "", "large", shape=(2,), states=False, step=True)
    case.inputs["xs"][:] = 2**20
    with pytest.raises(ModelFileError, match="current leaves the limit"):
        golden_run(model_of(case), fed(case))


def test_shapes_without_values() -> None:
    ops = torch.ops.snn_xq
    for spec in SPECS[::5]:
        if spec.feedback in ("linear", "conv"):
            continue
        for step in (False, True):
            case = neuron_case(spec, "", "small", shape=(2, 3), states=True, step=step)
            x, *rest = (torch.from_numpy(np.asarray(value)) for value in case.inputs.values())
            states, parameters = rest[: len(spec.states)], rest[len(spec.states) :]
            operator = ops.fixed_neuron_step if step else ops.fixed_neuron_sequence
            arguments = (x, states, parameters, [], "", [], 15, spec.operator, "layer")
            torch.library.opcheck(operator.default, arguments, test_utils=("test_schema", "test_faketensor"))
