"""The GLUE tasks by name, and any table of sentences and labels: local TSV or CSV files, or the hub of ``datasets``."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_extreme_quant.errors import ConfigError, DataError, MissingDependencyError
from snn_extreme_quant.registry import suggest

__all__ = ["GLUE", "LABEL_NAMES", "Rows", "Task", "columns_of", "read_rows", "read_table", "split_rows"]


@dataclass(frozen=True)
class Task:
    """A task: where its texts and labels are in a table, and what its quality is measured by.

    Args:
        name: its name.
        text: column of the sentence.
        label: column of the label.
        pair: column of a second sentence, or None.
        labels: names of the labels where they are words, in the order of their numbers; else they are whole numbers.
        regression: labels are real numbers.
        metrics: names in :data:`snn_extreme_quant.data.metrics.METRICS`; the first one selects the best model.
        dev: name of the split that is measured.
    """

    name: str
    text: str = "sentence"
    label: str = "label"
    pair: str | None = None
    labels: tuple[str, ...] = ()
    regression: bool = False
    metrics: tuple[str, ...] = ("accuracy",)
    dev: str = "dev"

    def __post_init__(self) -> None:
        """Refuse what is no list of names: of a text each letter would be one."""
        for name in ("labels", "metrics"):
            given: object = getattr(self, name)
            if isinstance(given, str) or not (
                isinstance(given, Sequence) and all(isinstance(part, str) for part in given)
            ):
                raise ConfigError(f"Task({name}={given!r}): use a tuple of names, such as ('negative', 'positive').")
            object.__setattr__(self, name, tuple(given))


_NLI = ("entailment", "not_entailment")
_PAIR: dict[str, Any] = {"text": "sentence1", "pair": "sentence2"}
#: The tasks of GLUE (Wang et al. 2019, table 1) with its metrics.
GLUE: dict[str, Task] = {
    "cola": Task("cola", metrics=("matthews", "accuracy")),
    "mnli": Task(
        "mnli", "premise", pair="hypothesis", labels=("entailment", "neutral", "contradiction"), dev="dev_matched"
    ),
    "mrpc": Task("mrpc", **_PAIR, metrics=("accuracy", "f1")),
    "qnli": Task("qnli", **_PAIR, labels=_NLI),
    "qqp": Task("qqp", "question1", pair="question2", metrics=("accuracy", "f1")),
    "rte": Task("rte", **_PAIR, labels=_NLI),
    "sst2": Task("sst2"),
    "stsb": Task("stsb", **_PAIR, label="score", regression=True, metrics=("pearson", "spearman")),
    "wnli": Task("wnli", **_PAIR),
}
#: What the labels of GLUE's tasks mean whose tables hold numbers.
LABEL_NAMES: dict[str, tuple[str, ...]] = {
    "cola": ("unacceptable", "acceptable"),
    "mrpc": ("not_equivalent", "equivalent"),
    "qqp": ("not_duplicate", "duplicate"),
    "sst2": ("negative", "positive"),
    "wnli": ("not_entailment", "entailment"),
}


#: What GLUE's own files and the hub call a column, where tables call it otherwise, by task.
_ALSO: dict[str, dict[str, tuple[str, ...]]] = {
    "mnli": {"premise": ("sentence1",), "hypothesis": ("sentence2",), "label": ("gold_label",)},
    "mrpc": {"sentence1": ("#1 String",), "sentence2": ("#2 String",), "label": ("Quality",)},
    "qnli": {"sentence1": ("question",), "sentence2": ("sentence",)},
    "qqp": {"question1": ("sentence1",), "question2": ("sentence2",), "label": ("is_duplicate",)},
    "stsb": {"score": ("label",)},
}


@dataclass(frozen=True)
class Rows:
    """Texts and labels of one split.

    Args:
        texts: sentences.
        pairs: second sentences, or None.
        labels: a number for each text.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[float]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)

    def taken(self, numbers: Sequence[int]) -> Rows:
        """Return some of the rows."""
        pairs = None if self.pairs is None else [self.pairs[i] for i in numbers]
        return Rows([self.texts[i] for i in numbers], pairs, [self.labels[i] for i in numbers])


def split_rows(rows: Rows, part: float, fold: int) -> tuple[Rows, Rows]:
    """Split rows into those to train on and those to measure on, by a permutation that is the same everywhere.

    Args:
        rows: of one table.
        part: of the rows to measure on.
        fold: which part of the mixed rows, from 0.

    Raises:
        DataError: one of both would be empty.

    Example:
        >>> rows = Rows(list("abcdefgh"), None, [0.0] * 8)
        >>> [len(split) for split in split_rows(rows, 0.25, 3)]
        [6, 2]
    """
    mixed = sorted(range(len(rows)), key=lambda i: hashlib.sha256(str(i).encode()).digest())
    start, stop = (round(end * part * len(rows)) for end in (fold, fold + 1))
    measured = sorted(mixed[start:stop])
    if not 0 < len(measured) < len(rows):
        raise DataError(f"{len(rows)} rows cannot be split: {part} of them are {len(measured)}.")
    trained = sorted({*range(len(rows))} - {*measured})
    return rows.taken(trained), rows.taken(measured)


