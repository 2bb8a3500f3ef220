"""NeuronReading: what it refuses."""

import pytest
import torch

from snn_extreme_quant import NeuronSpec
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.frameworks import NeuronReading

SPEC = NeuronSpec("leak", "gt", "subtract", "delayed")
ONE = torch.tensor(1.0)


def test_reading_holds_what_it_is_given() -> None:
    reading = NeuronReading(
        SPEC, {"threshold": ONE, "decay": ONE / 2}, {"v": 0.25}, multi_step=True, returns_state=True
    )
    assert (reading.initial, reading.multi_step, reading.returns_state) == ({"v": 0.25}, True, True)
    assert reading.arguments == reading.returned == ("v",)


def test_states_that_are_not_named_start_at_zero() -> None:
    spec = NeuronSpec("synaptic", "ge", "subtract", "same_step")
    numbers = {"threshold": ONE, "decay": ONE / 2, "current_decay": ONE / 4}
    reading = NeuronReading(spec, numbers, {"i": 0.5})
    assert {name: value.item() for name, value in reading.initial_state().items()} == {"v": 0.0, "i": 0.5}


def test_what_is_returned_are_the_arguments_without_the_spikes() -> None:
    spec = NeuronSpec("leak", "gt", "subtract", "delayed", feedback="linear")
    reading = NeuronReading(
        spec, {"threshold": ONE, "decay": ONE / 2}, arguments=("s", "v"), recurrent=torch.nn.Linear(2, 2)
    )
    assert reading.returned == ("v",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arguments": ("v", "i")}, r"has the states \('v',\); got \('v', 'i'\)"),
        ({"arguments": ("v_before",)}, r"has the states \('v',\); got \('v_before',\)"),
        ({"initial": {"i": 1.0}}, r"has the states \('v',\); got \('i',\)"),
        ({"recurrent": torch.nn.Linear(2, 2)}, "do not go together"),
    ],
    ids=["unknown argument", "missing argument", "unknown state", "layer without feedback"],
)
def test_states_and_layer_must_be_those_of_the_spec(options, message) -> None:
    with pytest.raises(ConfigError, match=f"LIF_leak_gt_subtract_delayed .*{message}"):
        NeuronReading(SPEC, {"threshold": ONE, "decay": ONE}, **options)


def test_feedback_through_a_layer_needs_the_layer() -> None:
    spec = NeuronSpec("leak", "gt", "subtract", "delayed", feedback="conv")
    with pytest.raises(ConfigError, match="a recurrent layer None do not go together"):
        NeuronReading(spec, {"threshold": ONE, "decay": ONE})


@pytest.mark.parametrize("parameters", [{}, {"threshold": ONE}, {"threshold": ONE, "decay": ONE, "tau": ONE}], ids=len)
def test_parameters_must_be_those_of_the_spec(parameters) -> None:
    with pytest.raises(ConfigError, match=r"LIF_leak_gt_subtract_delayed has the parameters \('threshold', 'decay'\)"):
        NeuronReading(SPEC, parameters)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (torch.tensor(1), "torch.int64"),
        (torch.tensor(1.0, dtype=torch.float64), "torch.float64"),
        (torch.tensor(1.0, requires_grad=True), "requires_grad"),
        (0.5, "0.5"),
    ],
    ids=["int64", "float64", "attached", "number"],
)
def test_parameters_must_be_detached_float32_tensors(value, found) -> None:
    with pytest.raises(ConfigError, match=f"Parameter 'decay' must be a detached float32 tensor; got .*{found}"):
        NeuronReading(SPEC, {"threshold": ONE, "decay": value})
