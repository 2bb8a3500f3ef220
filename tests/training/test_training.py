from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from snn_extreme_quant.data import GLUE, Sentences, Task, collate, read_rows
from snn_extreme_quant.data.metrics import measure
from snn_extreme_quant.errors import CheckpointError, ConfigError, DataError, TrainingError
from snn_extreme_quant.models import SpikingBert, SpikingBertConfig
from snn_extreme_quant.models.teacher import load_teacher, load_tokenizer
from snn_extreme_quant.training.distillation import Distiller, Teacher
from snn_extreme_quant.training.recipe import LossWeights
from snn_extreme_quant.training.recipe_files import load_recipe, shipped_recipes
from snn_extreme_quant.training.teacher_cache import CachedTeacher
from tests.training.recipes import HEAD, save_recipe, weights_of

pytest.importorskip("accelerate")
from snn_extreme_quant.training.loop import train

RECIPE = (
    HEAD
    + """seed = 3
save_every = 4
[[stage]]
name = "float"
steps = 6
lr = 1e-3
[stage.loss]
hidden = 1.0
scores = 0.1
logits = 1.0
[[stage]]
name = "ternary"
epochs = 1.0
lr = 1e-3
weights = "ternary"
freeze = ["embeddings.words.*"]
[stage.loss]
labels = 1.0
hidden = 0.1
"""
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return save_recipe(tmp_path_factory.mktemp("recipe"), RECIPE)


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    seen = []
    return folder, train(load_recipe(recipe), folder, report=seen.append), seen


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


@pytest.mark.parametrize("stop", [("float", 5), ("float", 6), ("ternary", 5)])
def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(recipe, finished, tmp_path, stop):
    class StopError(Exception):
        pass

    def interrupt(progress):
        if (progress.stage, progress.step) == stop:
            raise StopError

    with pytest.raises(StopError):
        train(load_recipe(recipe), tmp_path, report=interrupt)
    if stop == ("float", 6):  # stopped before the stage's own checkpoint: the one of step 4 is the last
        assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["step"] == 4
    torch.manual_seed(99)
    result = train(load_recipe(recipe), tmp_path, resume=True)
    whole, resumed = weights_of(finished[0]), weights_of(tmp_path)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert result.metrics == finished[1].metrics
    assert result.best == finished[1].best


def test_a_finished_run_resumes_to_its_own_result(recipe, finished):
    folder, result, _ = finished
    before = weights_of(folder)
    again = train(load_recipe(recipe), folder, resume=True)
    assert again.metrics == result.metrics
    assert all(torch.equal(value, before[name]) for name, value in weights_of(folder).items())


def test_runs_do_not_mix(recipe, finished, tmp_path):
    folder, _, _ = finished
    with pytest.raises(CheckpointError, match="resume"):
        train(load_recipe(recipe), folder)
    with pytest.raises(CheckpointError, match=r"recipe.train.seed was 3, is 4"):
        train(load_recipe(recipe, ["train.seed=4"]), folder, resume=True)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(load_recipe(recipe), tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="is damaged"):
        train(load_recipe(recipe), tmp_path, resume=True)


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


def test_outputs_of_other_weights_are_computed_anew(recipe, tmp_path):
    loaded = load_recipe(recipe)
    model, tokenizer = load_teacher(loaded.teacher), load_tokenizer(loaded.teacher)
    sentences = Sentences.tokenise(read_rows(GLUE["sst2"], loaded.data, "dev"), tokenizer, 16)
    batch = collate(sentences, np.array([5, 0, 9]))
    for change in (0.0, 0.5):
        with torch.no_grad():
            model.bert.encoder.layer[0].output.dense.bias.add_(change)
        teacher = Teacher(model, (0, 1, 2), True, False)
        kept, fresh = CachedTeacher(teacher, sentences, tmp_path, "no")(batch), teacher(batch)
        torch.testing.assert_close(kept.logits, fresh.logits, atol=1e-5, rtol=0)
        used = batch.mask.bool()
        torch.testing.assert_close(kept.hidden[:, used].float(), fresh.hidden[:, used], atol=2e-3, rtol=1e-3)


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


@pytest.mark.parametrize("accumulate", [1, 4])
def test_half_precision_and_parts_resume_to_the_bit_too(recipe, tmp_path, accumulate):
    changes = ["train.precision=bf16", f"train.accumulate={accumulate}", "train.save_every=2", "stage.1.epochs=0"]
    changes += ["stage.1.steps=3", "stage.0.steps=5"]
    losses = []

    class StopError(Exception):
        pass

    def interrupt(progress):
        if (progress.stage, progress.step) == ("float", 5):
            raise StopError

    whole = train(load_recipe(recipe, changes), tmp_path / "whole", report=lambda p: losses.append(p.losses["loss"]))
    assert np.isfinite(losses).all()
    with pytest.raises(StopError):
        train(load_recipe(recipe, changes), tmp_path / "cut", report=interrupt)
    assert train(load_recipe(recipe, changes), tmp_path / "cut", resume=True).metrics == whole.metrics
    one, other = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert one["encoder.0.output.weight"].dtype == torch.float32
    exact = train(load_recipe(recipe, [*changes, "train.precision=no"]), tmp_path / "exact")
    assert exact.best != {}
    assert not torch.equal(weights_of(tmp_path / "exact")["encoder.0.output.weight"], one["encoder.0.output.weight"])


def test_a_loss_that_is_not_finite_stops_the_run(recipe, tmp_path):
    with pytest.raises(TrainingError, match="stage 'float', step"):
        train(load_recipe(recipe, ["stage.0.lr=1e30", "stage.0.warmup=0.0", "train.clip=1e30"]), tmp_path)


def test_losses_are_their_equations(recipe):
    loaded = load_recipe(recipe)
    teacher = load_teacher(loaded.teacher)
    rows = read_rows(GLUE["sst2"], loaded.data, "dev")
    sentences = Sentences.tokenise(rows, load_tokenizer(loaded.teacher), 16)
    batch = collate(sentences, np.arange(6))
    outputs = Teacher(teacher, (0, 1, 2), True, True)(batch)
    reference = teacher(
        input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True, output_attentions=True
    )
    pads = (1 - batch.mask[:, None, None, :]) * -1e4
    for ours, theirs in zip(outputs.scores, reference.attentions, strict=True):
        torch.testing.assert_close((ours + pads).softmax(-1), theirs)
    student = SpikingBert.from_teacher(loaded.teacher, T=8).eval()
    weights = LossWeights(hidden=1.0, scores=2.0, logits=3.0, labels=4.0, temperature=2.0)
    found = Distiller(student, 32, False).eval()(batch, outputs, weights)
    with torch.no_grad():
        details = student.details(batch.ids, batch.mask, batch.types)
    expected = {"hidden": 0.0, "scores": 0.0}
    for ours, theirs in zip(details.hidden, reference.hidden_states, strict=True):
        errors = [(ours[i, :n] - theirs[i, :n]).square() for i, n in enumerate(batch.mask.sum(1).tolist())]
        expected["hidden"] += torch.cat(errors).mean().item()
    for ours, theirs in zip(details.scores, outputs.scores, strict=True):
        errors = [
            (ours[i, :, :n, :n] - theirs[i, :, :n, :n]).square().flatten() for i, n in enumerate(batch.mask.sum(1))
        ]
        expected["scores"] += torch.cat(errors).mean().item()
    soft = (reference.logits / 2).softmax(-1)
    expected["logits"] = float(-(soft * (details.logits / 2).log_softmax(-1)).sum(-1).mean())
    picked = details.logits.log_softmax(-1)[torch.arange(6), batch.labels.long()]
    expected["labels"] = float(-picked.mean())
    for name, value in expected.items():
        assert float(found[name].detach()) == pytest.approx(value, rel=1e-4), name
    total = sum(getattr(weights, name) * value for name, value in expected.items())
    assert float(found["loss"].detach()) == pytest.approx(total, rel=1e-4)


def test_every_glue_task_has_the_metrics_of_its_paper():
    accuracy = {"accuracy"}
    expected = {
        "cola": {"matthews", "accuracy"}, "mrpc": {"accuracy", "f1"}, "qqp": {"accuracy", "f1"},
        "stsb": {"pearson", "spearman"}, "mnli": accuracy, "qnli": accuracy, "rte": accuracy, "sst2": accuracy,
        "wnli": accuracy,
    }  # fmt: skip
    assert {name: set(task.metrics) for name, task in GLUE.items()} == expected
    generator = np.random.default_rng(0)
    for name, task in GLUE.items():
        classes = 1 if task.regression else max(2, len(task.labels))
        labels = generator.random(50) * 5 if task.regression else generator.integers(classes, size=50).astype(float)
        right = labels[:, None] if task.regression else np.eye(classes)[labels.astype(int)]
        assert all(value == pytest.approx(1.0) for value in measure(task, labels, right).values()), name
        assert all(value < 0.7 for value in measure(task, labels, generator.random((50, classes))).values()), name


def test_f1_of_more_than_two_classes_is_the_mean_over_them():
    from sklearn.metrics import f1_score

    task = Task("own", metrics=("f1",))
    labels, found = np.array([0.0, 1, 2, 2]), np.array([0, 2, 2, 2])
    expected = f1_score(labels, found, average="macro")
    assert measure(task, labels, np.eye(3)[found])["f1"] == pytest.approx(expected)


def test_metrics_of_every_task():
    labels, logits = np.array([0.0, 1.0, 1.0, 0.0]), np.array([[1.0, 0], [0, 1], [1, 0], [1, 0]])
    assert measure(GLUE["mrpc"], labels, logits) == {"accuracy": 0.75, "f1": pytest.approx(2 / 3)}
    assert measure(GLUE["cola"], labels, logits)["matthews"] == pytest.approx(1 / np.sqrt(3))
    scores = np.array([1.0, 2.0, 4.0])
    assert measure(GLUE["stsb"], scores, scores[:, None] ** 3)["spearman"] == pytest.approx(1.0)
    assert measure(GLUE["stsb"], scores, np.ones((3, 1))) == {"pearson": 0.0, "spearman": 0.0}


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
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
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_runs(recipe, changes, words):
    with pytest.raises(ConfigError, match=words):
        load_recipe(recipe, changes)


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
