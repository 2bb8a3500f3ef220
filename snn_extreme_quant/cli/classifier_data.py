"""Batches of texts for ``sxq verify`` of a SpikeGPT's classifier: those of a table, or random ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_extreme_quant.errors import ConfigError

from .language import run_of, tokens_of
from .texts import read_file

if TYPE_CHECKING:
    import numpy.typing as npt

    from snn_extreme_quant.data import TextTokens

__all__ = ["TABLES", "random_batches", "table_batches", "text_batches"]

#: Endings of tables, beside a .gz of them.
TABLES = (".tsv", ".csv", ".txt")
#: Texts side by side.
_BATCH = 32
#: Tokens of the random texts: single ones, some of equal length and some with many pads.
_LENGTHS = ((1, 2, 3, 7, 31, 64), (17, 17, 17, 17), (1,))

_Batch = dict[str, Any]


def random_batches(vocab: int) -> list[_Batch]:
    """Return the same random ids of texts of odd lengths in each run."""
    import numpy as np

    draw = np.random.default_rng(0)
    return [_batch([draw.integers(0, vocab, length) for length in lengths]) for lengths in _LENGTHS]


def table_batches(path: Path, folder: Path) -> Iterator[_Batch]:
    """Give the texts of a table in the tokens of a classifier's folder, cut off as in its run.

    Raises:
        ConfigError: the folder does not say what a token is.
        DataError: the table cannot be read, or holds no texts.
    """
    words = tokens_of(folder)
    if words is None:
        raise ConfigError(f"{folder} has no tokens.json, so texts have no tokens; give ids with --data FILE.npz.")
    run = run_of(folder)
    task, most = (None, None) if run is None else (run.task, run.max_tokens)
    texts = read_file(path, {"text": None, "pair": "", "label": ""}, task).texts
    return text_batches(texts, words, most)


def text_batches(texts: Sequence[str], words: TextTokens, most: int | None) -> Iterator[_Batch]:
    """Yield texts in some tokens, cut off behind ``most``."""
    encoded = [words.encode(text)[:most] for text in texts]
    for start in range(0, len(encoded), _BATCH):
        yield _batch(encoded[start : start + _BATCH])


def _batch(texts: Sequence[npt.NDArray[Any]]) -> _Batch:
    """Put texts side by side, with pads of 0 behind them."""
    import numpy as np

    lengths = np.array([len(text) for text in texts])
    ids = np.zeros((len(texts), lengths.max()), np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    return {"input_ids": ids, "attention_mask": (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)}
