"""Plain text without labels: a sentence or a document a line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from snn_extreme_quant.errors import DataError

__all__ = ["read_document", "read_text"]


def read_text(sources: Sequence[str | Path]) -> list[str]:
    """Read the lines of plain text files.

    Args:
        sources: files in UTF-8, compressed if their name ends in ``.gz``, and folders of ``.txt`` and ``.txt.gz``.

    Returns:
        Lines without what surrounds them; empty ones are left out.

    Raises:
        DataError: a file is not there or no text, or there is no line at all; the message names it.
    """
    lines = []
    for path in _files(sources):
        lines += [line for line in map(str.strip, read_document(path).split("\n")) if line]
    if not lines:
        raise DataError(f"There is no text in {', '.join(map(str, sources))}: each line is to hold a sentence or more.")
    return lines


def read_document(path: Path) -> str:
    """Read a text file in UTF-8 as it is, decompressed if its name ends in ``.gz``.

    Raises:
        DataError: it is not there, or no text.
    """
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as text: {error}.") from error


def _files(sources: Sequence[str | Path]) -> Iterator[Path]:
    for source in map(Path, sources):
        if source.is_dir():
            inside = sorted([*source.glob("*.txt"), *source.glob("*.txt.gz")])
            if not inside:
                raise DataError(f"The folder {source} holds no .txt and no .txt.gz.")
            yield from inside
        else:
            yield source
