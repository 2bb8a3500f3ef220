"""General stages on plain text, augmentation in the loop, what each loss teaches, and several processes."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from snn_extreme_quant.data import Sentences, collate, read_text
from snn_extreme_quant.errors import ConfigError, DataError
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.teacher import load_teacher, load_tokenizer
from snn_extreme_quant.training.distillation import Distiller, Teacher, TeacherOutputs
from snn_extreme_quant.training.jobs import refuse_length
from snn_extreme_quant.training.recipe import LossWeights
from tests.tiny_bert import WORDS, save_task, save_teacher
from tests.training.recipes import HEAD, save_recipe, weights_of

pytest.importorskip("accelerate")
from snn_extreme_quant.training import load_recipe, train

RECIPE = (
    HEAD
    + """save_every = 2
[augment]
replace = 0.3
delete = 0.1
swap = 0.1
neighbours = 3
[[stage]]
name = "general"
steps = 3
lr = 1e-3
text = "{text}"
teacher = "{base}"
[stage.loss]
hidden = 1.0
scores = 0.1
[[stage]]
name = "internal"
steps = 4
lr = 1e-3
weights = "ternary"
augment = 0.8
[stage.loss]
hidden = 1.0
scores = 0.1
[[stage]]
name = "prediction"
steps = 3
lr = 1e-3
weights = "binary"
augment = 0.5
[stage.loss]
logits = 1.0
"""
)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    text = folder / "text.txt"
    lines = [" ".join(WORDS[(3 * i + j) % len(WORDS)] for j in range(4 + i)) for i in range(30)]
    text.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    base = save_teacher(folder / "base", layers=3, classify=False)
    return {"data": save_task(folder / "data"), "teacher": save_teacher(folder / "teacher"), "base": base, "text": text}


@pytest.fixture(scope="module")
def recipe(places, tmp_path_factory):
    return save_recipe(tmp_path_factory.mktemp("recipe"), RECIPE, **places)


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    seen = []
    train(load_recipe(recipe), folder, report=seen.append)
    return folder, seen


def test_general_internal_prediction(finished):
    folder, seen = finished
    assert [set(p.losses) for p in seen] == (
        [{"loss", "hidden", "scores"}] * 7 + [{"loss", "logits"}] * 3
    )  # no labels anywhere
    assert [p.total for p in seen] == list(range(1, 11))
    assert seen[0].lr == 1e-3
    student = SpikingBert.from_pretrained(folder / "last")
    assert set(student.encoder[0].output.integer_weight()[0].unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("stop", [("general", 3), ("internal", 3), ("prediction", 1)])
def test_stages_with_augmentation_resume_to_the_bit(recipe, finished, tmp_path, stop):
    class StopError(Exception):
        pass

    def interrupt(progress):
        if (progress.stage, progress.step) == stop:
            raise StopError

    with pytest.raises(StopError):
        train(load_recipe(recipe), tmp_path, report=interrupt)
    train(load_recipe(recipe), tmp_path, resume=True)
    whole, resumed = weights_of(finished[0]), weights_of(tmp_path)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_training_sentences_need_no_labels(recipe, finished, tmp_path, places):
    for split in ("train", "dev"):
        text = (places["data"] / f"{split}.tsv").read_text(encoding="utf-8")
        if split == "train":
            text = "\n".join(line.partition("\t")[0] for line in text.splitlines()) + "\n"
        (tmp_path / f"{split}.tsv").write_text(text, encoding="utf-8")
    train(load_recipe(recipe, [f"task.data={tmp_path}"]), tmp_path / "run")
    whole, again = weights_of(finished[0]), weights_of(tmp_path / "run")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    with_labels = [f"task.data={tmp_path}", "stage.2.loss.labels=1.0", "stage.2.augment=0.0"]
    with pytest.raises(DataError, match="no column 'label'"):
        train(load_recipe(recipe, with_labels), tmp_path / "other")


def test_text_and_augmentation_change_what_is_learnt(recipe, finished, tmp_path, places):
    changes = {
        "unaltered": ["stage.1.augment=0.0"],
        "other_text": [f"stage.0.text=['{places['text']}', '{places['text']}']"],
        "own_teacher": ["stage.0.teacher="],
    }
    base = weights_of(finished[0])["encoder.0.output.weight"]
    for name, change in changes.items():
        train(load_recipe(recipe, change), tmp_path / name)
        assert not torch.equal(weights_of(tmp_path / name)["encoder.0.output.weight"], base), name


def test_kept_outputs_stand_aside_where_sentences_are_altered(recipe, finished, tmp_path):
    same = ["stage.1.loss.scores=0.0", "stage.1.augment=1.0", "stage.2.augment=0.0"]
    losses = {}
    for cache in ("none", "all"):
        seen = []
        train(load_recipe(recipe, [*same, f"teacher.cache={cache}"]), tmp_path / cache, report=seen.append)
        losses[cache] = [p.losses["loss"] for p in seen]
    assert losses["all"][:7] == losses["none"][:7]  # text and augmented: the teacher itself, bit for bit
    assert losses["all"][7:] == pytest.approx(losses["none"][7:], rel=1e-3)
    assert (tmp_path / "all/teacher_outputs/done.json").is_file()


@pytest.mark.parametrize("loss", ["hidden", "scores", "logits", "labels"])
def test_each_loss_reaches_what_it_is_about(places, loss):
    teacher = load_teacher(places["teacher"])
    tokenizer = load_tokenizer(places["teacher"])
    sentences = Sentences.of_text(["good film", "the plot was dull and bad"], tokenizer, 16)
    batch = collate(sentences, torch.arange(2).numpy())
    student = SpikingBert.from_teacher(places["teacher"], T=8)
    distiller = Distiller(student, 32, False)
    outputs = Teacher(teacher, (0, 1, 2), True, True)(batch)
    distiller(batch, outputs, LossWeights(**{loss: 1.0}))["loss"].backward()
    grown = {name for name, p in distiller.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    in_all = {"student.encoder.0.output.weight", "student.embeddings.norm.weight"}
    reached = {
        "hidden": {"projection.weight", "student.embeddings.neurons.log_threshold", "student.encoder.1.output.weight"},
        "scores": {"student.encoder.1.attention.query.weight", "student.encoder.1.attention.key_neurons.log_threshold"},
        "logits": {"student.classifier.weight", "student.pooler.weight", "student.encoder.1.output.weight"},
        "labels": {"student.classifier.weight", "student.pooler.weight", "student.encoder.1.output.weight"},
    }
    missed = {
        "hidden": {"student.classifier.weight", "student.pooler.weight"},
        "scores": {"student.classifier.weight", "projection.weight", "student.encoder.1.output.weight"},
        "logits": {"projection.weight"},
        "labels": {"projection.weight"},
    }
    assert in_all | reached[loss] <= grown
    assert not missed[loss] & grown
    value = {**outputs.__dict__, loss: None}
    if loss != "labels":
        with pytest.raises(ConfigError, match="the teacher gives no"):
            distiller(batch, TeacherOutputs(**value), LossWeights(**{loss: 1.0}))


def test_the_embeddings_are_a_term_of_the_hidden_loss(places):
    teacher = load_teacher(places["teacher"])
    sentences = Sentences.of_text(["good film"], load_tokenizer(places["teacher"]), 16)
    batch = collate(sentences, torch.arange(1).numpy())
    distiller = Distiller(SpikingBert.from_teacher(places["teacher"], T=8).eval(), 32, False)
    outputs = Teacher(teacher, (0, 1, 2), True, False)(batch)
    before = distiller(batch, outputs, LossWeights(hidden=1.0))["hidden"]
    outputs.hidden[0] += 2.0
    after = distiller(batch, outputs, LossWeights(hidden=1.0))["hidden"]
    assert float((after - before).detach()) == pytest.approx(4.0, abs=1.0)


def test_long_lines_are_cut_and_none_is_left_out(places, tmp_path):
    tokenizer = load_tokenizer(places["teacher"])
    with gzip.open(tmp_path / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\ufeffgood film\n   \n" + " ".join(WORDS) + "\n")
    (tmp_path / "a.txt").write_text("a plot\r\n", encoding="utf-8")
    lines = read_text([tmp_path])
    assert lines == ["a plot", "good film", " ".join(WORDS)]
    sentences = Sentences.of_text(lines, tokenizer, 8)
    assert sentences.lengths.tolist() == [4, 4, 8, 8, 5]
    words = [
        tokenizer.decode(sentences.ids[a:b], skip_special_tokens=True)
        for a, b in zip(sentences.starts[2:], sentences.starts[3:], strict=False)
    ]
    assert " ".join(words).split() == list(WORDS)
    with pytest.raises(DataError, match="fast tokenizer"):
        Sentences.of_text(lines, object(), 8)
    for wrong, message in (
        ([tmp_path / "nowhere.txt"], "nowhere"),
        ([places["data"]], r"no \.txt"),
        ([tmp_path / "empty.txt"], "no text"),
        ([tmp_path / "no.txt"], "cannot be read"),
    ):
        (tmp_path / "empty.txt").write_text("\n \n")
        (tmp_path / "no.txt").write_bytes(b"\xff\xfe")
        with pytest.raises(DataError, match=message):
            read_text(wrong)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("stage.0.loss.labels=1.0", "no labels"),
        ("stage.1.loss.labels=1.0", "augment and the loss of labels"),
        ("stage.1.augment=1.5", "augment=1.5"),
        ("augment.delete=1.0", "below 1"),
        ("augment.neighbours=0", "1 or more"),
        ("augment.repalce=0.1", "'replace'"),
        ("stage.0.text=[1]", "text"),
        ("stage.0.loss.hidden=-1.0", "positive"),
        ("stage.2.loss.temperature=0.0", "temperature"),
        ("task.max_tokens=2", "max_tokens"),
    ],
)
def test_a_wrong_stage_is_refused_before_anything_runs(recipe, change, words):
    with pytest.raises(ConfigError, match=words):
        load_recipe(recipe, [change])


def test_a_teacher_of_a_stage_has_to_fit(recipe, tmp_path):
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(tmp_path / "narrow")
    for change, words in (
        (f"stage.0.teacher={tmp_path / 'narrow'}", "width 16"),
        ("stage.0.loss.layer_map=[0, 1, 9]", "levels 0 to 3"),
        ("stage.0.loss.layer_map=[0, 0, 2]", r"'general': layer_map=\[0, 0, 2\]: level 0, .* no attention scores"),
        ("stage.0.loss.logits=1.0", r"'general': loss\.logits .*base has none"),
        (
            f"stage.2.teacher={save_teacher(tmp_path / 'three', classes=3)}",
            "'prediction': .* has 3 outputs, the student 2",
        ),
        (f"teacher.path={tmp_path / 'three'}", "3 outputs, which do not fit the 2 labels of 'sst2'"),
        ("task.max_tokens=25", r"max_tokens=25: .*teacher has 24 positions"),
    ):
        with pytest.raises(ConfigError, match=words):
            train(load_recipe(recipe, [change]), tmp_path / "run", report=lambda _: pytest.fail("a step was taken"))


@pytest.mark.parametrize("levels", [[1, 1, 2], [2, 1, 1], [0, 2, 2]])
def test_layers_are_compared_with_any_others(recipe, tmp_path, levels):
    seen = []
    changes = [f"stage.0.loss.layer_map={levels}", "stage.1.steps=1", "stage.2.steps=1"]
    train(load_recipe(recipe, changes), tmp_path / "run", report=seen.append)
    assert set(seen[0].losses) == {"loss", "hidden", "scores"}


def test_the_first_level_gives_no_scores(places):
    teacher, tokenizer = load_teacher(places["teacher"]), load_tokenizer(places["teacher"])
    batch = collate(Sentences.of_text(["good film"], tokenizer, 16), torch.arange(1).numpy())
    whole = Teacher(teacher, (0, 1, 2), True, True)(batch)
    other = Teacher(teacher, (2, 2, 1), True, True)(batch)
    assert torch.equal(other.scores, whole.scores[[1, 0]])
    assert torch.equal(other.hidden, whole.hidden[[2, 2, 1]])


def run_apart(recipe, folder, processes, *changes):
    script = folder.parent / "run.py"
    script.write_text(
        "import sys\nfrom snn_extreme_quant.training import load_recipe, train\n"
        f"train(load_recipe({str(recipe)!r}, sys.argv[2:]), sys.argv[1])\n"
    )
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *(torchrun if processes > 1 else []), str(script), str(folder), *changes]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return weights_of(folder), [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_as_one_to_the_bit(recipe, tmp_path):
    # 97 sentences in batches of 16: of one that is left over, the second process gets nothing.
    (tmp_path / "x").mkdir()
    same = [f"task.data={save_task(tmp_path / 'data', 97)}", "stage.1.steps=7"]
    one, logged = run_apart(recipe, tmp_path / "x/one", 1, "train.accumulate=2", *same)
    two, again = run_apart(recipe, tmp_path / "x/two", 2, *same)
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert [line["losses"] for line in logged] == [line["losses"] for line in again]


@pytest.mark.slow
def test_two_processes_train_as_one_without_parts_up_to_rounding(recipe, tmp_path):
    (tmp_path / "x").mkdir()
    float_only = ["stage.1.weights=float", "stage.2.weights=float", "student.dropout=0.0"]
    one, _ = run_apart(recipe, tmp_path / "x/one", 1, *float_only)
    two, _ = run_apart(recipe, tmp_path / "x/two", 2, *float_only)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=0, msg=name)


def test_sentences_beyond_the_positions_are_refused_not_short_ones(recipe, places):
    tokenizer, bert = load_tokenizer(places["teacher"]), load_teacher(places["teacher"])
    without_text = replace(load_recipe(recipe, ["task.max_tokens=64"]), stages=load_recipe(recipe, []).stages[1:])
    assert not any(stage.text for stage in without_text.stages)
    short, long = (Sentences.of_text([" ".join(["film"] * words)], tokenizer, 64) for words in (22, 23))
    refuse_length(without_text, bert, "it", short)  # [CLS], 22 words, [SEP]: 24
    with pytest.raises(ConfigError, match="it has 24 positions"):
        refuse_length(without_text, bert, "it", short, long)
