"""Precisions and plans: what they refuse, and that JSON gives them back."""

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_extreme_quant.config import (
    Binary,
    Float,
    PrecisionPlan,
    Ternary,
    Uniform,
    WeightConfig,
    config_from_dict,
)
from snn_extreme_quant.errors import ConfigError, UnmatchedNameError

grains = st.one_of(
    st.fixed_dictionaries({"per": st.sampled_from(["tensor", "channel"])}),
    st.fixed_dictionaries({"per": st.just("group"), "group_size": st.integers(1, 512)}),
)
configs = st.one_of(
    st.builds(Float),
    st.builds(
        lambda grain, scale: Ternary(scale=scale, **grain),
        grains,
        st.sampled_from(["absmean", "twn", "mse", "learned"]),
    ),
    st.builds(
        lambda grain, center, scale: Binary(center=center, scale=scale, **grain),
        grains,
        st.booleans(),
        st.sampled_from(["mean", "learned"]),
    ),
    st.builds(
        lambda grain, bits, scale: Uniform(bits, scale=scale, **grain),
        grains,
        st.integers(2, 16),
        st.sampled_from(["max", "mse"]),
    ),
)
plans = st.builds(PrecisionPlan, st.lists(st.tuples(st.text(max_size=12), configs), max_size=6), configs)


@given(configs)
def test_config_round_trip(config: WeightConfig) -> None:
    again = config_from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert type(again) is type(config)


@given(plans)
def test_plan_round_trip(plan: PrecisionPlan) -> None:
    """Equal, and in the same order: the first rule that matches decides."""
    again = PrecisionPlan.from_json(plan.to_json())
    assert again == plan
    assert again.rules == plan.rules


def test_plan_file(tmp_path: Path) -> None:
    plan = PrecisionPlan({"Kopf-ä": Binary()}, default=Ternary())
    (tmp_path / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    assert PrecisionPlan.load(tmp_path / "plan.json") == plan
    assert PrecisionPlan.load(str(tmp_path / "plan.json")) == plan


def test_defaults() -> None:
    assert (Ternary().per, Binary().per, Binary().center) == ("channel", "channel", False)
    assert PrecisionPlan().default == Float()
    assert (Float.kind, Binary.kind, Ternary.kind) == ("float", "binary", "ternary")


def test_configs_are_frozen_and_hashable() -> None:
    assert len({Ternary(), Ternary(), Ternary(per="tensor"), Binary(), Float()}) == 4
    with pytest.raises(FrozenInstanceError):
        Ternary().per = "tensor"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        PrecisionPlan().default = Ternary()  # type: ignore[misc]
    assert hash(PrecisionPlan({"a": Binary()})) == hash(PrecisionPlan({"a": Binary()}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ternary(per="row"), r"Ternary\(per='row'\): use per='tensor', per='channel' or per='group'"),
        (lambda: Binary(per=None), r"Binary\(per=None\): use per='tensor'"),
        (lambda: Binary(per=["tensor"]), r"use per='tensor'"),
        (lambda: Binary(center="yes"), r"Binary\(center='yes'\): use True or False"),
        (lambda: Binary(center=1), r"Binary\(center=1\): use True or False"),
    ],
)
def test_meaningless_configs_are_refused(make, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "ternry"}, r"No weight precision is called 'ternry'\. Did you mean 'ternary'\?"),
        ({}, "No weight precision is called None. Known: binary, float, ternary"),
        ({"kind": ["ternary"]}, r"No weight precision is called \['ternary'\]"),
        ({"kind": "binary", "centre": True}, r"Binary has no field 'centre'\. Did you mean 'center'\?"),
        ({"kind": "float", "per": "tensor"}, r"Float has no field 'per'"),
        ({"kind": "ternary", "per": "row"}, "use per='tensor'"),
        ("ternary", "not a precision"),
        (None, "not a precision"),
    ],
)
def test_unknown_kinds_and_fields(data, message) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_dict(data)


GOOD = json.loads(PrecisionPlan({"a": Binary()}).to_json())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Not a precision plan"),
        ("{", "Not a precision plan"),
        ("[]", "Not a precision plan"),
        ("3", "Not a precision plan"),
        ("null", "Not a precision plan"),
        ("{}", "Not a precision plan.*format"),
        (json.dumps({**GOOD, "format": "other"}), "format 'other'"),
        (json.dumps({**GOOD, "version": 2}), "version 2; this release reads 'snn_extreme_quant.plan', version 1"),
        (json.dumps({**GOOD, "rules": [{"name": "a"}]}), "Not a precision plan.*config"),
        (json.dumps({**GOOD, "rules": 3}), "Not a precision plan"),
        (json.dumps({**GOOD, "rules": ["a"]}), "Not a precision plan"),
        (json.dumps({**GOOD, "rules": [{"name": 1, "config": {"kind": "float"}}]}), "rule 0 is no object"),
        (json.dumps({**GOOD, "default": "ternary"}), "config of 'default' is a str"),
        (json.dumps({**GOOD, "default": {"kind": "quaternary"}}), "Did you mean 'ternary'"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "default"}), "Not a precision plan.*default"),
    ],
)
def test_bad_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrecisionPlan.from_json(text)


