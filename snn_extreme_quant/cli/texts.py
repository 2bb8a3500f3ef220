"""Texts to classify: from a table, or a line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from snn_extreme_quant.errors import DataError
from snn_extreme_quant.registry import suggest

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


def read_lines(stream: TextIO) -> Texts:
    """Read a text a line; lines without a text are skipped.

    Raises:
        DataError: there is none, or it is no text.
    """
    try:
        lines = [line.strip() for line in stream]
    except UnicodeDecodeError as error:
        raise DataError(f"Standard input is no text: {error}.") from error
    texts = [line for line in lines if line]
    if not texts:
        raise DataError("Standard input holds no text.")
    return Texts(texts, None, None)


def read_file(path: Path, asked: Mapping[str, str | None], task: Mapping[str, str]) -> Texts:
    """Read a table.

    Args:
        path: the file.
        asked: by ``"text"``, ``"pair"`` and ``"label"`` the column that the user names.
        task: the columns of the model's task. Its label column need not be there.

    Raises:
        DataError: the file cannot be read, has no rows, or lacks a column.
    """
    from snn_extreme_quant.data import read_table

    rows = list(read_table(path))
    if not rows:
        raise DataError(f"{path} holds no rows below its line of column names.")
    columns = {key: asked[key] if asked[key] is not None else {**_DEFAULTS, **task}.get(key) for key in asked}
    if asked["label"] is None and columns["label"] not in rows[0]:
        columns["label"] = None
    found: dict[str, list[str] | None] = {}
    for key, column in columns.items():
        if not column:
            found[key] = None
            continue
        if column not in rows[0]:
            raise DataError(f"{path} has no column {column!r}. {suggest(column, rows[0])} Name it with --{key}-column.")
        lacking = next((number for number, row in enumerate(rows, 2) if row.get(column) is None), None)
        if lacking is not None:
            raise DataError(f"{path}, line {lacking}: the column {column!r} is missing.")
        found[key] = [row[column] for row in rows]
    texts = found["text"] or []
    empty = next((number for number, text in enumerate(texts, 2) if not text.strip()), None)
    if empty is not None:
        raise DataError(f"{path}, line {empty}: the text in {columns['text']!r} is empty.")
    return Texts(texts, found["pair"], found["label"])
