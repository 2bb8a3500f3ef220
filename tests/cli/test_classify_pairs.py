"""Pairs of texts, and models of regression, from a run to answers."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from snn_extreme_quant.models import SpikingBert
from tests.deploy.test_without_torch import without_torch
from tests.packed_models import TEXTS, save_pairs, save_student


def save_run(place, task, classes, **recipe):
    """Save what `sxq train` leaves of a task of pairs, and pack it."""
    student = save_student(place, classes=classes, layers=1, profile="integer")
    student.rename(place / "last")
    recipe |= {
        "task": task, "data": str(save_pairs(place / "data")), "max_tokens": 16, "cache": "all", "layers": None,
        "student": {"T": 8}, "train": {"seed": 1, "batch": 8}, "stages": [],
    }  # fmt: skip
    (place / "result.json").write_text(json.dumps({"recipe": recipe, "by_time_steps": {}}))
    return place


PAIR = {"text": "sentence1", "pair": "sentence2", "dev": "dev"}
STSB = {"name": "stsb", "label": "score", "labels": [], "regression": True, "metrics": ["pearson", "spearman"], **PAIR}
MRPC = {"name": "mrpc", "label": "label", "labels": [], "regression": False, "metrics": ["accuracy", "f1"], **PAIR}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """By task a packed run, and what packing said of it."""
    from typer.testing import CliRunner

    from snn_extreme_quant.cli import app

    found = {}
    for name, task, classes in (("stsb", STSB, 1), ("mrpc", MRPC, 2)):
        place = tmp_path_factory.mktemp(name)
        arguments = ["pack", save_run(place, task, classes), "-o", place / name, "--time-steps", "8", "--json"]
        result = CliRunner().invoke(app, [str(part) for part in arguments])
        assert result.exit_code == 0, result.output
        found[name] = place, place / name, json.loads(result.stdout)
    return found


def classified(sxq, folder, *arguments):
    result = sxq("classify", "--model", folder, "--native", "no", *arguments)
    assert result.exit_code == 0, result.output
    return result


def test_scores_of_pairs(sxq, packed):
    place, folder, made = packed["stsb"]
    table = place / "data" / "dev.tsv"
    facts = json.loads(classified(sxq, folder, "--file", table, "--json").stdout)
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    scores, expected = [a["score"] for a in facts["answers"]], [float(row[2]) for row in rows]
    assert [(a["text"], a["pair"], a["expected"]) for a in facts["answers"]] == [
        (row[0], row[1], float(row[2])) for row in rows
    ]
    assert facts["metrics"]["pearson"] == pytest.approx(pearsonr(expected, scores)[0])
    assert facts["metrics"]["spearman"] == pytest.approx(spearmanr(expected, scores)[0])
    assert made["dev"]["by_time_steps"]["8"]["pearson"] == pytest.approx(facts["metrics"]["pearson"], abs=1e-6)
    assert {"accuracy", "label", "probability", "probabilities"}.isdisjoint({*facts, *facts["answers"][0]})
    assert np.ptp(scores) > 0
    model = SpikingBert.from_pretrained(folder)
    [one] = json.loads(classified(sxq, folder, "a film", "--pair", "bad", "--json").stdout)["answers"]
    with torch.no_grad():
        ids, types = torch.tensor([[2, 12, 11, 3, 8, 3]]), torch.tensor([[0, 0, 0, 0, 1, 1]])
        assert one["score"] == pytest.approx(float(model(ids, torch.ones_like(ids), types)), abs=1e-5)
    said = classified(sxq, folder, "--file", table).stdout
    assert "pearson" in said
    assert "score" in said


def test_the_card_of_scores(packed):
    _, folder, made = packed["stsb"]
    card = (folder / "README.md").read_text()
    assert "scores pairs of texts" in card
    assert "| T | pearson | spearman | firing rate" in card
    assert "--pair" in card
    assert "differ from those of the packed model" in card
    assert made["task"]["regression"]
    assert made["dev"]["largest_difference_from_torch"] < 1e-4


def test_labels_of_pairs(sxq, packed, tmp_path):
    """MRPC's own table calls its columns otherwise; a user's table does, too."""
    _, folder, made = packed["mrpc"]
    assert made["task"]["labels"] == ["not_equivalent", "equivalent"]
    assert set(made["dev"]["by_time_steps"]["8"]) > {"accuracy", "f1"}
    own = "Quality\t#1 String\t#2 String\n" + "".join(
        f"{i % 2}\t{a}\t{b}\n" for i, (a, b) in enumerate(pairwise(TEXTS))
    )
    (tmp_path / "msr.tsv").write_text(own)
    facts = json.loads(classified(sxq, folder, "--file", tmp_path / "msr.tsv", "--json").stdout)
    right = np.mean([answer["label"] == answer["expected"] for answer in facts["answers"]])
    assert facts["metrics"]["accuracy"] == facts["accuracy"] == right
    assert 0 <= facts["metrics"]["f1"] <= 1
    (tmp_path / "x.csv").write_text("one,two\n" + "".join(f"{a},{b}\n" for a, b in pairwise(TEXTS)))
    columns = ["--text-column", "one", "--pair-column", "two"]
    out = ["--output", tmp_path / "out.tsv"]
    again = json.loads(classified(sxq, folder, "--file", tmp_path / "x.csv", *columns, *out, "--json").stdout)
    assert "metrics" not in again
    assert [a["label"] for a in again["answers"]] == [a["label"] for a in facts["answers"]]
    lines = [line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines()]
    assert lines[0] == ["text", "pair", "label", "probability", "time_steps"]
    assert [line[:2] for line in lines[1:]] == [[a, b] for a, b in pairwise(TEXTS)]


def test_pairs_from_standard_input_without_torch_and_scipy(packed):
    """What measures is not there: the answers are, and a warning."""
    place, folder, _ = packed["stsb"]
    done = without_torch(
        "import io; sys.stdin = io.StringIO('a film\\tbad\\n')\nfrom snn_extreme_quant.cli import main; main()",
        "classify", "-", "--model", folder, "--native", "no", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [answer] = json.loads(done.stdout)["answers"]
    assert (answer["text"], answer["pair"]) == ("a film", "bad")
    done = without_torch(
        "from snn_extreme_quant.cli import main; main()",
        "classify", "--file", place / "data" / "dev.tsv", "--model", folder, "--native", "no", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"] == {}
    assert "snn-extreme-quant[train]" in done.stderr


@pytest.mark.parametrize(
    ("task", "arguments", "says"),
    [
        ("stsb", ["good"], "takes pairs of texts; give the second with --pair"),
        ("stsb", ["good", "bad", "--pair", "fine"], "once for each text"),
        ("stsb", ["good", "--pair", " "], "second text of pair 1 is empty"),
        ("stsb", ["good", "--pair", "bad", "--early-exit", "0.5"], "gives a score"),
        ("stsb", ["--file", "{data}", "--pair", "bad"], "--pair-column"),
        ("stsb", ["--file", "{data}", "--label-column", "sentence1"], "is no number"),
        ("stsb", ["--file", "{data}", "--pair-column", "sentence3"], "no column 'sentence3'"),
        ("mrpc", ["good", "--pair", "bad", "--early-exit", "0.5"], "no earlier T"),
    ],
)
def test_what_cannot_be_used_is_one_line(sxq, packed, task, arguments, says):
    place, folder, _ = packed[task]
    arguments = [part.format(data=place / "data" / "dev.tsv") for part in arguments]
    result = sxq("classify", "--model", folder, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert says in result.stderr


def test_a_model_of_single_texts_takes_no_pair(sxq):
    result = sxq("classify", "good", "--pair", "bad")
    assert (result.exit_code, "single texts" in result.stderr) == (2, True)


def test_figures_of_pairs(sxq, packed, tmp_path):
    pytest.importorskip("matplotlib")
    place, folder, _ = packed["mrpc"]
    table = ["--data", place / "data" / "dev.tsv", "--text-column", "sentence1", "--pair-column", "sentence2"]
    for arguments in (["firing", "--time-steps", "8"], ["asr", "--most", "4", *table]):
        result = sxq("plot", *arguments, "--model", folder, "-o", tmp_path / f"{arguments[0]}.png")
        assert result.exit_code == 0, result.output
