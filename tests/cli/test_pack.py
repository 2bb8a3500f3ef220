from __future__ import annotations

import json

import pytest

from tests.packed_models import save_student
from tests.tiny_bert import save_task


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What `sxq train` leaves: two models, a log, a result."""
    place = tmp_path_factory.mktemp("run")
    student = save_student(place)
    student.rename(place / "best")
    recipe = {
        "task": {
            "name": "sst2", "text": "sentence", "label": "label", "pair": None, "labels": [], "regression": False,
            "metrics": ["accuracy"], "dev": "dev",
        },
        "data": str(save_task(place / "data", 4, 12)), "teacher": "/somewhere/private", "max_tokens": 12,
        "cache": "all", "layers": None, "student": {"T": 8}, "train": {"seed": 7, "batch": 16},
        "stages": [{"name": "a", "texts": "/home/private/wiki.txt"}],
    }  # fmt: skip
    (place / "result.json").write_text(json.dumps({"recipe": recipe, "by_time_steps": {}}))
    log = [("a", 10, 5.0, 0.5), ("a", 20, 9.0, 0.8), ("a", 30, 2.0, 0.7)]  # went on once: seconds from 0 again
    lines = [{"stage": s, "step": n, "seconds": t, "dev": {"accuracy": a}} for s, n, t, a in log]
    (place / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return place


def test_a_run_becomes_a_folder(sxq, run, tmp_path):
    out = tmp_path / "small"
    out.mkdir()
    (out / "about.toml").write_text('data = "made up"\nlicences = ["none"]\nteacher_accuracy = 0.9\n')
    result = sxq("pack", run, "-o", out, "--which", "best", "--time-steps", "4", "--json", "--threads", "1")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["name"] == "small"
    assert made["max_tokens"] == 12
    assert made["trained_time_steps"] == 8
    training = made["training"]
    assert (training["seed"], training["steps"], training["seconds"]) == (7, 20, 9.0)
    assert "after 20 steps" in training["selection"]
    assert training["data"] == "made up"
    assert made["task"]["labels"] == ["negative", "positive"]
    assert set(made["dev"]["by_time_steps"]) == {"4", "8"}
    assert training["recipe"]["stages"] == [{"name": "a", "texts": "wiki.txt"}]
    assert "private" not in (out / "run.json").read_text() + (out / "README.md").read_text()
    assert "The teacher has 90.00 %" in (out / "README.md").read_text()
    answer = sxq("classify", "a good film", "--model", out, "--json", "--native", "no")
    assert json.loads(answer.stdout)["model"] == "small"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{tmp}", "-o", "{tmp}/x"], "neither a model nor last"),
        (["{run}", "-o", "{tmp}/x"], "neither a model nor last"),
        (["{run}", "-o", "{tmp}/x", "--which", "best", "--time-steps", "4,x"], "give numbers"),
        (["{run}", "-o", "{tmp}/x", "--which", "best", "--labels", "a,b,c"], "3 labels for 2 classes"),
        (["{run}", "-o", "{tmp}/x", "--which", "best", "--embeddings", "1"], "bits"),
        (["{run}", "-o", "{tmp}/x", "--which", "best", "--data", "{tmp}"], "holds no dev"),
        (["{run}", "-o", "{tmp}/file", "--which", "best"], "cannot be made"),
    ],
)
def test_what_cannot_be_packed_is_one_line(sxq, run, tmp_path, arguments, says):
    (tmp_path / "file").write_text("")
    result = sxq("pack", *(part.format(run=run, tmp=tmp_path) for part in arguments))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert says in result.stderr