def read_rows(task: Task, data: str | Path, split: str, labelled: bool = True) -> Rows:
    """Read one split of a task.

    Args:
        task: which columns.
        data: a folder that holds ``<split>.tsv``, ``.csv``, ``.tsv.gz`` or ``.csv.gz`` with a line of column names (TSV
            without quoting, as GLUE's), or ``"hub"``: GLUE by the package ``datasets``.
        split: ``"train"`` or ``task.dev``.
        labelled: whether there has to be a column of labels; where there is none, all are 0.

    Raises:
        DataError: a file, a column or a label is not there or makes no sense; the message names file and line.
        MissingDependencyError: ``datasets`` is not installed.
    """
    if str(data) == "hub":
        return _rows(task, _hub_table(task, split), f"{task.name} of the hub", labelled)
    folder = Path(data)
    for ending in ("tsv", "csv", "tsv.gz", "csv.gz"):
        path = folder / f"{split}.{ending}"
        if path.is_file():
            return _rows(task, read_table(path), str(path), labelled)
    raise DataError(
        f"{folder} holds no {split}.tsv, .csv, .tsv.gz or .csv.gz; give the folder of the task {task.name!r}."
    )


def read_table(path: Path) -> Iterable[dict[str, str]]:
    """Yield the rows of a table by their columns' names.

    Args:
        path: ``.tsv`` or ``.txt``, cells between tabs without quoting; or ``.csv``; or either in gzip, with ``.gz``
            behind.

    Raises:
        DataError: the file is no table by its name, cannot be read, or a line has another number of columns than the
            first.
    """
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if kind not in (".tsv", ".txt", ".csv"):
        raise DataError(f"{path} is no table: use .tsv or .txt (cells between tabs), .csv, or .gz of them.")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if kind == ".csv":
        yield from _comma_separated(path, text)
        return
    lines = [line.rstrip("\r") for line in text.split("\n")]
    head = lines[0].split("\t")
    for number, line in enumerate(lines[1:], 2):
        if line:
            cells = line.split("\t")
            if len(cells) != len(head):
                raise DataError(f"{path}, line {number}: {len(cells)} columns, but the first line has {len(head)}.")
            yield dict(zip(head, cells, strict=True))


def _comma_separated(path: Path, text: str) -> Iterable[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            more: Any = row.get(None)
            if more is not None:
                known = len(reader.fieldnames or ())
                raise DataError(
                    f"{path}, line {reader.line_num}: {known + len(more)} columns, but the first line has {known}."
                )
            yield row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}.") from error


def _hub_table(task: Task, split: str) -> Iterable[dict[str, Any]]:
    if task.name not in GLUE:
        raise ConfigError(f'data = "hub" is for the tasks of GLUE; give a folder for the task {task.name!r}.')
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError('data = "hub" needs: pip install datasets') from error
    name = {"dev": "validation"}.get(split, split.replace("dev_", "validation_"))
    try:
        table = datasets.load_dataset("nyu-mll/glue", task.name, split=name)
    except Exception as error:  # the hub's client raises what its own libraries do
        raise DataError(
            f"{task.name} cannot be had from the hub ({type(error).__name__}: {error}). Without a connection, give a"
            " folder with its tables."
        ) from error
    rows: Iterable[dict[str, Any]] = table
    return rows


def _rows(task: Task, table: Iterable[dict[str, Any]], where: str, labelled: bool) -> Rows:
    texts: list[str] = []
    pairs: list[str] = []
    labels: list[float] = []
    names: dict[str, str] = {}
    for number, row in enumerate(table, 2):
        if not names:
            names = columns_of(task, row)
            labelled = labelled or names[task.label] in row
            names = names if labelled else {key: name for key, name in names.items() if key != task.label}
        for column in names.values():
            if row.get(column) is None:
                raise DataError(f"{where}, line {number}: no column {column!r}. {suggest(column, list(row))}")
        texts.append(row[names[task.text]])
        labels.append(_label(task, row[names[task.label]], f"{where}, line {number}") if labelled else 0.0)
        if task.pair is not None:
            pairs.append(row[names[task.pair]])
    if not texts:
        raise DataError(f"{where} holds no rows.")
    return Rows(texts, pairs if task.pair is not None else None, labels)


def columns_of(task: Task, row: Mapping[str, Any]) -> dict[str, str]:
    """Return what a table calls the columns that the task asks for; a column that is not there keeps its name.

    Example:
        >>> columns_of(GLUE["stsb"], {"sentence1": "", "sentence2": "", "label": ""})
        {'sentence1': 'sentence1', 'sentence2': 'sentence2', 'score': 'label'}
    """
    also = _ALSO.get(task.name, {})
    wanted = [column for column in (task.text, task.pair, task.label) if column is not None]
    return {
        column: next((name for name in (column, *also.get(column, ())) if name in row), column) for column in wanted
    }


def _label(task: Task, value: Any, where: str) -> float:
    if isinstance(value, str) and value in task.labels:
        return float(_index(task.labels, value))
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (not task.regression and (number < 0 or number != int(number))):
        kind = "a number" if task.regression else f"a whole number from 0{' or ' if task.labels else ''}"
        raise DataError(f"{where}: the label {value!r} is not {kind}{' or '.join(map(repr, task.labels))}.")
    return number


def _index(labels: Sequence[str], value: str) -> int:
    return list(labels).index(value)


def task_named(name: str) -> Task:
    """Return a GLUE task; raises :class:`ConfigError` if there is none of that name.

    Example:
        >>> task_named("sst2").metrics
        ('accuracy',)
    """
    if name not in GLUE:
        raise ConfigError(f"There is no GLUE task {name!r}. {suggest(name, GLUE)}")
    return GLUE[name]
