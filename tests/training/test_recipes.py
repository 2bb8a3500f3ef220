"""Recipes as they are written: those of the package, what they keep, and what is refused before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from snn_extreme_quant.data import GLUE
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models import SpikingBertConfig
from snn_extreme_quant.training.recipe_files import load_recipe, shipped_recipes


def test_recipes_of_the_package_are_read_and_documented():
    tasks = ("mrpc", "rte", "stsb", "cola")
    names = {"sst2_float", "sst2_ternary", "sst2_binary", "sst2_ternary_01", "sst2_ternary_integer", "sst2_teacher"}
    names |= {f"{task}_{kind}" for task in tasks for kind in ("ternary", "teacher")}
    names |= {"sst2_progressive", "general_ternary"}
    assert {name for name in shipped_recipes() if load_recipe(name).gpt is None} == names
    page = (Path(__file__).parents[2] / "docs/spiking_bert.md").read_text(encoding="utf-8")
    for name in names:
        recipe = load_recipe(name, ["train.seed=5", "task.data=elsewhere"])
        assert (recipe.train.seed, recipe.data) == (5, "elsewhere")
        assert recipe.task == GLUE["sst2" if name == "general_ternary" else name.split("_")[0]]
        SpikingBertConfig(**recipe.student)
        assert f"`{name}`" in page
    ablations = page.partition("<!-- ablations table -->")[2].partition("<!-- end")[0].splitlines()
    changed = [re.findall(r"`([^`=]+=[^`]+)`", row) for row in ablations if row.startswith("| ")]
    assert sum(map(bool, changed)) > 5
    for changes in filter(None, changed):
        assert load_recipe("sst2_ternary", changes) != load_recipe("sst2_ternary"), changes
    progressive = load_recipe("sst2_progressive")
    assert [str(stage.weights)[:3] for stage in progressive.stages] == ["flo", "{'k", "bin"]
    for name in ("sst2_binary", "sst2_ternary_integer", *(f"{task}_ternary" for task in tasks)):
        start = load_recipe(name).start
        assert start is not None
        assert start.path.split("/")[1] in names, "a run starts from what another recipe leaves"
    assert load_recipe("sst2_ternary_01").student["offset"] is True


def test_a_task_of_glue_keeps_what_is_not_changed(recipe):
    task = load_recipe(recipe, ["task.text=review", "task.dev=test"]).task
    assert (task.name, task.text, task.dev, task.metrics) == ("sst2", "review", "test", ("accuracy",))
    other = load_recipe(recipe, ["task.name=mnli", "task.dev=dev_mismatched"]).task
    assert (other.text, other.labels[0], other.dev) == ("premise", "entailment", "dev_mismatched")
    with pytest.raises(ConfigError, match="regression does not fit"):
        load_recipe(recipe, ["task.regression=true"])


def test_stages_without_a_name_get_names_of_their_own(recipe, tmp_path):
    text = recipe.read_text(encoding="utf-8").replace('name = "float"\n', "").replace('name = "ternary"\n', "")
    path = tmp_path / "unnamed.toml"
    path.write_text(text, encoding="utf-8")
    assert [stage.name for stage in load_recipe(path).stages] == ["train", "train-2"]
    assert [stage.name for stage in load_recipe(path, ["stage.1.name=train"]).stages] == ["train-2", "train"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["stage.1.name=float"], "Two stages are called 'float'"),
        (["train.sed=1"], "'seed'"),
        (["stage.0.lr=fast"], "lr"),
        (["stage.0.steps=0"], "epochs or steps"),
        (["stage.5.steps=1"], "--set"),
        (["nonsense"], "--set"),
        (["stage.0.loss.hiden=1"], "'hidden'"),
        (["stage.1.loss.labels=0", "stage.1.loss.hidden=0"], "all weights"),
        (["stage.0.weights=tenary"], "ternary"),
        (["train.accumulate=3"], "divide"),
        (["train.precision=fp8"], "bf16"),
        (["task.name=sst"], "sst2"),
        (["teacher.pth=x"], "path"),
        (["students.T=4"], "student"),
        (["task.metrics=['foo']"], "accuracy"),
        (["task.metrics=[]"], "accuracy"),
        (["train.seed=-1"], "seed"),
        (["train.seed=99999999999999999999"], "seed"),
        (["stage=3"], "stage"),
        (["task=3"], "task"),
        (["student.layers=1.5"], "layers"),
        (["student.layers=a"], "layers"),
        (["task.max_tokens=abc"], "max_tokens"),
        (["teacher.cache=all", "stage.1.loss.scores=1"], "scores"),
        (["task.labels=abc"], r"\[task\] labels=\['abc'\]: name two or more, each once"),
        (["task.labels=['a', 'a']"], "each once"),
        (["task.labels=['a', 1]"], "list of texts"),
        (["task.labels=['a', 'b']", "task.name=own", "task.regression=true"], "regression has no classes"),
        (["task.name=own", "task.regression='yes'"], "regression = 'yes': use true or false"),
        (["task.pair=3"], "pair = 3: use a text"),
        (["task.data=3"], r"\[task\] data = 3"),
        (["teacher.path=3"], r"\[teacher\] path = 3"),
        (["stage.0.loss.layer_map=abc"], "layer_map = 'abc': use a list of whole numbers"),
        (["stage.0.loss.layer_map=[0, 1.5]"], "list of whole numbers"),
        (["stage.0.loss.hidden=inf"], "hidden = inf: use a number that is finite"),
        (["stage.0.steps=0", "stage.0.epochs=inf"], "epochs = inf"),
        (["stage.0.steps=-3", "stage.0.epochs=1"], "steps=-3"),
        (["stage.0.lr=nan"], "lr = nan"),
        (["stage.0.weights=3"], "stage 'float': weights=3"),
        (["stage.0.weights={default={kind='float'}, rules=[{config={kind='binary'}}]}"], "rule 0 of the plan"),
        (["stage.0.freeze=[3]"], "freeze"),
        (["train.clip=-1"], "clip=-1"),
        (["train.weight_decay=-1"], "weight_decay=-1"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_runs(recipe, changes, words):
    with pytest.raises(ConfigError, match=words):
        load_recipe(recipe, changes)
