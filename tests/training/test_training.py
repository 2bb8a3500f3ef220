"""Runs of the loop: what they leave, what they learn, and what stops them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from snn_extreme_quant.data import GLUE, Sentences, collate, read_rows
from snn_extreme_quant.errors import ConfigError, DataError, TrainingError
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.teacher import load_teacher, load_tokenizer
from snn_extreme_quant.training.augmentation import Vocabulary
from snn_extreme_quant.training.recipe_files import load_recipe

pytest.importorskip("accelerate")
from snn_extreme_quant.training.loop import train


def test_a_run_leaves_models_log_and_result(finished):
    folder, result, seen = finished
    assert [(p.stage, p.step, p.steps) for p in seen] == [("float", n + 1, 6) for n in range(6)] + [
        ("ternary", n + 1, 6) for n in range(6)
    ]
    assert set(seen[0].losses) == {"loss", "hidden", "scores", "logits"}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["float", "ternary"]
    written = json.loads((folder / "result.json").read_text())
    assert written["metrics"] == result.metrics
    assert set(written["by_time_steps"]) == {"4", "8", "16", "32", "64"}
    assert written["by_time_steps"]["8"]["accuracy"] == result.metrics["accuracy"]
    assert 0 < result.firing_rate < 1
    student = SpikingBert.from_pretrained(folder / "last")
    assert set(student.encoder[0].output.integer_weight()[0].unique().tolist()) == {-1.0, 0.0, 1.0}
    assert load_tokenizer(folder / "last")("good film")["input_ids"]
    best = SpikingBert.from_pretrained(folder / "best")
    assert best.config.weights == student.config.weights  # however good the float stage was


def test_what_is_frozen_stays(finished, recipe):
    folder, _, _ = finished
    student = SpikingBert.from_pretrained(folder / "last")
    teacher = load_teacher(load_recipe(recipe).teacher)
    trained_in_the_first_stage = student.embeddings.words.weight
    assert not torch.equal(trained_in_the_first_stage, teacher.bert.embeddings.word_embeddings.weight)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["state"]
    assert torch.equal(state["model"]["student.embeddings.words.weight"], trained_in_the_first_stage)


def test_a_run_that_is_refused_leaves_no_folder(recipe, tmp_path):
    with pytest.raises(DataError):
        train(load_recipe(recipe, ["task.label=none"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_distillation_teaches(recipe, tmp_path):
    losses = []
    changes = [
        "stage.0.steps=40",
        "stage.0.weights=ternary",
        "stage.0.lr=3e-3",
        "train.batch=32",
        "student.dropout=0.0",
    ]
    only = load_recipe(recipe, changes)
    train(only, tmp_path, report=lambda p: losses.append(p.losses["loss"]))
    assert np.mean(losses[35:40]) < 0.6 * np.mean(losses[:5])


def test_parts_of_a_batch_add_up(recipe, tmp_path):
    same = ["train.save_every=0", "student.dropout=0.0", "stage.0.steps=1", "stage.1.epochs=0", "stage.1.steps=1"]
    for parts in (1, 4):
        train(load_recipe(recipe, [*same, f"train.accumulate={parts}"]), tmp_path / str(parts))
    logs = [json.loads((tmp_path / str(n) / "log.jsonl").read_text().splitlines()[0])["losses"] for n in (1, 4)]
    assert set(logs[0]) == {"loss", "hidden", "scores", "logits"}
    for name, value in logs[0].items():
        assert logs[1][name] == pytest.approx(value, rel=1e-4), name


def test_outputs_that_were_kept_are_the_teachers(recipe, tmp_path):
    same = ["stage.0.loss.scores=0.0", "stage.1.epochs=0", "stage.1.steps=2"]
    results = {}
    for cache in ("none", "all"):
        losses = []
        loaded = load_recipe(recipe, [*same, f"teacher.cache={cache}"])
        train(loaded, tmp_path / cache, report=lambda p, losses=losses: losses.append(p.losses))
        results[cache] = losses
    assert results["all"][0]["hidden"] == pytest.approx(results["none"][0]["hidden"], rel=1e-3)
    assert results["all"][-1]["hidden"] == pytest.approx(results["none"][-1]["hidden"], rel=0.05)
    kept = tmp_path / "all/teacher_outputs/hidden.bin"
    before = kept.stat().st_mtime_ns
    train(loaded, tmp_path / "all", resume=True)
    assert kept.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="scores"):
        train(load_recipe(recipe, ["teacher.cache=all"]), tmp_path / "scores")


@pytest.mark.parametrize("mode", ["simulated", "equilibrium", "surrogate"])
def test_the_step_schedule_is_trained_in_each_mode(recipe, tmp_path, mode):
    changes = ["student.schedule=step", "student.T=6", f"stage.0.mode={mode}", f"stage.1.mode={mode}"]
    changes += ["stage.0.steps=2", "stage.1.epochs=0", "stage.1.steps=1", "student.dropout=0.0"]
    seen = []
    result = train(load_recipe(recipe, changes), tmp_path, report=lambda p: seen.append(p.losses["hidden"]))
    assert 0 < result.firing_rate < 1
    assert seen[1] != seen[0]
    student = SpikingBert.from_pretrained(tmp_path / "last")
    rows = read_rows(GLUE["sst2"], load_recipe(recipe).data, "dev")
    sentences = Sentences.tokenise(rows, load_tokenizer(tmp_path / "last"), 16)
    batch = collate(sentences, np.arange(len(sentences)))
    found = student(batch.ids, batch.mask, batch.types).argmax(-1)  # simulated, whatever it was trained in
    assert (found == batch.labels).float().mean() == pytest.approx(result.metrics["accuracy"])


def test_a_loss_that_is_not_finite_stops_the_run(recipe, tmp_path):
    with pytest.raises(TrainingError, match="stage 'float', step"):
        train(load_recipe(recipe, ["stage.0.lr=1e30", "stage.0.warmup=0.0", "train.clip=1e30"]), tmp_path)


def test_text_that_is_not_there_is_said_before_the_first_stage(recipe, tmp_path):
    changes = ["stage.1.text=['nowhere.txt']", "stage.1.loss.labels=0", "stage.1.loss.hidden=1"]
    with pytest.raises(DataError, match="nowhere"):
        train(load_recipe(recipe, changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["student.T=12"], "T=12"),
        (["stage.0.freeze=['nothing*']"], "matches no parameter"),
        (["stage.0.mode=surrogate"], "schedule"),
        (["stage.0.loss.layer_map=[0]"], "layer_map"),
        (["task.regression=true", "task.metrics=['pearson']", "task.name=own"], "outputs"),
    ],
)
def test_what_does_not_fit_is_refused(recipe, tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        train(load_recipe(recipe, changes), tmp_path)


def test_a_vocabulary_without_neighbours_is_said_before_the_first_stage(recipe, tmp_path, monkeypatch):
    def of(tokenizer, size):
        none = np.zeros(size, bool)
        return Vocabulary(none, none, np.arange(size) == 7)

    monkeypatch.setattr(Vocabulary, "of", of)
    changes = ["stage.1.augment=0.5", "stage.1.loss.labels=0", "stage.1.loss.hidden=1"]
    seen = []
    with pytest.raises(ConfigError, match=r"\[augment\] replace"):
        train(load_recipe(recipe, changes), tmp_path / "run", report=seen.append)
    assert not seen
    assert not (tmp_path / "run").exists()
