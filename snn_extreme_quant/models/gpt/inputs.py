"""What a SpikeGPT takes, and the products that it makes of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from snn_extreme_quant.errors import SampleError
from snn_extreme_quant.models.token_inputs import check_range, check_token_ids

__all__ = ["Product", "check_ids", "lengths_of"]


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


def lengths_of(ids: Tensor, mask: object) -> Tensor:
    """Return how many tokens each text has."""
    if mask is None:
        return torch.full((len(ids),), ids.shape[1], device=ids.device)
    if isinstance(mask, Tensor) and mask.shape == ids.shape:
        lengths = mask.long().sum(-1)
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
        if bool((mask == inside).all()) and bool((lengths > 0).all()):
            return lengths
    raise SampleError(
        "attention_mask must be a tensor of the shape of the ids, with 1 for the tokens of each text, one at least, and"
        " 0 for the pads behind them."
    )
