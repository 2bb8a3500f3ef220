"""What ``verify`` reports of a language model: is the text the same, and every number behind it?"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TextVerification"]


@dataclass
class TextVerification:
    """The comparison of texts that torch and a file generate greedily from the same prompts.

    Args:
        tokens: how many were made, over all texts.
        different_tokens: how many of them the file chose otherwise, until the first.
        values: numbers compared: logits and the state after every token.
        different_values: how many of them are other bits.
        whole_values: numbers compared where the finished text goes through the file in one piece, and in some.
        different_whole_values: how many of them are other bits than token by token.
        first: what differs first; empty if nothing does.
    """

    tokens: int = 0
    different_tokens: int = 0
    values: int = 0
    different_values: int = 0
    whole_values: int = 0
    different_whole_values: int = 0
    first: str = ""

    @property
    def same(self) -> bool:
        """Whether tokens were made, and text and all numbers are the same."""
        return self.tokens > 0 and not (self.different_tokens or self.different_values or self.different_whole_values)

    def __str__(self) -> str:
        """Say it in a sentence."""
        said = "the same text" if not self.different_tokens else "another text"
        said += (
            f" of {self.tokens} tokens; {self.different_values} of {self.values} logits and values of the state differ"
        )
        if self.whole_values:
            said += f", and {self.different_whole_values} of {self.whole_values} where the text is read at once"
        return f"{said}; first {self.first}" if self.first else said
