"""What models of tokens are called with, checked before a layer reads it.

Values are looked at on the CPU alone: elsewhere a look would wait for the device. In a graph that is recorded they are
not known yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from snn_extreme_quant.errors import SampleError

if TYPE_CHECKING:
    from snn_extreme_quant.models.bert.config import SpikingBertConfig

__all__ = ["check_bert_inputs", "check_range", "check_token_ids"]

#: What an embedding looks rows up by.
_INDICES = (torch.int64, torch.int32)


def check_token_ids(ids: object, model: str, axes: str) -> None:
    """Raise :class:`SampleError` if these are no token ids.

    Args:
        ids: what the model was given.
        model: its name.
        axes: what errors call the shape, which has two axes.
    """
    if not isinstance(ids, Tensor):
        remedy = "torch.tensor(ids) makes one, and a tokenizer does with return_tensors='pt'"
        if isinstance(ids, Mapping):
            remedy = "call it with what is in there, as batch['input_ids'], batch['attention_mask']"
        raise SampleError(f"{model} takes token ids as a torch.Tensor {axes}; got {type(ids).__name__}: {remedy}.")
    if ids.dim() != 2 or ids.dtype not in _INDICES:
        raise SampleError(
            f"{model} takes token ids {axes}, int64 or int32; got a tensor {tuple(ids.shape)} of {ids.dtype}."
        )


def check_range(what: str, values: Tensor, count: int, why: str) -> None:
    """Raise :class:`SampleError` if one of the values is not from 0 to below ``count``; off the CPU nothing is done."""
    if values.device.type != "cpu" or not values.numel() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return
    least, most = (int(end) for end in torch.aminmax(values))
    if least < 0 or most >= count:
        raise SampleError(f"{what} {least if least < 0 else most} is not one of 0 to {count - 1}: {why}.")


def check_bert_inputs(ids: object, mask: object, types: object, config: SpikingBertConfig) -> None:
    """Raise :class:`SampleError` if a SpikingBert cannot read these.

    Args:
        ids: of tokens, ``(B, S)``.
        mask: 1 for tokens and 0 for pads, of as many; or None.
        types: of as many, or None.
        config: the model's sizes.
    """
    check_token_ids(ids, "SpikingBert", f"(B, S), S up to {config.positions}")
    assert isinstance(ids, Tensor)  # noqa: S101 - for the type checker
    if ids.shape[1] > config.positions:
        raise SampleError(
            f"SpikingBert takes token ids (B, S), S up to {config.positions}; got {tuple(ids.shape)}. Truncate longer"
            " texts."
        )
    if torch.compiler.is_compiling():  # a recorded graph is for any B and S
        return
    if ids.shape[1] == 0:
        raise SampleError("SpikingBert reads the first token: a text has one at least.")
    for name, other in (("attention_mask", mask), ("types", types)):
        if other is None:
            continue
        if not isinstance(other, Tensor):
            raise SampleError(f"{name} is a torch.Tensor (B, S), as the token ids; got {type(other).__name__}.")
        if other.shape != ids.shape:
            raise SampleError(f"{name} has the shape {tuple(other.shape)}, the token ids {tuple(ids.shape)}.")
    if isinstance(types, Tensor) and types.dtype not in _INDICES:
        raise SampleError(f"types are whole numbers of 32 or 64 bit; got {types.dtype}.")
    check_range("The token", ids, config.vocab, f"the model has vocab={config.vocab}")
    if isinstance(types, Tensor):
        check_range("The type", types, config.types, f"the model has types={config.types}")
    if isinstance(mask, Tensor):
        _check_mask(mask)


def _check_mask(mask: Tensor) -> None:
    if mask.device.type != "cpu" or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return
    tokens = mask == 1
    wrong = mask[~(tokens | (mask == 0))]
    if wrong.numel():
        raise SampleError(
            f"attention_mask holds {wrong[0].item():g}; it is 1 at tokens and 0 at pads, as tokenizers give it. Large"
            " negative numbers at pads are made of it here."
        )
    late = tokens.any(1) & ~tokens[:, 0]  # a text of pads alone, which fills up a batch, is none of these
    if bool(late.any()):
        raise SampleError(
            f"attention_mask of text {int(late.int().argmax())} begins with a pad, but the head reads the first token:"
            " put pads behind the texts (padding_side='right' of a tokenizer)."
        )
