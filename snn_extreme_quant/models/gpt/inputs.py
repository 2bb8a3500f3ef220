"""What a SpikeGPT takes, and the products that it makes of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from snn_extreme_quant.errors import SampleError
from snn_extreme_quant.models.token_inputs import check_range, check_token_ids

__all__ = ["Product", "check_ids", "check_tokens", "lengths_of"]


class Product(NamedTuple):
    """A matrix product of the model.

    Args:
        name: of the layer with the weights.
        reads: ``"spikes"`` or ``"numbers"``.
        inputs: K.
        outputs: N; K N operations a token.
    """

    name: str
    reads: str
    inputs: int
    outputs: int

    @property
    def operation(self) -> str:
        """What a hardware for spikes does for it."""
        return "accumulate" if self.reads == "spikes" else "multiply-accumulate"


def check_ids(ids: Tensor, vocab: int) -> None:
    """Raise :class:`SampleError` if these are no tokens ``(B, T)`` of a vocabulary."""
    check_token_ids(ids, "SpikeGPT", "(B, T)")
    if 0 in ids.shape:
        raise SampleError(f"SpikeGPT takes token ids (B, T), B and T from 1; got {tuple(ids.shape)} of {ids.dtype}.")
    check_range("The token", ids, vocab, f"the model has vocab={vocab}")


def check_tokens(tokens: object) -> None:
    """Raise :class:`SampleError` if these are no tokens ``(B,)`` of a step."""
    if not isinstance(tokens, Tensor) or tokens.dim() != 1:
        found = f"a tensor {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise SampleError(
            f"step() takes one token of each sequence, a torch.Tensor (B,); got {found}. run() takes texts (B, T)."
        )


def lengths_of(ids: Tensor, mask: object) -> Tensor:
    """Return how many tokens each text has.

    Raises:
        SampleError: the mask is not of the shape of the ids, or is something else than 1 for tokens and, behind them,
            0 for pads.
    """
    if mask is None:
        return torch.full((len(ids),), ids.shape[1], device=ids.device)
    if isinstance(mask, Tensor) and mask.shape == ids.shape:
        tokens = mask == 1
        lengths = tokens.sum(-1)
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
        if bool((mask == inside).all()) and bool((lengths > 0).all()):
            return lengths
        late = tokens.any(1) & (mask[:, 0] == 0)
        if bool(late.any()):
            raise SampleError(
                f"attention_mask of text {int(late.int().argmax())} begins with a pad, which a SpikeGPT would read as"
                " part of the text: put pads behind the texts (padding_side='right' of a tokenizer)."
            )
    raise SampleError(
        "attention_mask must be a tensor of the shape of the ids, with 1 for the tokens of each text, one at least, and"
        " 0 for the pads behind them."
    )
