from __future__ import annotations

import gzip
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from snn_extreme_quant.data import GLUE, Sentences, Task, batch_order, collate, read_rows
from snn_extreme_quant.data.tasks import task_named
from snn_extreme_quant.errors import ConfigError, DataError, MissingDependencyError


def test_tsv_without_quoting_plain_and_compressed(tmp_path):
    text = "sentence\tlabel\nso \"good\t1\nit 's bad \t0\n"
    (tmp_path / "train.tsv").write_text(text, encoding="utf-8")
    with gzip.open(tmp_path / "dev.tsv.gz", "wb") as file:
        file.write(text.replace("\n", "\r\n").encode())
    for split in ("train", "dev"):
        rows = read_rows(GLUE["sst2"], tmp_path, split)
        assert rows.texts == ['so "good', "it 's bad "]
        assert rows.labels == [1.0, 0.0]
        assert rows.pairs is None


def test_csv_with_own_columns_and_words_as_labels(tmp_path):
    (tmp_path / "train.csv").write_text('q,a,y\n"one, two",three,no\nfour,"five\nsix",yes\n', encoding="utf-8")
    rows = read_rows(Task("own", "q", "y", pair="a", labels=("no", "yes")), tmp_path, "train")
    assert rows.texts == ["one, two", "four"]
    assert rows.pairs == ["three", "five\nsix"]
    assert rows.labels == [0.0, 1.0]


def test_scores_are_real_numbers(tmp_path):
    (tmp_path / "train.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t2.75\n", encoding="utf-8")
    assert read_rows(GLUE["stsb"], tmp_path, "train").labels == [2.75]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sentence\tlabel\n", "no rows"),
        ("text\tlabel\na\t1\n", "line 2: no column 'sentence'"),
        ("sentence\tlabel\na\t1\nb\n", "line 3: 1 columns"),
        ("sentence\tlabel\na\tgood\n", "line 2: the label 'good'"),
        ("sentence\tlabel\na\t0.5\n", "'0.5' is not a whole number"),
        ("sentence\tlabel\na\t-1\n", "'-1'"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, words):
    (tmp_path / "dev.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        read_rows(GLUE["sst2"], tmp_path, "dev")


@pytest.mark.parametrize(
    ("name", "head", "row"),
    [
        ("mrpc", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t7\t8\tone\ttwo"),
        ("qnli", "index\tquestion\tsentence\tlabel", "0\tone\ttwo\tnot_entailment"),
        ("qqp", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "0\t1\t2\tone\ttwo\t1"),
        ("mnli", "index\tsentence1\tsentence2\tgold_label", "0\tone\ttwo\tneutral"),
        ("rte", "index\tsentence1\tsentence2\tlabel", "0\tone\ttwo\tnot_entailment"),
        ("stsb", "index\tsentence1\tsentence2\tscore", "0\tone\ttwo\t1.0"),
    ],
)
def test_glue_under_the_names_of_its_own_files(tmp_path, name, head, row):
    (tmp_path / "train.tsv").write_text(f"{head}\n{row}\n", encoding="utf-8")
    rows = read_rows(GLUE[name], tmp_path, "train")
    assert (rows.texts, rows.pairs, rows.labels) == (["one"], ["two"], [1.0])


def test_glue_from_the_hub(monkeypatch):
    asked = []

    class Table(list):
        pass

    columns = {  # as the hub has them
        "mnli": ("premise", "hypothesis"), "qnli": ("question", "sentence"), "qqp": ("question1", "question2"),
        **dict.fromkeys(("cola", "sst2"), ("sentence",)),
        **dict.fromkeys(("mrpc", "rte", "stsb", "wnli"), ("sentence1", "sentence2")),
    }  # fmt: skip

    def load_dataset(*names, split):
        asked.append((*names, split))
        row = {name: f"a {name}" for name in columns[names[1]]}
        return Table([{**row, "label": 2.5 if names[1] == "stsb" else 1, "idx": 0}])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert read_rows(GLUE["stsb"], "hub", "train").labels == [2.5]
    assert read_rows(GLUE["mnli"], "hub", GLUE["mnli"].dev).pairs == ["a hypothesis"]
    assert read_rows(GLUE["rte"], "hub", GLUE["rte"].dev).labels == [1.0]
    glue = "nyu-mll/glue"
    assert asked == [(glue, "stsb", "train"), (glue, "mnli", "validation_matched"), (glue, "rte", "validation")]
    for name, task in GLUE.items():
        rows = read_rows(task, "hub", "train")
        assert (rows.texts, rows.pairs or [""]) == tuple([f"a {c}" if c else ""] for c in (*columns[name], "")[:2])
    with pytest.raises(ConfigError, match="for the tasks of GLUE"):
        read_rows(Task("own"), "hub", "train")

    def offline(*_, **__):
        class ConnectError(Exception):  # httpx raises what is no OSError
            pass

        raise ConnectError("nobody there")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=offline))
    with pytest.raises(DataError, match=r"ConnectError: nobody there.*give a folder"):
        read_rows(GLUE["rte"], "hub", "train")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match="pip install datasets"):
        read_rows(GLUE["rte"], "hub", "train")


def test_files_that_are_not_there_or_broken(tmp_path):
    with pytest.raises(DataError, match=r"no train.tsv"):
        read_rows(GLUE["sst2"], tmp_path, "train")
    (tmp_path / "train.tsv.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(GLUE["sst2"], tmp_path, "train")
    with pytest.raises(ConfigError, match="sst2"):
        task_named("sst-2")


@pytest.mark.skipif("SXQ_DATA" not in os.environ, reason="SXQ_DATA names no folder of data sets")
@pytest.mark.parametrize("name", ["cola", "mrpc", "qnli", "rte", "sst2", "stsb", "wnli"])
def test_real_glue(name):
    task = GLUE[name]
    for split in ("dev",) if name == "qnli" else ("train", "dev"):
        rows = read_rows(task, Path(os.environ["SXQ_DATA"]) / name, split)
        assert len(rows) > 50
        assert len(set(rows.labels)) == (2 if not task.regression else len(set(rows.labels)))


def test_every_sentence_is_in_one_batch_beside_those_of_its_length():
    lengths = np.random.default_rng(0).integers(3, 60, 5000)
    order = batch_order(lengths, 32, [0, 1])
    assert sorted(np.concatenate(order).tolist()) == list(range(5000))
    spread = np.mean([np.ptp(lengths[rows]) for rows in order])
    assert spread < 3
    firsts = [lengths[rows[0]] for rows in order[:50]]
    assert firsts != sorted(firsts)
    again = batch_order(lengths, 32, [0, 1])
    assert all(np.array_equal(a, b) for a, b in zip(order, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(order, batch_order(lengths, 32, [0, 2]), strict=False))


def test_batches_are_padded():
    ids = np.arange(1, 7, dtype=np.int32)
    sentences = Sentences(ids, (ids > 3).astype(np.int8), np.array([0, 1, 4, 6]), np.array([0, 1, 2], np.float32))
    batch = collate(sentences, np.array([2, 1, 0]))
    assert batch.ids.tolist() == [[5, 6, 0], [2, 3, 4], [1, 0, 0]]
    assert batch.mask.tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert batch.types.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert batch.labels.tolist() == [2.0, 1.0, 0.0]
