import json
from typing import get_args

import pytest

from snn_extreme_quant import NeuronSpec
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.spec import Charge, Comparison, Reset, Timing

LEGAL = {
    "same_step": {"subtract", "zero", "value", "none"},
    "delayed": {"subtract", "zero", "cancel", "none"},
    "compensated": {"subtract", "zero", "none"},
}
ALL = [
    NeuronSpec(charge, comparison, reset, timing, graded)
    for charge in get_args(Charge)
    for comparison in get_args(Comparison)
    for timing, resets in LEGAL.items()
    for reset in sorted(resets)
    for graded in (False, True)
]


def test_operators_are_unique_and_name_the_spec() -> None:
    assert len({spec.operator for spec in ALL}) == len(ALL) == 220
    for spec in ALL:
        assert NeuronSpec.from_operator(spec.operator) == spec


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
    ],
)
def test_unknown_choices_are_refused(field, values) -> None:
    with pytest.raises(ConfigError, match=rf"NeuronSpec\({field}=.*: use one of"):
        NeuronSpec(*values)


@pytest.mark.parametrize(
    "name", ["", "LIF", "LIF_leak_gt", "Conv", "LIF_leak_gt_subtract_later", "LIF_leek_gt_none_delayed"]
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


def test_specs_are_hashable_and_picklable() -> None:
    import copy

    assert len(set(ALL)) == len(ALL)
    assert copy.deepcopy(ALL[0]) == ALL[0]
