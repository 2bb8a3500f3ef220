"""Texts that a model is given, and how it is to read them: checked before a tokenizer sees them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from snn_extreme_quant.errors import ConfigError, DataError

__all__ = ["by_length", "check_options", "check_texts"]


def by_length(rows: Sequence[int], encoded: Sequence[Any], size: int) -> Iterator[list[int]]:
    """Yield rows of similar length together.

    Args:
        rows: numbers in ``encoded``.
        encoded: texts with their tokens, ``ids``.
        size: how many together.
    """
    ordered = sorted(rows, key=lambda row: len(encoded[row].ids))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def check_options(early_exit: Any, batch: Any) -> None:
    """Raise :class:`ConfigError` for a margin or a batch that means nothing."""
    if early_exit is not None and not (isinstance(early_exit, Real) and 0.0 <= float(early_exit) <= 1.0):
        raise ConfigError(f"early_exit={early_exit!r}: the margin is a difference of probabilities, from 0 to 1.")
    if isinstance(batch, bool) or not isinstance(batch, Integral) or int(batch) < 1:
        raise ConfigError(f"batch={batch!r}: use a whole number, 1 or more.")


def check_texts(texts: Sequence[str], pairs: Sequence[str] | None, name: str, *, takes_pairs: bool) -> None:
    """Raise :class:`DataError` for what are no texts, or not what a model takes.

    Args:
        texts: sentences.
        pairs: second sentences, or None.
        name: of the model.
        takes_pairs: whether it takes two sentences.
    """
    _check_kinds("texts", texts)
    empty = next((row for row, text in enumerate(texts) if not text.strip()), None)
    if empty is not None:
        raise DataError(f"Text {empty + 1} is empty.")
    if pairs is not None:
        _check_kinds("pairs", pairs)
    broken = next((row for row, text in enumerate((*texts, *(pairs or ()))) if not _is_unicode(text)), None)
    if broken is not None:
        raise DataError(f"Text {broken % max(1, len(texts)) + 1} holds bytes that are no text in UTF-8.")
    if takes_pairs != (pairs is not None):
        how = "; give the second with --pair, or its column with --pair-column (pairs=)" if takes_pairs else ""
        raise DataError(f"{name} takes {'pairs of texts' if takes_pairs else 'single texts'}{how}.")
    if pairs is not None and len(pairs) != len(texts):
        raise DataError(f"{len(texts)} texts and {len(pairs)} second ones: give as many.")
    empty = next((row for row, text in enumerate(pairs or ()) if not text.strip()), None)
    if empty is not None:
        raise DataError(f"The second text of pair {empty + 1} is empty.")


def _check_kinds(what: str, texts: object) -> None:
    if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Collection):
        shown = repr(texts)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        hint = f": for one text write {what}=[...]" if isinstance(texts, str) else ""
        raise DataError(f"{what} is a list of texts; got {shown}{hint}.")
    for row, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise DataError(f"{what} is a list of texts, but number {row} is of type {type(text).__name__}.")


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: Python keeps bytes that it could not read as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
