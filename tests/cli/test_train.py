from __future__ import annotations

import json
import sys

import pytest

from tests.tiny_bert import save_task, save_teacher

pytest.importorskip("accelerate")


@pytest.fixture
def recipe(tmp_path):
    text = f"""
[task]
name = "sst2"
data = "{save_task(tmp_path / "data", 32, 8)}"
[teacher]
path = "{save_teacher(tmp_path / "teacher", layers=1)}"
[train]
batch = 16
[[stage]]
steps = 2
weights = "ternary"
[stage.loss]
logits = 1.0
"""
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    return tmp_path / "r.toml"


def test_a_run_for_people_and_for_machines(sxq, recipe, tmp_path):
    result = sxq("train", recipe, "--out", tmp_path / "a")
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.stdout
    assert "last, T = 64" in result.stdout
    result = sxq("train", recipe, "--out", tmp_path / "a", "--resume", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["metrics"]["accuracy"] == facts["by_time_steps"]["16"]["accuracy"]


def test_own_tables_by_their_columns_and_a_log_for_tensorboard(sxq, recipe, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = tmp_path / "own"
    data.mkdir()
    for split in ("train", "dev"):
        text = (tmp_path / "data" / f"{split}.tsv").read_text().replace("sentence\tlabel", "review\tstars")
        (data / f"{split}.tsv").write_text(text)
    columns = ("--data", data, "--text-column", "review", "--label-column", "stars")
    teacher = (tmp_path / "teacher").rename(tmp_path / "moved")
    result = sxq("train", recipe, "--out", tmp_path / "c", *columns, "--teacher", teacher, "--tensorboard", "--json")
    assert result.exit_code == 0, result.output
    log = EventAccumulator(str(tmp_path / "c/tensorboard")).Reload()
    assert {"loss/train/loss", "loss/train/logits", "lr", "dev/accuracy", "dev/firing_rate"} <= set(
        log.Tags()["scalars"]
    )
    assert [event.step for event in log.Scalars("lr")] == [1, 2]
    assert log.Scalars("dev/accuracy")[-1].value == pytest.approx(json.loads(result.stdout)["metrics"]["accuracy"])


def test_a_teacher_is_fine_tuned_from_a_recipe_of_the_package(sxq, tmp_path):
    base = save_teacher(tmp_path / "base", layers=1, classify=False)
    given = ("--data", save_task(tmp_path / "data", 32, 8), "--base", base, "--set", "task.max_tokens=16")
    result = sxq("train", "sst2_teacher", "--out", tmp_path / "t", *given, "--set", "stage.0.epochs=1")
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.stdout
    assert "firing" not in result.stdout
    assert (tmp_path / "t/best/tokenizer.json").is_file()


def test_recipes_are_listed(sxq):
    assert "sst2_ternary_01" in sxq("train", "--list").stdout
    named = json.loads(sxq("train", "--list", "--json").stdout)
    assert named["mrpc_teacher"].startswith("MRPC")


def test_without_tensorboard_its_extra_is_named(sxq, recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = sxq("train", recipe, "--out", tmp_path / "d", "--tensorboard")
    assert result.exit_code == 2
    assert "snn-extreme-quant[tensorboard]" in result.stderr
    assert not (tmp_path / "d").exists()


def test_mistakes_are_one_line(sxq, recipe, tmp_path):
    for arguments, words in (
        (["nowhere"], "no recipe"),
        ([], "Name a recipe"),
        ([recipe, "--base", "x"], "leave out"),
        ([recipe, "--label-column", "stars"], "no column 'stars'"),
        ([recipe, "--set", "train.seeds=1"], "'seed'"),
        ([recipe, "--out", recipe], "is a file"),
        ([recipe, "--out", tmp_path / "b", "--resume"], "nothing to resume"),
    ):
        result = sxq("train", *arguments)
        assert result.exit_code == 2
        assert words in result.stderr
        assert not result.stdout
