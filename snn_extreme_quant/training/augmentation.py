"""Sentences altered word by word, with neighbours from the teacher's own embedding table.

``docs/spiking_bert.md`` (Augmentation) has the order; the idea is TinyBERT's (arXiv:1909.10351, section on data
augmentation), without a masked language model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from snn_extreme_quant.data import Batch, Sentences, pad
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.training.recipe import Augment

__all__ = ["Augmenter", "Vocabulary"]

_QUERIES = 256
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Vocabulary:
    """What the tokens of a vocabulary are.

    Args:
        fixed: special tokens, which stay where they are, ``(V,)``.
        pieces: tokens that go on with a word (``##``), ``(V,)``.
        words: tokens that are words, and may come in the place of others, ``(V,)``.
    """

    fixed: npt.NDArray[np.bool_]
    pieces: npt.NDArray[np.bool_]
    words: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, tokenizer: Any, size: int) -> Vocabulary:
        """Read a tokenizer of transformers whose teacher has a table of ``size`` rows."""
        tokens = tokenizer.convert_ids_to_tokens(list(range(min(size, len(tokenizer)))))
        tokens += ["[unused]"] * (size - len(tokens))
        fixed = np.zeros(size, bool)
        special = [i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id]
        fixed[special] = True
        pieces = np.array([token.startswith("##") for token in tokens])
        named = np.array([token.startswith("[") and token.endswith("]") for token in tokens])
        return cls(fixed, pieces & ~fixed, ~(fixed | pieces | named))

    def check(self, options: Augment) -> None:
        """Raise :class:`ConfigError` where words are to be replaced and none has a neighbour."""
        count = int(self.words.sum())
        if options.replace and count < 2:
            raise ConfigError(
                f"[augment] replace={options.replace}: the teacher's vocabulary has {count} words of one token, so none"
                " has a neighbour; set replace = 0."
            )


class Augmenter:
    """Alters the sentences of a batch, each with a probability.

    Args:
        vocabulary: of the tokens.
        nearest: for each token its nearest words, the nearest first, ``(V, neighbours)``; -1: it is not replaced.
        options: how words are altered.
        probability: of a sentence to be altered.
    """

    def __init__(self, vocabulary: Vocabulary, nearest: Ids, options: Augment, probability: float) -> None:
        """Remember the options."""
        self.vocabulary, self.nearest, self.options, self.probability = vocabulary, nearest, options, probability

    @classmethod
    def of(cls, tokenizer: Any, table: Tensor, sentences: Sentences, options: Augment, probability: float) -> Augmenter:
        """Make one for some sentences: only their words get neighbours.

        Args:
            tokenizer: of transformers.
            table: the teacher's embeddings ``(V, hidden)``.
            sentences: what is to be altered.
            options: how.
            probability: of a sentence to be altered.

        Raises:
            ConfigError: words are to be replaced, and the vocabulary has no two of them.
        """
        vocabulary = Vocabulary.of(tokenizer, len(table))
        vocabulary.check(options)
        if not options.replace:
            return cls(vocabulary, np.full((len(table), 1), -1, np.int64), options, probability)
        asked = np.unique(sentences.ids).astype(np.int64)
        asked = asked[vocabulary.words[asked]]
        return cls(vocabulary, nearest_words(table, vocabulary.words, asked, options.neighbours), options, probability)

    def __call__(self, batch: Batch, seed: Sequence[int]) -> Batch:
        """Return the batch with some sentences altered.

        Args:
            batch: on the CPU.
            seed: of the epoch; what becomes of a sentence is a function of it and of the sentence's number alone.
        """
        sentences = []
        lengths = batch.mask.sum(1).tolist()
        for row, length, ids, types in zip(batch.rows, lengths, batch.ids.numpy(), batch.types.numpy(), strict=True):
            generator = np.random.default_rng([*seed, int(row), 1])
            sentence = ids[:length], types[:length]
            altered = generator.random() < self.probability
            sentences.append(self.alter(*sentence, generator) if altered else sentence)
        ids, mask, types = pad(sentences)
        return Batch(batch.rows, ids, mask, types, batch.labels)

    def alter(self, ids: Ids, types: Ids, generator: np.random.Generator) -> tuple[Ids, Ids]:
        """Return a sentence with words replaced, left out and swapped."""
        new_ids: list[int] = []
        new_types: list[int] = []
        for run in self._runs(ids):
            words = [ids[run]] if self.vocabulary.fixed[ids[run.start]] else self._altered(ids[run], generator)
            changed = np.concatenate(words).tolist()
            new_ids += changed
            new_types += [int(types[run.start])] * len(changed)
        return np.array(new_ids, np.int64), np.array(new_types, np.int64)

    def _runs(self, ids: Ids) -> Iterator[slice]:
        """Yield special tokens, one at a time, and what is between them."""
        start = 0
        for place, fixed in enumerate(self.vocabulary.fixed[ids].tolist()):
            if fixed:
                if start < place:
                    yield slice(start, place)
                yield slice(place, place + 1)
                start = place + 1
        if start < len(ids):
            yield slice(start, len(ids))

    def _altered(self, ids: Ids, generator: np.random.Generator) -> list[Ids]:
        options = self.options
        starts = np.flatnonzero(~self.vocabulary.pieces[ids])
        words = np.split(ids, starts[starts > 0])
        replaced = generator.random(len(words)) < options.replace
        words = [self._replaced(word, generator) if now else word for word, now in zip(words, replaced, strict=True)]
        kept = generator.random(len(words)) >= options.delete
        if not kept.any():
            kept[generator.integers(len(words))] = True
        words = [word for word, stays in zip(words, kept, strict=True) if stays]
        swapped = generator.random(len(words)) < options.swap
        place = 0
        while place < len(words) - 1:
            if swapped[place]:
                words[place], words[place + 1] = words[place + 1], words[place]
                place += 1  # a word moves by one place only
            place += 1
        return words

    def _replaced(self, word: Ids, generator: np.random.Generator) -> Ids:
        choices: Ids = self.nearest[word[0]]
        if len(word) > 1 or choices[0] < 0:
            return word
        chosen = generator.integers(len(choices))
        return choices[chosen : chosen + 1]


def nearest_words(table: Tensor, words: npt.NDArray[np.bool_], asked: Ids, count: int) -> Ids:
    """Return the nearest words of some, by the cosine of their embeddings.

    Args:
        table: embeddings ``(V, hidden)``.
        words: which tokens may be a neighbour, ``(V,)``; two at least.
        asked: tokens whose neighbours are wanted.
        count: how many; fewer where there are no more words.

    Returns:
        ``(V, count)``, the nearest first, -1 for what was not asked for.

    Example:
        >>> table = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 0.1]])
        >>> nearest_words(table, np.array([True, True, True, False]), np.array([0]), 2)[0].tolist()
        [1, 2]
    """
    candidates = torch.from_numpy(np.flatnonzero(words))
    count = min(count, len(candidates) - 1)
    unit = F.normalize(table.detach().float().cpu(), dim=-1)
    among = unit[candidates]
    found = np.full((len(table), count), -1, np.int64)
    for start in range(0, len(asked), _QUERIES):
        some = torch.from_numpy(asked[start : start + _QUERIES])
        likeness = unit[some] @ among.mT
        likeness[candidates == some[:, None]] = -torch.inf
        found[some.numpy()] = candidates[likeness.topk(count, dim=-1).indices].numpy()
    return found