@pytest.mark.parametrize(
    "rules", [{"a": "ternary"}, {3: Ternary()}, [("a", None)], {"a": Ternary}, ["ab"], [("a", Ternary(), 3)], 5]
)
def test_plans_take_names_and_configs(rules) -> None:
    with pytest.raises(ConfigError, match="A plan maps layer names"):
        PrecisionPlan(rules)


def test_a_plan_refuses_a_default_that_is_no_config() -> None:
    with pytest.raises(ConfigError, match="'default'"):
        PrecisionPlan(default="ternary")


def test_the_first_matching_rule_decides() -> None:
    plan = PrecisionPlan(
        [("features.0", Float()), ("features.*", Binary()), ("*.proj[12]", Binary(per="tensor"))], Ternary()
    )
    assert plan.config_for("features.0") == Float()
    assert plan.config_for("features.0.weight") == Binary()
    assert plan.config_for("features.10") == Binary()
    assert plan.config_for("block.proj1") == Binary(per="tensor")
    assert plan.config_for("block.proj3") == Ternary()
    assert plan.config_for("Features.1") == Ternary()


def test_a_name_with_brackets_matches_itself() -> None:
    """A layer's own name always counts, even where it reads like a pattern."""
    assert PrecisionPlan({"layer[0]": Binary()}).config_for("layer[0]") == Binary()


def test_check_names() -> None:
    plan = PrecisionPlan({"fc*": Binary(), "haed": Float()})
    with pytest.raises(UnmatchedNameError, match=r"'haed' in the plan matches no layer\. Did you mean 'head'\?"):
        plan.check_names(["fc1", "head"])
    PrecisionPlan({"fc*": Binary(), "head": Float()}).check_names(iter(["fc1", "head"]))


def test_plan_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        PrecisionPlan.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (Binary(), "Binary(per='channel')"),
        (Binary(center=True, scale="learned"), "Binary(per='channel', center=True, scale='learned')"),
        (Ternary(per="tensor", scale="twn"), "Ternary(per='tensor', scale='twn')"),
        (Ternary(per="group", group_size=64), "Ternary(per='group', group_size=64)"),
        (Uniform(), "Uniform(per='channel')"),
        (Uniform(4, "group", "mse", 32), "Uniform(bits=4, per='group', scale='mse', group_size=32)"),
    ],
)
def test_repr_shows_what_differs_and_evaluates_to_the_config(config, text) -> None:
    assert repr(config) == text
    assert eval(text) == config


def test_bits() -> None:
    assert [c.bits for c in (Float(), Binary(), Ternary(), Uniform(), Uniform(5))] == [32, 1, 2, 8, 5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Binary(scale="absmean"), r"Binary\(scale='absmean'\): use scale='mean' or scale='learned'"),
        (lambda: Ternary(scale="mean"), r"use scale='absmean' or scale='twn' or scale='mse' or scale='learned'"),
        (lambda: Uniform(scale="learned"), r"use scale='max' or scale='mse'"),
        (lambda: Uniform(scale=None), r"Uniform\(scale=None\): use"),
        (lambda: Uniform(1), r"Uniform\(bits=1\): use 2 to 16; for 1 bit use Binary\(\)"),
        (lambda: Uniform(17), "use 2 to 16"),
        (lambda: Uniform(True), r"Uniform\(bits=True\): use 2 to 16"),
        (lambda: Uniform(8.0), r"Uniform\(bits=8.0\): use 2 to 16"),
        (lambda: Ternary(per="group"), r"Ternary\(group_size=None\): per='group' needs group_size"),
        (lambda: Ternary(per="group", group_size=0), r"per='group' needs group_size"),
        (lambda: Ternary(per="group", group_size=True), r"per='group' needs group_size"),
        (lambda: Binary(group_size=64), r"Binary\(group_size=64\): leave group_size out, or use per='group'"),
        (lambda: Uniform(per="tensor", group_size=1), "leave group_size out"),
    ],
)
def test_meaningless_scales_bits_and_groups_are_refused(make, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_plans_of_the_first_release_still_load() -> None:
    """They hold neither scale nor group size."""
    old = {"kind": "binary", "per": "tensor", "center": True}
    assert config_from_dict(old) == Binary(per="tensor", center=True)
