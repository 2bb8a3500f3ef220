"""Texts to classify: from a table, or a line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from snn_extreme_quant.errors import DataError
from snn_extreme_quant.registry import suggest

if TYPE_CHECKING:
    from snn_extreme_quant.data import Task

__all__ = ["Texts", "read_file", "read_lines"]

#: Columns that are looked for where neither the user nor the model names one.
_DEFAULTS = {"text": "sentence", "label": "label"}


@dataclass(frozen=True)
class Texts:
    """Texts with what is beside them.

    Args:
        texts: sentences.
        pairs: second sentences, or None.
        labels: as the table writes them, or None.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[str] | None


def read_lines(stream: TextIO, *, pairs: bool = False) -> Texts:
    """Read a text a line, or two with a tab between them; lines without a text are skipped.

    Args:
        stream: the lines.
        pairs: whether each has two texts.

    Raises:
        DataError: there is none, it is no text, or a line has not two texts.
    """
    try:
        lines = [line.strip() for line in stream]
    except UnicodeDecodeError as error:
        raise DataError(f"Standard input is no text: {error}.") from error
    texts = [line for line in lines if line]
    if not texts:
        raise DataError("Standard input holds no text.")
    if not pairs:
        return Texts(texts, None, None)
    parts = [line.split("\t") for line in texts]
    wrong = next((line for line, part in zip(texts, parts, strict=True) if len(part) != 2), None)
    if wrong is not None:
        raise DataError(f"A line of standard input is no pair of texts with one tab between them: {wrong[:40]!r}.")
    return Texts([part[0] for part in parts], [part[1] for part in parts], None)


def read_file(path: Path, asked: Mapping[str, str | None], task: Task | None) -> Texts:
    """Read a table.

    Args:
        path: the file.
        asked: by ``"text"``, ``"pair"`` and ``"label"`` the column that the user names.
        task: of the model; tables of GLUE's may call its columns as GLUE or the hub does. Its label column need not be
            there.

    Raises:
        DataError: the file cannot be read, has no rows, or lacks a column.
    """
    from snn_extreme_quant.data import read_table

    if asked["text"] == "":
        raise DataError("--text-column is empty: name the column of the texts.")
    rows = list(read_table(path))
    if not rows:
        raise DataError(f"{path} holds no rows below its line of column names.")
    usual = _DEFAULTS if task is None else _columns(task, rows[0])
    columns = {key: asked[key] if asked[key] is not None else usual.get(key) for key in asked}
    if asked["label"] is None and columns["label"] not in rows[0]:
        columns["label"] = None
    found: dict[str, list[str] | None] = {}
    for key, column in columns.items():
        if not column:
            found[key] = None
            continue
        if column not in rows[0]:
            how = "; '' leaves labels alone" if key == "label" else ""
            raise DataError(
                f"{path} has no column {column!r}. {suggest(column, rows[0])} Name it with --{key}-column{how}."
            )
        lacking = next((number for number, row in enumerate(rows, 2) if row.get(column) is None), None)
        if lacking is not None:
            raise DataError(f"{path}, line {lacking}: the column {column!r} is missing.")
        found[key] = [row[column] for row in rows]
    texts = found["text"] or []
    empty = next((number for number, text in enumerate(texts, 2) if not text.strip()), None)
    if empty is not None:
        raise DataError(f"{path}, line {empty}: the text in {columns['text']!r} is empty.")
    return Texts(texts, found["pair"], found["label"])


def _columns(task: Task, row: Mapping[str, str]) -> dict[str, str]:
    """Return what a table calls the text, the pair and the label of a task."""
    from snn_extreme_quant.data.tasks import columns_of

    called = columns_of(task, row)
    named = {"text": task.text, "pair": task.pair, "label": task.label}
    return {key: called[column] for key, column in named.items() if column is not None}
