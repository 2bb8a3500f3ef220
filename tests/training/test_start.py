"""A student that starts from one of an earlier run."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from snn_extreme_quant.deploy.model_folders.card import training_lines
from snn_extreme_quant.errors import CheckpointError, ConfigError
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.training.recipe import Start
from snn_extreme_quant.training.recipe_files import load_recipe
from tests.training.recipes import HEAD, save_recipe

pytest.importorskip("accelerate")
from snn_extreme_quant.training.loop import train
from snn_extreme_quant.training.run_folder import read_run
from snn_extreme_quant.training.start import take_start

RECIPE = (
    HEAD
    + """[[stage]]
steps = 2
lr = 1e-3
weights = "ternary"
[stage.loss]
hidden = 1.0
"""
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return save_recipe(tmp_path_factory.mktemp("recipe"), RECIPE)


@pytest.fixture(scope="module")
def first(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    train(load_recipe(recipe), folder)
    return folder / "last"


def student_for(recipe, **config):
    return SpikingBert.from_teacher(load_recipe(recipe).teacher, texts=["good film", "a dull plot"], **config).eval()


def test_all_of_it(recipe, first):
    student = student_for(recipe, T=8)
    take_start(student, Start(str(first)))
    source = SpikingBert.from_pretrained(first)
    ids = torch.arange(1, 13).reshape(2, 6)
    assert torch.equal(student(ids), source(ids))
    assert student.config == source.config


def test_profile_schedule_and_time_steps_may_change(recipe, first):
    source = load_file(first / "model.safetensors")
    for config in ({"profile": "integer"}, {"schedule": "step"}, {"T": 4}):
        student = student_for(recipe, **{"T": 8, **config})
        take_start(student, Start(str(first)))
        own = student.state_dict()
        assert all(torch.equal(own[name], value) for name, value in source.items() if name in own), config
        assert set(source) == set(own)


def test_a_pooler_of_its_own_reads_what_it_read(recipe, first):
    student = student_for(recipe, T=8)
    pooler = student.pooler.weight / student.encoder[-1].neurons.threshold
    take_start(student, Start(str(first), ("embeddings.*", "encoder.*")))
    found = load_file(first / "model.safetensors")
    own = student.state_dict()
    assert torch.equal(own["encoder.1.output.weight"], found["encoder.1.output.weight"])
    assert not torch.equal(own["pooler.weight"], found["pooler.weight"])
    torch.testing.assert_close(student.pooler.weight / student.encoder[-1].neurons.threshold, pooler)


def test_a_run_starts_from_it_and_goes_on_to_another_precision(recipe, first, tmp_path):
    changes = [f"start.path={first}", "stage.0.weights=binary", "stage.0.lr=1e-12", "train.weight_decay=0.0"]
    train(load_recipe(recipe, changes), tmp_path / "run")
    before, after = load_file(first / "model.safetensors"), load_file(tmp_path / "run/last/model.safetensors")
    name = "encoder.0.output.weight"
    torch.testing.assert_close(before[name], after[name])
    student = SpikingBert.from_pretrained(tmp_path / "run/last")
    assert set(student.encoder[0].output.integer_weight()[0].unique().tolist()) == {-1.0, 1.0}
    assert json.loads((tmp_path / "run/result.json").read_text())["recipe"]["start"]["path"] == str(first)


@pytest.mark.parametrize(
    ("start", "config", "error", "said"),
    [
        ({"take": ("encoder.9.*",)}, {}, ConfigError, "matches no parameter"),
        ({}, {"signed": False}, ConfigError, "signed=True"),
        ({}, {"threshold_per": "tensor"}, ConfigError, "threshold_per='channel'"),
        ({"path": "nowhere"}, {}, CheckpointError, "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(recipe, first, start, config, error, said):
    with pytest.raises(error, match=said):
        take_start(student_for(recipe, **config), Start(**{"path": str(first), **start}))


def test_another_head_is_refused_with_what_to_do(recipe, first, tmp_path):
    student = student_for(recipe, T=8)
    student.classifier = torch.nn.Linear(student.config.hidden, 3)
    with pytest.raises(ConfigError, match=r"classifier.*leave the head out"):
        take_start(student, Start(str(first)))


def test_the_table_is_checked(recipe):
    with pytest.raises(ConfigError, match="path is missing"):
        load_recipe(recipe, ['start.take=["*"]'])
    with pytest.raises(ConfigError, match="no key 'folder'"):
        load_recipe(recipe, ["start.folder=x"])
    with pytest.raises(ConfigError, match="take is empty"):
        load_recipe(recipe, ["start.path=x", "start.take=[]"])


def test_the_facts_of_a_run_tell_of_the_runs_before(recipe, first, tmp_path):
    train(load_recipe(recipe, [f"start.path={json.dumps(str(first))}", "stage.0.steps=3"]), tmp_path)
    run = read_run(tmp_path, "last")
    assert run.facts["steps"] == 3
    before = run.facts["start"]
    assert (before["model"].rpartition("/")[2], before["steps"]) == ("last", 2)
    assert before["recipe"]["stages"][0]["weights"] == "ternary"
    assert str(first) not in json.dumps(run.facts)
    assert "Begun with the student" in training_lines(run.facts)
