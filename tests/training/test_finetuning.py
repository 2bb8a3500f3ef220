from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from snn_extreme_quant.errors import ConfigError, ModelSourceError, UnsupportedModelError
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.base import load_base
from snn_extreme_quant.models.bert.teacher import load_teacher, load_tokenizer
from tests.tiny_bert import save_teacher
from tests.training.recipes import save_recipe

pytest.importorskip("accelerate")
from snn_extreme_quant.training import load_recipe, train

RECIPE = """
[task]
name = "{task}"
data = "{data}"
max_tokens = 16
[base]
path = "{base}"
[train]
batch = 16
precision = "{precision}"
save_every = 4
[[stage]]
name = "finetune"
epochs = 10
lr = 2e-3
[stage.loss]
labels = 1.0
"""


def write(folder, precision="no", classify=False, classes=2, task="sst2", **options):
    base = save_teacher(folder / "base", classify=classify, classes=classes, **options)
    return save_recipe(folder, RECIPE, task=task, base=base, precision=precision)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    recipe = write(folder, precision="bf16")
    losses = []
    result = train(load_recipe(recipe), folder / "run", report=lambda p: losses.append(p.losses))
    return folder, recipe, result, losses


def test_a_base_becomes_a_teacher_of_the_task(finished):
    folder, _, result, losses = finished
    assert result.metrics["accuracy"] > 0.9
    assert (result.firing_rate, result.by_time_steps) == (None, {})
    assert set(losses[0]) == {"loss", "labels"}
    first, last = (np.mean([loss["loss"] for loss in part]) for part in (losses[:6], losses[-6:]))
    assert last < 0.6 * first
    assert json.loads((folder / "run/result.json").read_text())["metrics"] == result.metrics


def test_students_are_made_from_it(finished):
    folder = finished[0] / "run/last"
    teacher, tokenizer = load_teacher(folder), load_tokenizer(folder)
    batch = tokenizer(["a good film", "the plot was dull"], return_tensors="pt", padding=True)
    with torch.no_grad():
        assert teacher(**batch).logits.argmax(-1).tolist() == [1, 0]
        student = SpikingBert.from_teacher(folder, texts=["a good film", "the plot was dull"] * 20, T=64).eval()
        assert student(batch["input_ids"], batch["attention_mask"]).argmax(-1).tolist() == [1, 0]
    assert student.config.classes == 2


def test_fine_tuning_resumes_to_the_bit(finished, tmp_path):
    folder, recipe, result, _ = finished

    class StopError(Exception):
        pass

    def interrupt(progress):
        if progress.step == 21:
            raise StopError

    with pytest.raises(StopError):
        train(load_recipe(recipe), tmp_path, report=interrupt)
    again = train(load_recipe(recipe), tmp_path, resume=True)
    assert again.metrics == result.metrics
    whole, resumed = (load_file(f / "last/model.safetensors") for f in (folder / "run", tmp_path))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_scores_are_learnt_with_one_output(tmp_path):
    recipe = write(tmp_path)
    for split in ("train", "dev"):
        path = tmp_path / "data" / f"{split}.tsv"
        path.write_text(path.read_text().replace("\t0", "\t-2.5").replace("\t1", "\t2.5"), encoding="utf-8")
    changes = ["stage.0.epochs=20", "task.name=own", "task.regression=true", "task.metrics=['pearson', 'spearman']"]
    result = train(load_recipe(recipe, changes), tmp_path / "run")
    assert result.metrics["pearson"] > 0.8
    assert load_teacher(tmp_path / "run/last").config.num_labels == 1


def test_a_classifier_that_fits_is_kept_and_another_is_not(tmp_path):
    base = save_teacher(tmp_path / "base", classes=3)
    own = load_teacher(base).classifier.weight
    assert torch.equal(load_base(base, 3, 0.1).classifier.weight, own)
    other = load_base(base, 2, 0.0, ("no", "yes"))
    assert other.classifier.out_features == 2
    assert other.config.id2label == {0: "no", 1: "yes"}
    assert other.config.hidden_dropout_prob == 0.0


def test_what_is_no_base_is_refused(tmp_path):
    with pytest.raises(ModelSourceError, match="nowhere"):
        load_base(tmp_path / "nowhere", 2, 0.1)
    with pytest.raises(UnsupportedModelError, match="relu"):
        load_base(save_teacher(tmp_path / "relu", hidden_act="relu"), 2, 0.1)
    recipe = write(tmp_path)
    with (tmp_path / "data/train.tsv").open("a") as table:
        table.write(f"{' '.join(['film'] * 30)}\t1\n")
    with pytest.raises(ConfigError, match=r"max_tokens=25: .*base has 24 positions"):
        train(load_recipe(recipe, ["task.max_tokens=25"]), tmp_path / "run")
    for change, words in (
        ("stage.0.loss.hidden=1.0", "labels alone"),
        ("stage.0.weights=ternary", "weights has no meaning"),
        ("stage.0.augment=0.5", "labels"),
        ("student.T=4", r"leave out \[teacher\]"),
        ("teacher.path=x", "leave out"),
        ("base.dropout=1.5", "dropout"),
        ("base.pth=x", "'path'"),
        ("base.path=''", "path is missing"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_recipe(recipe, [change])
