"""Token ids of all sentences in one array, and batches of sentences of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from snn_extreme_quant.data.tasks import Rows
from snn_extreme_quant.errors import DataError

__all__ = ["Batch", "Sentences", "batch_order", "collate", "pad"]

#: Sentences are sorted by length among this many batches.
_POOL = 64
#: Lines of plain text that are tokenised at a time.
_LINES = 10_000
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sentences:
    """Tokenised sentences.

    Args:
        ids: token ids of all sentences, one after the other.
        types: token types, alike.
        starts: where each begins, and the end; ``(N + 1,)``.
        labels: ``(N,)``.
    """

    ids: npt.NDArray[np.int32]
    types: npt.NDArray[np.int8]
    starts: Ints
    labels: npt.NDArray[np.float32]

    @classmethod
    def tokenise(cls, rows: Rows, tokenizer: Any, max_tokens: int) -> Sentences:
        """Tokenise all rows, truncated to ``max_tokens``, with a tokenizer of transformers."""
        encoded = tokenizer(
            rows.texts, rows.pairs, truncation=True, max_length=max_tokens, padding=False, return_token_type_ids=True,
            return_attention_mask=False,
        )  # fmt: skip
        lengths = [len(ids) for ids in encoded["input_ids"]]
        return cls(
            np.concatenate([np.asarray(ids, np.int32) for ids in encoded["input_ids"]]),
            np.concatenate([np.asarray(types, np.int8) for types in encoded["token_type_ids"]]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.asarray(rows.labels, np.float32),
        )

    @classmethod
    def of_text(cls, lines: Sequence[str], tokenizer: Any, max_tokens: int) -> Sentences:
        """Tokenise lines without labels; what is longer than ``max_tokens`` is cut into pieces, none is left out.

        Raises:
            DataError: the tokenizer is none of the fast ones, which alone give all pieces.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise DataError(f"{type(tokenizer).__name__} cannot cut long lines into pieces: use a fast tokenizer.")
        pieces: list[Any] = []
        for start in range(0, len(lines), _LINES):
            encoded = tokenizer(
                list(lines[start : start + _LINES]), truncation=True, max_length=max_tokens, padding=False,
                return_overflowing_tokens=True, return_token_type_ids=False, return_attention_mask=False,
            )  # fmt: skip
            pieces += [np.asarray(ids, np.int32) for ids in encoded["input_ids"]]
        starts = np.concatenate([[0], np.cumsum([len(ids) for ids in pieces])]).astype(np.int64)
        ids = np.concatenate(pieces)
        return cls(ids, np.zeros(len(ids), np.int8), starts, np.zeros(len(pieces), np.float32))

    def __len__(self) -> int:
        """Return the number of sentences."""
        return len(self.labels)

    @property
    def lengths(self) -> Ints:
        """Tokens of each sentence."""
        return np.diff(self.starts)


@dataclass(frozen=True)
class Batch:
    """Sentences side by side, padded with zeros.

    Args:
        rows: their numbers, ``(B,)``.
        ids: token ids, ``(B, S)``.
        mask: 1 for tokens, 0 for pads, ``(B, S)``.
        types: token types, ``(B, S)``.
        labels: ``(B,)``, float32.
    """

    rows: Ints
    ids: Tensor
    mask: Tensor
    types: Tensor
    labels: Tensor

    def taken(self, rows: slice) -> Batch:
        """Return some of the sentences, no shorter."""
        tensors = (tensor[rows] for tensor in (self.ids, self.mask, self.types, self.labels))
        return Batch(self.rows[rows], *tensors)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        tensors = (tensor.to(device) for tensor in (self.ids, self.mask, self.types, self.labels))
        return Batch(self.rows, *tensors)


def collate(sentences: Sentences, rows: Ints) -> Batch:
    """Pad the sentences with these numbers to a batch.

    Example:
        >>> ids, starts = np.arange(5, dtype=np.int32), np.array([0, 2, 5])
        >>> two = Sentences(ids, np.zeros(5, np.int8), starts, np.zeros(2, np.float32))
        >>> collate(two, np.array([1, 0])).ids.tolist()
        [[2, 3, 4], [0, 1, 0]]
    """
    lengths = sentences.lengths[rows]
    width = int(lengths.max())
    mask = np.arange(width) < lengths[:, None]
    places = sentences.starts[rows][:, None] + np.arange(width)
    ids, types = np.zeros(mask.shape, np.int64), np.zeros(mask.shape, np.int64)
    ids[mask], types[mask] = sentences.ids[places[mask]], sentences.types[places[mask]]
    tensors = (torch.from_numpy(array) for array in (ids, mask.astype(np.int64), types, sentences.labels[rows]))
    return Batch(rows, *tensors)


def pad(sentences: Sequence[tuple[Ints, Ints]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, mask and types of sentences side by side.

    Example:
        >>> one, two = (np.array([5, 6]), np.array([0, 1])), (np.array([7]), np.array([0]))
        >>> [tensor.tolist() for tensor in pad([one, two])]
        [[[5, 6], [7, 0]], [[1, 1], [1, 0]], [[0, 1], [0, 0]]]
    """
    width = max(len(ids) for ids, _ in sentences)
    found = np.zeros((3, len(sentences), width), np.int64)
    for row, (ids, types) in enumerate(sentences):
        found[0, row, : len(ids)], found[1, row, : len(ids)], found[2, row, : len(ids)] = ids, 1, types
    ids, mask, types = torch.from_numpy(found)
    return ids, mask, types


def batch_order(lengths: Ints, batch: int, seed: Sequence[int]) -> list[Ints]:
    """Return the batches of one epoch, of sentences of similar length, in random order.

    The sentences are shuffled, sorted by length among each 64 batches, cut, and the batches shuffled. The last batch
    may be smaller.

    Args:
        lengths: of all sentences.
        batch: sentences in a batch.
        seed: the result is a function of the arguments alone.

    Example:
        >>> order = batch_order(np.array([3, 9, 4, 8]), 2, [0])
        >>> sorted(sorted(rows.tolist()) for rows in order)
        [[0, 2], [1, 3]]
    """
    generator = np.random.default_rng(list(seed))
    shuffled = generator.permutation(len(lengths))
    pool = batch * _POOL
    parts = [shuffled[start : start + pool] for start in range(0, len(shuffled), pool)]
    ordered = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    batches = [ordered[start : start + batch] for start in range(0, len(ordered), batch)]
    return [batches[i] for i in generator.permutation(len(batches))]
