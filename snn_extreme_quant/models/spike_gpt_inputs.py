"""What a SpikeGPT takes, and the products that it makes of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from snn_extreme_quant.errors import SampleError

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
    whole = ids.dim() == 2 and not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if not whole or 0 in ids.shape:
        raise SampleError(f"SpikeGPT takes token ids (B, T), B and T from 1; got {tuple(ids.shape)} of {ids.dtype}.")
    if ids.device.type == "cpu":  # elsewhere asking would wait for the device
        least, most = int(ids.min()), int(ids.max())
        if least < 0 or most >= vocab:
            wrong = least if least < 0 else most
            raise SampleError(f"The token {wrong} is not one of the model's {vocab}.")


def lengths_of(ids: Tensor, mask: Tensor | None) -> Tensor:
    """Return how many tokens each text has."""
    if mask is None:
        return torch.full((len(ids),), ids.shape[1], device=ids.device)
    fits = mask.shape == ids.shape
    lengths = mask.long().sum(-1)
    if fits:
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
        fits = torch.equal(mask.long(), inside.long()) and bool((lengths > 0).all())
    if not fits:
        raise SampleError(
            "attention_mask must have the shape of the ids, with 1 for the tokens of each text, one at least, and 0 for"
            " the pads behind them."
        )
    return lengths
