import itertools
import json
from contextlib import suppress
from typing import get_args

import pytest

from snn_extreme_quant import NeuronSpec
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.spec import Charge, Comparison, Feedback, Fire, Reset, Timing

LEGAL = {
    "same_step": {"subtract", "zero", "value", "none"},
    "delayed": {"subtract", "zero", "cancel", "none"},
    "compensated": {"subtract", "zero", "cancel", "none"},
}


def every_spec() -> list[NeuronSpec]:
    """Return each combination of choices that is not refused."""
    specs = []
    for choices in itertools.product(
        *map(get_args, (Charge, Comparison, Reset, Timing)), (False, True), *map(get_args, (Fire, Feedback))
    ):
        with suppress(ConfigError):
            specs.append(NeuronSpec(*choices))
    return specs


ALL = every_spec()


def test_operators_are_unique_and_name_the_spec() -> None:
    # Plain spikes, graded or not: 8 charges x 2 comparisons x 12 pairs of reset and timing, and alpha with 3 of them.
    plain = [spec for spec in ALL if spec.fire == "spike" and spec.feedback == "none"]
    assert len(plain) == (8 * 12 + 3) * 2 * 2
    # Ternary with 4 resets, counts with 2, changes with 1; feedback in 3 ways for 2 charges.
    assert len([spec for spec in ALL if spec.fire != "spike"]) == 8 * 2 * (4 + 2 + 1)
    assert len([spec for spec in ALL if spec.feedback != "none"]) == 2 * 2 * 12 * 3
    assert len({spec.operator for spec in ALL}) == len(ALL)
    for spec in ALL:
        assert NeuronSpec.from_operator(spec.operator) == spec


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"fire": "ternary", "timing": "delayed"}, "fire='ternary' goes with timing='same_step' and graded=False"),
        ({"fire": "count", "graded": True}, "fire='count' goes with timing='same_step' and graded=False"),
        ({"fire": "count", "reset": "value"}, "fire='count' does not go with reset='value'"),
        ({"fire": "change", "reset": "subtract"}, "fire='change' does not go with reset='subtract'"),
        ({"charge": "alpha"}, "charge='alpha' goes with timing='delayed'"),
        ({"charge": "alpha", "timing": "delayed", "reset": "zero"}, "charge='alpha' goes with timing='delayed'"),
        ({"charge": "relax", "feedback": "linear"}, "feedback goes with charge 'leak' or 'synaptic'"),
        ({"feedback": "linear", "graded": True}, "feedback goes with .* plain spikes alone"),
        ({"feedback": "conv", "fire": "ternary"}, "feedback goes with .* plain spikes alone"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_choices_that_do_not_go_together(choices, message) -> None:
    legal = {"charge": "leak", "comparison": "gt", "reset": "subtract", "timing": "same_step"}
    with pytest.raises(ConfigError, match=message):
        NeuronSpec(**{**legal, **choices})


def test_states_and_outputs() -> None:
    assert NeuronSpec("leak", "gt", "none", "delayed").states == ("v",)
    assert NeuronSpec("alpha", "gt", "none", "delayed").outputs == ("s", "v", "i_exc", "i_inh")
    fed = NeuronSpec("synaptic", "gt", "none", "delayed", feedback="conv")
    assert fed.states == ("v", "i", "s")
    assert fed.outputs == ("s", "v", "i")


def test_json_round_trip() -> None:
    for spec in ALL:
        assert NeuronSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("timing", get_args(Timing))
@pytest.mark.parametrize("reset", get_args(Reset))
def test_reset_and_timing_must_go_together(timing, reset) -> None:
    if reset in LEGAL[timing]:
        NeuronSpec("leak", "gt", reset, timing)
    else:
        with pytest.raises(ConfigError, match=f"timing='{timing}' goes with reset in .* not '{reset}'"):
            NeuronSpec("leak", "gt", reset, timing)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("charge", ("leek", "gt", "subtract", "delayed")),
        ("comparison", ("leak", "eq", "subtract", "delayed")),
        ("reset", ("leak", "gt", "subtrakt", "delayed")),
        ("timing", ("leak", "gt", "subtract", "later")),
        ("fire", ("leak", "gt", "subtract", "same_step", False, "burst")),
        ("feedback", ("leak", "gt", "subtract", "same_step", False, "spike", "full")),
        ("graded", ("leak", "gt", "subtract", "same_step", "yes")),
    ],
)
def test_unknown_choices_are_refused(field, values) -> None:
    with pytest.raises(ConfigError, match=rf"NeuronSpec\({field}=.*: use "):
        NeuronSpec(*values)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "LIF",
        "LIF_leak_gt",
        "Conv",
        "LIF_leak_gt_subtract_later",
        "LIF_leek_gt_none_delayed",
        "LIF_leak_gt_none_delayed_burst",
        "LIF_leak_gt_none_delayed_fed_",
        "LIF_leak_gt_none_delayed_fed_full",
        "LIF_leak_gt_none_delayed_graded_graded",
        "LIF_leak_ge_none_same_step_spike",
    ],
)
def test_other_operators_are_refused(name) -> None:
    with pytest.raises(ConfigError):
        NeuronSpec.from_operator(name)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ConfigError, match="NeuronSpec has no field 'leek'"):
        NeuronSpec.from_dict({**ALL[0].to_dict(), "leek": 1})


def test_missing_fields_are_refused() -> None:
    data = ALL[0].to_dict()
    del data["charge"]
    with pytest.raises(ConfigError, match="charge"):
        NeuronSpec.from_dict(data)


def test_parameter_names() -> None:
    assert NeuronSpec("integrate", "ge", "none", "same_step").parameter_names == ("threshold",)
    assert NeuronSpec("relax", "ge", "value", "same_step", graded=True).parameter_names == (
        "threshold",
        "rest",
        "tau",
        "v_reset",
        "amplitude",
    )
    assert NeuronSpec("lapicque", "gt", "cancel", "delayed").parameter_names == (
        "threshold",
        "resistance",
        "inverse_rc",
        "time_step",
        "decay",
    )
    assert NeuronSpec("leak", "ge", "subtract", "same_step", fire="count").parameter_names[-1] == "levels"
    assert NeuronSpec("leak", "ge", "none", "delayed", feedback="elementwise").parameter_names[-1] == "feedback"
    assert NeuronSpec("leak", "ge", "none", "delayed", feedback="linear").parameter_names == ("threshold", "decay")


def test_specs_are_hashable_and_picklable() -> None:
    import copy

    assert len(set(ALL)) == len(ALL)
    assert copy.deepcopy(ALL[0]) == ALL[0]
