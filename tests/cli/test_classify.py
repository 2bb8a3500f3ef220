from __future__ import annotations

import gzip
import json

import pytest

from snn_extreme_quant.models import zoo
from tests.deploy.test_without_torch import without_torch

ROWS = [("a gorgeous, witty film", 1), ("dull and far too long", 0), ("an absolute joy", 1), ("a waste of time", 0)]


@pytest.fixture
def table(tmp_path):
    lines = ["sentence\tlabel", *(f"{text}\t{label}" for text, label in ROWS)]
    (tmp_path / "x.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "x.tsv"


def facts_of(sxq, *arguments):
    result = sxq("classify", *arguments, "--native", "no", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_one_text(sxq):
    result = sxq("classify", "a gorgeous, witty film", "--native", "no")
    assert result.exit_code == 0, result.output
    first = result.stdout.splitlines()[0].split()
    assert first[0] == "positive"
    assert float(first[1]) > 90
    for word in ("firing rate", "T = 16", "ms", "estimate", "float BERT"):
        assert word in result.stdout


def test_a_table_with_labels(sxq, table):
    facts = facts_of(sxq, "--file", table)
    assert facts["accuracy"] == 1.0
    assert [answer["text"] for answer in facts["answers"]] == [text for text, _ in ROWS]
    assert [answer["label"] for answer in facts["answers"]] == [a["expected"] for a in facts["answers"]]
    assert facts["labels"] == {"negative": 2, "positive": 2}
    assert facts["time_steps"] == {"16": 4}
    assert facts["texts"] == 4
    assert facts["tokens"] == sum(answer["tokens"] for answer in facts["answers"])
    assert 0 < facts["energy"]["ratio"] < 1
    assert facts["energy"]["joules"] < facts["energy"]["float_joules"]
    result = sxq("classify", "--file", table, "--native", "no")
    assert "100.00 % of 4" in result.stdout


def test_the_time_steps_are_a_knob(sxq, table):
    few, many = (facts_of(sxq, "--file", table, "--time-steps", steps) for steps in ("4", "16"))
    assert few["time_steps"] == {"4": 4}
    assert few["energy"]["joules"] < many["energy"]["joules"] / 3  # a quarter of the steps
    ended = facts_of(sxq, "--file", table, "--early-exit", "1")
    assert ended["time_steps"] == {"16": 4}
    assert ended["mean_steps_spent"] == 28
    early = facts_of(sxq, "--file", table, "--early-exit", "0")
    assert early["mean_steps_spent"] == 4
    assert [a["probabilities"] for a in early["answers"]] == [a["probabilities"] for a in few["answers"]]
    assert "28.0 steps spent" in sxq("classify", "--file", table, "--early-exit", "1", "--native", "no").stdout


def test_other_tables(sxq, tmp_path):
    path = tmp_path / "reviews.csv.gz"
    path.write_bytes(gzip.compress(b'review,stars\n"good, really",positive\n"bad",negative\n'))
    facts = facts_of(sxq, "--file", path, "--text-column", "review", "--label-column", "stars")
    assert facts["accuracy"] == 1.0
    assert facts["answers"][0]["text"] == "good, really"
    facts = facts_of(sxq, "--file", path, "--text-column", "review")
    assert "accuracy" not in facts
    assert "expected" not in facts["answers"][0]


def test_a_table_by_other_names_and_labels_left_alone(sxq, tmp_path):
    text = "sentence\tlabel\na gorgeous film\tgood\ndull\tbad\n"
    for name in ("reviews.txt", "REVIEWS.TSV", "reviews.txt.gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        facts = facts_of(sxq, "--file", path, "--label-column", "")
        assert [answer["label"] for answer in facts["answers"]] == ["positive", "negative"]
        assert "accuracy" not in facts


def test_standard_input_and_a_table_out(sxq, tmp_path):
    done = without_torch(
        "import io; sys.stdin = io.StringIO('a gorgeous film\\n\\n  dull  \\n')\n"
        "from snn_extreme_quant.cli import main; main()",
        "classify", "-", "--native", "no", "--output", tmp_path / "out.tsv", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [answer["text"] for answer in json.loads(done.stdout)["answers"]] == ["a gorgeous film", "dull"]
    lines = (tmp_path / "out.tsv").read_text().splitlines()
    assert lines[0] == "text\tlabel\tprobability\ttime_steps"
    assert [line.split("\t")[1] for line in lines[1:]] == ["positive", "negative"]


def test_long_texts_are_cut_off_and_said_so(sxq):
    result = sxq("classify", "good " * 100, "--native", "no")
    assert result.exit_code == 0
    assert "1 of 1 texts are longer than 64 tokens" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Give texts"),
        (["good", "--file", "{table}"], "one of them"),
        (["good", "-"], "no other texts"),
        (["good", "--label-column", "x"], "there is no file"),
        (["  "], "Text 1 is empty"),
        (["good", "--time-steps", "3"], "T = 3"),
        (["good", "--early-exit", "2"], "0 to 1"),
        (["good", "--model", "sst2-ternery"], "sst2-ternary"),
        (["good", "--model", "{tmp}"], "no model.onnx"),
        (["good", "--output", "{tmp}/no/x.tsv"], "does not exist"),
        (["--file", "{tmp}/none.tsv"], "none.tsv"),
        (["--file", "{table}", "--text-column", "sentense"], "Did you mean 'sentence'"),
        (["--file", "{table}", "--label-column", "score"], "no column 'score'"),
        (["--file", "{table}", "--label-column", "sentence"], "none of the model's: negative, positive"),
        (["--file", "{tmp}/empty.tsv"], "no rows"),
        (["--file", "{tmp}/blank.tsv"], "line 3"),
        (["--file", "{tmp}/ragged.tsv"], "line 2"),
        (["--file", "{tmp}/binary.tsv"], "cannot be read"),
        (["--file", "{tmp}/recipe.toml"], "is no table: use .tsv or .txt"),
        (["--file", "{tmp}/x"], "is no table"),
        (["--file", "{tmp}/x.csv.toml"], "is no table"),
        (["--file", "{tmp}/more.csv", "--text-column", "text"], "line 3: 3 columns, but the first line has 2"),
        (["--file", "{table}", "--text-column", ""], "--text-column is empty"),
        (["--file", "{tmp}/odd.tsv"], "'good' is none of the model's: negative, positive"),
        (["--file", "{tmp}/odd.tsv"], "Labels are left alone with --label-column ''."),
        (["--file", "{table}", "--label-column", "lable"], "Did you mean 'label'? Name it with --label-column; ''"),
    ],
)
def test_what_cannot_be_used_is_one_line(sxq, table, tmp_path, arguments, says):
    (tmp_path / "empty.tsv").write_text("sentence\tlabel\n")
    (tmp_path / "blank.tsv").write_text("sentence\tlabel\ngood\t1\n \t0\n")
    (tmp_path / "ragged.tsv").write_text("sentence\tlabel\ngood\t1\t2\n")
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00")
    for name in ("recipe.toml", "x", "x.csv.toml"):
        (tmp_path / name).write_text("sentence\tlabel\ngood\t1\n")
    (tmp_path / "more.csv").write_text("sentence,label\ngood,1\ngood,1,2\n")
    (tmp_path / "odd.tsv").write_text("sentence\tlabel\nbad\tgood\n")
    result = sxq("classify", *(part.format(table=table, tmp=tmp_path) for part in arguments))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert says in result.stderr


@pytest.mark.parametrize("name", zoo.names("classifier"))
def test_shipped_models_are_whole(name):
    folder = zoo.path(name)
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "model.onnx", "tokenizer.json", "run.json", "README.md"} <= set(files)
    assert sum(files.values()) <= 10_000_000
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert run["dev"]["agreement_with_torch"] > 0.99
    card = (folder / "README.md").read_text(encoding="utf-8")
    for T, figures in run["dev"]["by_time_steps"].items():
        assert f"| {T} | {100 * figures['accuracy']:.2f} %" in card
    for text in ("Licences", "Seed", "Data"):
        assert text in card
    assert "/work/" not in card + (folder / "run.json").read_text()


def test_the_shipped_file_is_the_shipped_model():
    import torch

    from snn_extreme_quant.deploy import Classifier

    classifier = Classifier("sst2-ternary", native=False)
    model = zoo.load("sst2-ternary")
    given = classifier.batch(classifier.encode([text for text, _ in ROWS]))
    with torch.no_grad():
        expected = model(*(torch.from_numpy(value) for value in given.values())).softmax(-1)
    found = torch.tensor([a.probabilities for a in classifier.classify([text for text, _ in ROWS])])
    torch.testing.assert_close(found, expected.float(), atol=0.02, rtol=0)
