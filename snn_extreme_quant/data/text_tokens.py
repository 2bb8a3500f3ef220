"""Text as tokens for models that are trained from scratch: characters, bytes, or byte-level BPE of ``tokenizers``."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.errors import ConfigError, DataError
from snn_extreme_quant.output_files import write_whole

__all__ = ["Kind", "TextTokens"]

Kind = Literal["characters", "bytes", "bpe"]
Ids = npt.NDArray[np.int32]
_FORMAT = "snn_extreme_quant.text_tokens.1"
_UNKNOWN = "\ufffd"
#: Characters of the training text that BPE reads at a time.
_PIECE = 100_000


class TextTokens:
    """What a token is.

    Args:
        kind: ``"characters"``, ``"bytes"`` or ``"bpe"``.
        characters: of the first kind, in the order of their numbers; the number after them is any other character's.
        tokenizer: of the last kind, a ``tokenizers.Tokenizer``.

    Example:
        >>> tokens = TextTokens.of("characters", "banana")
        >>> tokens.encode("nab!").tolist(), tokens.vocab, tokens.decode([1, 0])
        ([2, 0, 1, 3], 4, 'ba')
    """

    def __init__(self, kind: Kind, characters: str = "", tokenizer: Any = None) -> None:
        """Prepare the look-up of characters."""
        self.kind, self.characters, self.tokenizer = kind, characters, tokenizer
        self._codes = np.array([ord(c) for c in characters], np.uint32)
        self._order = np.argsort(self._codes)

    @classmethod
    def of(cls, kind: str, text: str = "", vocab: int = 0, path: str | Path | None = None) -> TextTokens:
        """Make tokens for a text.

        Args:
            kind: what they are.
            text: the training text, from which characters or merges are taken.
            vocab: how many tokens BPE is to have.
            path: a ``tokenizer.json`` (``.gz``) in the place of training BPE.

        Raises:
            ConfigError: another kind, or too few tokens.
            DataError: ``path`` cannot be read.
        """
        match kind:
            case "characters":
                return cls("characters", "".join(sorted(set(text))))
            case "bytes":
                return cls("bytes")
            case "bpe":
                return cls("bpe", tokenizer=_trained(text, vocab) if path is None else _read(Path(path)))
        raise ConfigError(f"tokens kind={kind!r}: use 'characters', 'bytes' or 'bpe'.")

    @property
    def vocab(self) -> int:
        """How many tokens there are."""
        if self.kind == "bytes":
            return 256
        return len(self.characters) + 1 if self.kind == "characters" else int(self.tokenizer.get_vocab_size())

    def encode(self, text: str) -> Ids:
        """Return the tokens of a text.

        Raises:
            DataError: it holds half a character, such as bytes of a command line that are not UTF-8.
        """
        try:
            return self._encoded(text)
        except UnicodeEncodeError as error:
            raise DataError(
                f"The text holds what is no character, {text[error.start]!r}, at place {error.start}; is it UTF-8?"
            ) from error

    def unknown(self, text: str) -> str:
        """Return the characters of a text that the one token of unknown ones stands for, each once.

        Example:
            >>> TextTokens.of("characters", "banana").unknown("bad band")
            'd '
        """
        return "".join(dict.fromkeys(c for c in text if c not in self.characters)) if self.kind == "characters" else ""

    def _encoded(self, text: str) -> Ids:
        match self.kind:
            case "bytes":
                return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)
            case "characters":
                if not self.characters:
                    return np.zeros(len(text), np.int32)  # all are unknown
                codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
                places = np.searchsorted(self._codes, codes, sorter=self._order)
                found = self._order[np.minimum(places, len(self._codes) - 1)]
                return np.where(self._codes[found] == codes, found, len(self._codes)).astype(np.int32)
            case "bpe":
                text.encode("utf-8")  # the package raises a TypeError that names no place
                pieces = self.tokenizer.encode_batch(_pieces(text), add_special_tokens=False)
                return np.array([i for piece in pieces for i in piece.ids], np.int32)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; what is no text becomes a replacement character.

        Raises:
            DataError: they are no tokens.
        """
        self._check(ids)
        match self.kind:
            case "bytes":
                return bytes(ids).decode("utf-8", errors="replace")
            case "characters":
                return "".join(self.characters[i] if i < len(self.characters) else _UNKNOWN for i in ids)
            case "bpe":
                return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def _check(self, ids: Sequence[int]) -> None:
        """Refuse what is no token; a vocabulary of BPE may have gaps, so its numbers may go further than there are."""
        found = np.asarray(ids)
        most = np.iinfo(np.uint32).max if self.kind == "bpe" else self.vocab - 1
        if len(found) and (found.dtype.kind not in "iu" or found.ndim != 1 or found.min() < 0 or found.max() > most):
            what = f"{found.dtype} {found.shape}"
            if found.dtype.kind in "iu" and found.ndim == 1:
                what = str(found.min() if found.min() < 0 else found.max())
            raise DataError(f"decode(): {what} is no token; they are whole numbers from 0 to {self.vocab - 1}.")

    def units(self, text: str) -> int:
        """Return what bits per character are counted by: bytes of the kind ``"bytes"``, else characters."""
        return len(text.encode("utf-8")) if self.kind == "bytes" else len(text)

    def parts(self, text: str, streams: int) -> tuple[Ids, float]:
        """Cut a text into equal parts, for measuring how well a model predicts it.

        Args:
            text: the text; what is behind the last whole part is left out.
            streams: how many parts.

        Returns:
            The tokens ``(streams, length)``, and how many characters (see :meth:`units`) all but the first tokens of
            the parts stand for: their share of the text's.

        Raises:
            ConfigError: ``streams`` is no number from 1.
            DataError: a part would have fewer than two tokens.

        Example:
            >>> parts, characters = TextTokens.of("characters", "banana").parts("banana", 2)
            >>> parts.tolist(), characters
            ([[1, 0, 2], [0, 2, 0]], 4.0)
        """
        given: object = streams
        if not isinstance(given, Integral) or streams < 1:
            raise ConfigError(f"streams={streams!r}: use a whole number from 1.")
        ids = self.encode(text)
        length = len(ids) // streams
        if length < 2:
            raise DataError(f"The text has {len(ids)} tokens, fewer than two for each of {streams} streams.")
        predicted = streams * (length - 1)
        return ids[: streams * length].reshape(streams, length), self.units(text) * predicted / len(ids)

    def same(self, other: TextTokens) -> bool:
        """Whether both give every text the same tokens."""
        return (self.kind, self.characters) == (other.kind, other.characters) and (
            self.tokenizer is None or self.tokenizer.to_str() == other.tokenizer.to_str()
        )

    def save(self, folder: Path) -> None:
        """Write ``tokens.json``, and ``tokenizer.json`` of BPE, into a folder."""
        write_whole(folder / "tokens.json", json.dumps(self._facts()).encode())
        if self.tokenizer is not None:
            write_whole(folder / "tokenizer.json", self.tokenizer.to_str().encode())

    def _facts(self) -> dict[str, Any]:
        return {"format": _FORMAT, "kind": self.kind, "characters": self.characters}

    def to_data(self) -> dict[str, Any]:
        """Return all of it as JSON-ready data, of BPE with the whole ``tokenizer.json``.

        Example:
            >>> TextTokens.from_data(TextTokens.of("characters", "ab").to_data()).decode([1, 0])
            'ba'
        """
        return {**self._facts(), "tokenizer": None if self.tokenizer is None else self.tokenizer.to_str()}

    @classmethod
    def from_data(cls, data: Any, source: str = "The data") -> TextTokens:
        """Return what :meth:`to_data` gave; raises :class:`DataError` if it is something else."""
        known = isinstance(data, dict) and data.get("format") == _FORMAT and isinstance(data.get("characters"), str)
        if not known or data.get("kind") not in get_args(Kind):
            raise DataError(f"{source} does not say what a token is.")
        tokenizer = None
        if data["kind"] == "bpe":
            tokenizer = _parsed(str(data.get("tokenizer")), source)
        return cls(data["kind"], data["characters"], tokenizer)

    @classmethod
    def load(cls, folder: Path) -> TextTokens:
        """Read what :meth:`save` wrote; raises :class:`DataError` if it is not there."""
        path = folder / "tokens.json"
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read: {error}. A folder of sxq train holds it beside the model."
            ) from error
        if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
            raise DataError(f"{path} does not say what a token is.")
        kind = facts["kind"]
        return cls(kind, facts["characters"], _read(folder / "tokenizer.json") if kind == "bpe" else None)


def _pieces(text: str) -> list[str]:
    """Cut a long text behind line ends, where no token of BPE goes on."""
    pieces, start = [], 0
    while start < len(text):
        end = text.find("\n", start + _PIECE)
        # A token may hold several line ends, and spaces behind them.
        while end != -1 and end + 1 < len(text) and text[end + 1].isspace():
            end = text.find("\n", end + 1)
        end = len(text) if end == -1 else end + 1
        pieces.append(text[start:end])
        start = end
    return pieces


def _trained(text: str, vocab: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab < 257:
        raise ConfigError(f"tokens vocab={vocab}: byte-level BPE has 256 tokens before the first merge; use more.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_pieces(text), trainer)
    return tokenizer


def _read(path: Path) -> Any:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} is no tokenizer.json: {error}.") from error
    return _parsed(text, str(path))


def _parsed(text: str, source: str) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the package raises plain Exception
        raise DataError(f"{source} is no tokenizer.json: {error}.") from error
