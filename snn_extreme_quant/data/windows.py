"""A long text as windows of tokens, and short texts as rows of them, in the form that the training loop takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from snn_extreme_quant.data.batches import Ints, Sentences
from snn_extreme_quant.data.text_tokens import Ids, TextTokens
from snn_extreme_quant.errors import DataError

__all__ = ["Windows", "rows_of"]


class Windows(Sentences):
    """Windows of ``context`` + 1 tokens, one token of which the next window has too.

    Example:
        >>> windows = Windows.of(np.arange(8, dtype=np.int32), 3)
        >>> len(windows), windows.starts.tolist(), windows.lengths.tolist()
        (2, [0, 3], [4, 4])
    """

    @classmethod
    def of(cls, ids: Ids, context: int) -> Windows:
        """Cut a text; what is left behind the last whole window is left out.

        Raises:
            DataError: the text is shorter than a window.
        """
        count = (len(ids) - 1) // context
        if count < 1:
            raise DataError(
                f"The training text has {len(ids)} tokens, fewer than a window of context={context} and one."
            )
        starts = np.arange(count, dtype=np.int64) * context
        ids = ids[: count * context + 1]
        return cls(ids, np.zeros(len(ids), np.int8), starts, np.zeros(count, np.float32))

    @property
    def lengths(self) -> Ints:
        """Tokens of each window."""
        return np.full(len(self), (len(self.ids) - 1) // len(self) + 1, np.int64)


def rows_of(texts: Sequence[str], labels: Sequence[float], tokens: TextTokens, max_tokens: int) -> Sentences:
    """Return texts with labels, each cut off behind ``max_tokens`` tokens.

    Raises:
        DataError: a text has no token.
    """
    encoded = [tokens.encode(text)[:max_tokens] for text in texts]
    empty = next((number for number, ids in enumerate(encoded) if not len(ids)), None)
    if empty is not None:
        raise DataError(f"The text of row {empty} is empty; a text needs a token at least.")
    ids = np.concatenate(encoded)
    starts = np.concatenate([[0], np.cumsum([len(part) for part in encoded])]).astype(np.int64)
    return Sentences(ids, np.zeros(len(ids), np.int8), starts, np.asarray(labels, np.float32))
