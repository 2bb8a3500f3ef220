from __future__ import annotations

import json

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


def test_mistakes_are_one_line(sxq, recipe, tmp_path):
    for arguments, words in (
        (["nowhere"], "no recipe"),
        ([recipe, "--set", "train.seeds=1"], "'seed'"),
        ([recipe, "--out", recipe], "is a file"),
        ([recipe, "--out", tmp_path / "b", "--resume"], "nothing to resume"),
    ):
        result = sxq("train", *arguments)
        assert result.exit_code == 2
        assert words in result.stderr
        assert not result.stdout
