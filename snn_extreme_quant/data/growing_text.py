"""A text that is shown while its tokens are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snn_extreme_quant.data.text_tokens import TextTokens

__all__ = ["GrowingText"]

#: What stands for bytes that are no text yet.
_UNFINISHED = "\ufffd"
#: Tokens that are decoded together at most, and how many of them stay when the others are let go.
_MOST, _KEPT = 64, 16
#: Places that are tried for the cut: a character has up to 4 bytes, so there is one between two of them.
_PLACES = 8


class GrowingText:
    """The text of tokens that come one after the other, each at the same cost.

    Decoding all tokens anew for each would take time that grows with the square of their number. Only the last ones are
    decoded, from a place on where that gives the end of the text so far.

    Args:
        tokens: what a token is.

    Example:
        >>> from snn_extreme_quant.data import TextTokens
        >>> text = GrowingText(TextTokens.of("bytes"))
        >>> [text.add(token) for token in "aé".encode()], text.rest()
        (['a', '', 'é'], '')
    """

    def __init__(self, tokens: TextTokens) -> None:
        self._tokens = tokens
        self._last: list[int] = []
        self._given = 0  # characters of their text that were handed out
        self._most = _MOST

    def add(self, token: int) -> str:
        """Return what a token adds to the text; what may become another character with the next one is kept back."""
        self._last.append(token)
        text = self._tokens.decode(self._last)
        # Of bytes that are no text all but the last are settled: more of them change one character at most.
        new = text[self._given : len(text) - text.endswith(_UNFINISHED)]
        self._given += len(new)
        if len(self._last) >= self._most:
            self._cut(text)
        return new

    def rest(self) -> str:
        """Return what was kept back, at the end of the text."""
        text = self._tokens.decode(self._last)[self._given :]
        self._given += len(text)
        return text

    def _cut(self, text: str) -> None:
        """Let go of the first tokens, at a place from which on the others give what they gave with them."""
        for kept in range(_KEPT, _KEPT + _PLACES):
            end = self._tokens.decode(self._last[-kept:])
            given = len(end) - (len(text) - self._given)
            if given >= 0 and text.endswith(end):
                self._last, self._given, self._most = self._last[-kept:], given, _MOST
                return
        self._most *= 2  # a decoder of another kind; what is tried in vain stays a small part of the cost
