"""SpikeGPTs trained from scratch: texts and labels, by the loop that trains students."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from snn_extreme_quant.data import TextTokens
from snn_extreme_quant.errors import CheckpointError, ConfigError, DataError
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig
from snn_extreme_quant.training.text_figures import counted_spikes, text_figures
from tests.tiny_bert import save_task

pytest.importorskip("accelerate")
from snn_extreme_quant.training import load_recipe, train
from snn_extreme_quant.training.jobs import Place
from snn_extreme_quant.training.language import gpt_job
from snn_extreme_quant.training.recipe_files import shipped_recipes
from snn_extreme_quant.training.run_folder import read_run
from snn_extreme_quant.training.start import gpt_teacher

TEXT = "the cat sat on the mat and the dog sat on the log. " * 60
RECIPE = """
[task]
name = "text"
data = "{data}"
train = "text.txt"
context = 32
streams = 4
[tokens]
kind = "characters"
[gpt]
layers = 2
hidden = 32
dropout = 0.05
[train]
batch = 8
precision = "{precision}"
eval_every = 20
save_every = 4
weight_decay = 0.1
[[stage]]
name = "float"
steps = 30
lr = 1e-2
[[stage]]
name = "ternary"
steps = 10
lr = 5e-3
weights = "ternary"
"""


def write(folder, precision="no"):
    (folder / "text.txt").write_text(TEXT)
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(data=folder, precision=precision), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    recipe, losses = write(folder), []
    result = train(load_recipe(recipe), folder / "run", report=lambda p: losses.append(p.losses["loss"]))
    return folder, recipe, result, losses


def test_a_text_is_learnt(finished):
    folder, _, result, losses = finished
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])
    assert result.metrics["perplexity"] < 8
    assert 0.0 < result.firing_rate < 1.0
    assert result.best["bits_per_character"] <= result.metrics["bits_per_character"]
    bits = result.metrics["bits_per_character"]
    assert result.metrics["perplexity"] == pytest.approx(2.0**bits, rel=1e-3)  # a token is a character
    model = SpikeGPT.from_pretrained(folder / "run/last")
    assert model.config.weights == "ternary"
    assert TextTokens.load(folder / "run/last").vocab == model.config.vocab
    assert SpikeGPT.from_pretrained(folder / "run/best").config.vocab == model.config.vocab


def test_the_best_model_is_the_one_of_the_fewest_bits(finished):
    folder, _, result, _ = finished
    log = [json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines()]
    least = min(line["dev"]["bits_per_character"] for line in log if line["stage"] == "ternary")
    assert result.best["bits_per_character"] == least
    run = read_run(folder / "run", "best")
    assert run.facts["dev_in_training"]["bits_per_character"] == least


@pytest.mark.parametrize("stop", [7, 34])
def test_a_run_resumes_to_the_bit(finished, tmp_path, stop):
    folder, recipe, result, _ = finished

    class StopError(Exception):
        pass

    def interrupt(progress):
        if progress.total == stop:
            raise StopError

    with pytest.raises(StopError):
        train(load_recipe(recipe), tmp_path, report=interrupt)
    again = train(load_recipe(recipe), tmp_path, resume=True)
    assert again.metrics == result.metrics
    whole, resumed = (load_file(f / "last/model.safetensors") for f in (folder / "run", tmp_path))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_other_tokens_and_bf16(tmp_path, kind):
    pytest.importorskip("tokenizers")
    (tmp_path / "dev.txt").write_text("the dog sat on the mat and the log. " * 20)
    changes = [f"tokens.kind={kind}", "tokens.vocab=270", "task.dev=dev.txt", "stage.0.steps=4", "stage.1.steps=2"]
    changes += ["gpt.spiking=false", "gpt.weights=float"]
    result = train(load_recipe(write(tmp_path, "bf16"), changes), tmp_path / "run")
    assert math.isfinite(result.metrics["bits_per_character"])
    assert result.firing_rate is None
    assert SpikeGPT.from_pretrained(tmp_path / "run/last").config.vocab == (256 if kind == "bytes" else 270)


CLASSES = """
[task]
name = "sst2"
data = "{data}"
max_tokens = 64
[tokens]
kind = "bpe"
vocab = 280
[gpt]
layers = 1
hidden = 32
head = "{head}"
dropout = 0.0
[train]
batch = 16
precision = "no"
[[stage]]
name = "binary"
epochs = 20
lr = 1e-2
weights = "binary"
"""


@pytest.mark.parametrize("head", ["mean", "last"])
def test_labels_are_learnt(tmp_path, head):
    pytest.importorskip("tokenizers")
    path = tmp_path / "tiny.toml"
    path.write_text(CLASSES.format(data=save_task(tmp_path / "data"), head=head), encoding="utf-8")
    result = train(load_recipe(path), tmp_path / "run")
    assert result.metrics["accuracy"] > 0.85
    assert 0.0 < result.firing_rate < 1.0
    assert SpikeGPT.from_pretrained(tmp_path / "run/last").config.head == head


def test_perplexity_is_that_of_its_equation():
    torch.manual_seed(0)
    tokens = TextTokens.of("characters", TEXT)
    model = SpikeGPT(SpikeGPTConfig(vocab=tokens.vocab, layers=1, hidden=24)).train()
    text = TEXT[:701]
    figures = text_figures(model, tokens, text, streams=1)
    assert model.training
    ids = torch.from_numpy(tokens.encode(text)).long()[None]
    with torch.no_grad():
        logits = model.eval()(ids).double().log_softmax(-1)
    chosen = logits[0, :-1].gather(1, ids[0, 1:, None])
    assert figures["perplexity"] == pytest.approx(float((-chosen.mean()).exp()), rel=1e-6)
    bits = float(-chosen.sum() / math.log(2.0)) / 700
    assert figures["bits_per_character"] == pytest.approx(bits, rel=1e-6)
    assert figures["tokens"] == 700
    parts = [text_figures(model, tokens, text[i * 350 : (i + 1) * 350], 1) for i in range(2)]
    together = text_figures(model, tokens, text, 2)
    assert together["tokens"] == 698
    mean = np.mean([math.log(part["perplexity"]) for part in parts])
    assert together["perplexity"] == pytest.approx(math.exp(mean), rel=1e-6)
    with counted_spikes(model) as spikes:
        model(ids[:, :-1])
    assert spikes.rate == pytest.approx(figures["firing_rate"])
    with pytest.raises(DataError, match="streams"):
        text_figures(model, tokens, "the cat", 4)
    with pytest.raises(ConfigError, match="streams=0"):
        text_figures(model, tokens, "the cat", 0)


def test_what_means_nothing_is_refused(tmp_path):
    recipe = write(tmp_path)
    for change, words in (
        ("gpt.hiden=3", "hidden"),
        ("gpt.vocab=3", "vocab"),
        ("gpt.head=mean", "head"),
        ("teacher.cache=all", "cache"),
        ("teacher.path=x", "folder x does not exist"),
        ("student.T=4", r"\[student\]"),
        ("start.path=x", r"tokens\.json"),
        ("base.path=x", r"\[base\]"),
        ("stage.0.loss.logits=1.0", "teacher"),
        ("task.contxt=3", "context"),
        ("task.context=0", "context"),
        ("task.holdout=1.5", "holdout"),
        ("task.train=''", "train is missing"),
        ("tokens.kind=words", "kind"),
        ("tokens.size=3", "'size'"),
        ("stage.0.augment=0.5", "augment"),
        ("stage.0.mode=surrogate", "mode"),
        ("stage.0.loss.hidden=1.0", "loss"),
        ("stage.1.weights=tenary", "ternary"),
    ):
        with pytest.raises((ConfigError, CheckpointError, DataError), match=words):
            train(load_recipe(recipe, [change]), tmp_path / "run")
    with pytest.raises(DataError, match="nowhere"):
        train(load_recipe(recipe, ["task.train=nowhere.txt"]), tmp_path / "run")
    with pytest.raises(DataError, match="fewer"):
        train(load_recipe(recipe, ["task.context=100000"]), tmp_path / "run")
    (tmp_path / "dev.txt").write_text("the cat")
    for change, words in (
        ("task.streams=200", r"306 tokens.*streams=200.*holdout than 0\.1"),
        ("task.holdout=0.001", r"3 tokens.*streams=4.*holdout than 0\.001"),
        ("task.dev=dev.txt", r"7 tokens.*dev='dev\.txt'"),
    ):
        with pytest.raises(DataError, match=words):
            train(load_recipe(recipe, [change]), tmp_path / "run", report=pytest.fail)


# A start and a teacher.


def test_a_run_starts_from_another_and_learns_from_it(finished, tmp_path):
    folder, recipe, _, _ = finished
    last = folder / "run/last"
    changes = [f"start.path={last}", f"teacher.path={last}", "stage.0.steps=1", "stage.0.lr=1e-12", "stage.1.steps=4"]
    changes += ["stage.1.loss.logits=1.0", "stage.1.weights=binary", "train.eval_every=1"]
    figures = []
    train(load_recipe(recipe, changes), tmp_path, report=lambda p: figures.append((p.losses, p.dev)))
    given = SpikeGPT.from_pretrained(last)
    expected = text_figures(given, TextTokens.load(last), TEXT[-round(len(TEXT) * 0.1) :], 4)
    assert figures[0][1]["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-3)  # it starts as it was left
    assert set(figures[0][0]) == {"loss", "labels"}
    assert set(figures[1][0]) == {"loss", "logits"}  # loss.labels is not given there
    assert figures[-1][0]["loss"] < figures[1][0]["loss"]
    assert SpikeGPT.from_pretrained(tmp_path / "last").config.weights == "binary"


def test_a_teacher_says_what_its_model_does(finished):
    folder, _, _, _ = finished
    last = folder / "run/last"
    model, tokens = SpikeGPT.from_pretrained(last), TextTokens.load(last)
    teacher = gpt_teacher(str(last), model.config, tokens)
    ids = torch.from_numpy(tokens.encode(TEXT[:60])).long().view(2, 30)
    torch.testing.assert_close(teacher(ids), model(ids))  # though in training mode: no dropout
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    other = TextTokens.of("characters", "".join(chr(200 + i) for i in range(tokens.vocab - 1)))
    with pytest.raises(ConfigError, match="other tokens"):
        gpt_teacher(str(last), model.config, other)
    for change, words in (({"vocab": 9}, "vocab"), ({"head": "mean"}, "head")):
        with pytest.raises(ConfigError, match=words):
            gpt_teacher(str(last), SpikeGPTConfig(**{**model.config.to_dict(), **change}), tokens)


def test_a_classifier_starts_from_a_language_model(finished, tmp_path):
    folder, _, _, _ = finished
    last = folder / "run/last"
    path = tmp_path / "tiny.toml"
    path.write_text(CLASSES.format(data=save_task(tmp_path / "data"), head="mean"), encoding="utf-8")
    changes = [f"start.path={last}", "start.take=['emb.*', 'blocks.*', 'ln_out.*']", "tokens.kind=characters"]
    changes += ["gpt.layers=2", "stage.0.epochs=0.0", "stage.0.steps=1", "stage.0.lr=1e-12"]
    train(load_recipe(path, changes), tmp_path / "run")
    before, after = (load_file(f / "model.safetensors") for f in (last, tmp_path / "run/last"))
    torch.testing.assert_close(after["blocks.1.ffn.value.weight"], before["blocks.1.ffn.value.weight"])
    assert after["head.weight"].shape == (2, 32)
    for change, words in (
        (["tokens.kind=bytes"], "follow from"),
        (["gpt.layers=1"], "layers=2"),
        (["gpt.tau=3.0"], "tau"),
        (["start.take=['*']"], "head.weight"),
        (["start.take=['embedding']", "tokens.kind=bytes"], "matches no parameter"),
    ):
        with pytest.raises(ConfigError, match=words):
            train(load_recipe(path, [*changes, *change]), tmp_path / "no")


def test_dev_rows_are_taken_from_the_table_where_there_is_no_other(tmp_path):
    rows = [f"{'good' if i % 2 else 'bad'} film number {i}\t{i % 2}" for i in range(60)]
    (tmp_path / "all.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    text = CLASSES.format(data=tmp_path, head="mean").replace('"sst2"', '"mr"\nmetrics = ["accuracy"]\ntable = "all"')
    path = tmp_path / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    place = Place(tmp_path, torch.device("cpu"), True, None)
    measured = []
    for fold in range(4):
        recipe = load_recipe(path, ["task.holdout=0.25", f"task.fold={fold}", "tokens.kind=bytes"])
        job = gpt_job(recipe, place)
        assert (len(job.train), len(job.dev)) == (45, 15)
        measured += [bytes(job.dev.ids[a:b].astype("uint8")) for a, b in itertools.pairwise(job.dev.starts)]
    assert sorted(measured) == sorted(row.split("\t")[0].encode() for row in rows)
    assert measured != sorted(measured)
    for change, words in (
        ("task.holdout=1.5", "holdout"),
        ("task.fold=4", "0 to 3"),
        ("task.table=''", "table"),
        ("task.dev=dev", "leave one"),
        ("task.pair=second", "pairs"),
        ("task.regression=true", "scores"),
    ):
        with pytest.raises(ConfigError, match=words):
            gpt_job(load_recipe(path, ["task.holdout=0.25", change]), place)


def test_recipes_of_the_package_are_read_and_documented():
    kinds = ("float", "ternary", "binary", "rwkv")
    tasks = ("tinyshakespeare", "wikitext2", "enwiki6m", "sst2_gpt", "mr_gpt", "subj_gpt")
    names = {f"{task}_{kind}" for task in tasks for kind in kinds}
    assert {name for name in shipped_recipes() if load_recipe(name).gpt is not None} == names
    page = (Path(__file__).parents[2] / "docs/spike_gpt.md").read_text(encoding="utf-8")
    for name in names:
        recipe, kind = load_recipe(name, ["task.data=elsewhere"]), name.rpartition("_")[2]
        assert recipe.data == "elsewhere"
        config = SpikeGPTConfig.from_dict({"vocab": 300, **recipe.gpt})
        assert config.spiking == (kind != "rwkv")
        given = recipe.stages[-1].weights
        assert (given["kind"] if isinstance(given, dict) else given or "float") == kind.replace("rwkv", "float")
        assert f"`{name.removesuffix(kind)}float`, `_ternary`, `_binary`, `_rwkv`" in page
        assert recipe.teacher == ("" if kind in ("float", "rwkv") else f"runs/{name.removesuffix(kind)}float/last")
        assert (recipe.start.path if recipe.start else "") == recipe.teacher
