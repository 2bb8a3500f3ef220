"""What a recipe says of a model that is trained from scratch: its text, and what a token is."""

from __future__ import annotations

from dataclasses import dataclass

from snn_extreme_quant.errors import ConfigError

__all__ = ["LOWER_IS_BETTER", "Holdout", "TextTask", "Tokens"]

#: Figures of which the least is the best.
LOWER_IS_BETTER = frozenset({"bits_per_character", "perplexity"})


@dataclass(frozen=True)
class TextTask:
    """Language modelling.

    Args:
        train: name of the training text in the data's folder; ``.gz``: compressed.
        dev: name of the text that is measured; empty: the last part of the training text.
        holdout: how large that part is.
        context: tokens of a window.
        streams: parts of the dev text that are measured side by side.
    """

    train: str = ""
    dev: str = ""
    holdout: float = 0.1
    context: int = 256
    streams: int = 16

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not self.train:
            raise ConfigError("[task] train is missing: the name of the training text in the folder of data.")
        if not 0.0 < self.holdout < 1.0:
            raise ConfigError(f"[task] holdout={self.holdout}: use a part of the training text, such as 0.1.")
        for name in ("context", "streams"):
            if getattr(self, name) < 1:
                raise ConfigError(f"[task] {name}={getattr(self, name)}: use 1 or more.")


@dataclass(frozen=True)
class Holdout:
    """Rows of one table as dev set, where a task has no table of its own for them.

    Args:
        table: name of the table in the data's folder, without its ending.
        holdout: part of the rows, which a fixed permutation mixes.
        fold: which part, from 0; 0 to 9 of ``holdout=0.1`` are a ten-fold cross-validation.
    """

    table: str = "train"
    holdout: float = 0.1
    fold: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not self.table:
            raise ConfigError("[task] table is empty: the name of a table in the folder of data, such as 'all'.")
        if not 0.0 < self.holdout < 1.0:
            raise ConfigError(f"[task] holdout={self.holdout}: use a part of the rows, such as 0.1.")
        folds = int(1.0 / self.holdout + 1e-9)
        if not 0 <= self.fold < folds:
            raise ConfigError(f"[task] fold={self.fold}: with holdout={self.holdout} there are 0 to {folds - 1}.")


@dataclass(frozen=True)
class Tokens:
    """What a token is.

    Args:
        kind: ``"characters"``, ``"bytes"`` or ``"bpe"``.
        vocab: how many tokens BPE is to have.
        path: a ``tokenizer.json`` in the place of training BPE.
    """

    kind: str = "characters"
    vocab: int = 2048
    path: str = ""

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.kind not in ("characters", "bytes", "bpe"):
            raise ConfigError(f"[tokens] kind={self.kind!r}: use 'characters', 'bytes' or 'bpe'.")
        if self.kind == "bpe" and self.vocab < 257 and not self.path:
            raise ConfigError(f"[tokens] vocab={self.vocab}: byte-level BPE needs more than 256.")
