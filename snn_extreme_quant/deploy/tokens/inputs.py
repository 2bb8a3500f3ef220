"""What models of tokens take: ids, attention mask and token types, each ``(B, S)``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import SampleError, UnsupportedModelError
from snn_extreme_quant.models import SpikeGPT, SpikingBert

__all__ = ["TOKEN_INPUTS", "TokenInputs", "bert_of", "token_batches", "token_inputs"]

#: Names of a file's inputs, as tokenizers have them; the last one only where the sample has it.
TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class TokenInputs:
    """A batch of token ids with their mask (1 for tokens, 0 for pads) and perhaps their types, int64 ``(B, S)``."""

    ids: Tensor
    mask: Tensor
    types: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the model is called with."""
        return (self.ids, self.mask) if self.types is None else (self.ids, self.mask, self.types)

    @property
    def named(self) -> dict[str, Tensor]:
        """What a file is run with."""
        return dict(zip(TOKEN_INPUTS, self.tensors, strict=False))


def bert_of(model: object) -> SpikingBert | None:
    """Return the one :class:`~snn_extreme_quant.models.SpikingBert` that a model is or holds, if there is one.

    Raises:
        UnsupportedModelError: there are several.
    """
    if not isinstance(model, nn.Module):
        return None
    found = [module for module in model.modules() if isinstance(module, SpikingBert)]
    if len(found) > 1:
        raise UnsupportedModelError(f"{type(model).__name__} holds {len(found)} SpikingBerts; export one at a time.")
    return found[0] if found else None


class _Limits(NamedTuple):
    """How large a model's tables are: types 0 of a model without, positions None of one for texts of any length."""

    vocab: int
    positions: int | None
    types: int


def _limits_of(model: SpikingBert | SpikeGPT) -> _Limits:
    config = model.config
    return _Limits(config.vocab, getattr(config, "positions", None), getattr(config, "types", 0))


def token_inputs(value: Any, model: SpikingBert | SpikeGPT, what: str) -> TokenInputs:
    """Read a batch.

    Args:
        value: ids alone, a tuple of ids, mask and perhaps types, or a mapping by a tokenizer's names. Without a mask
            all are tokens.
        model: for its limits.
        what: what the batch is, for messages.

    Raises:
        SampleError: it is none of these, or out of range.

    Example:
        >>> from snn_extreme_quant.models import SpikingBertConfig
        >>> bert = SpikingBert(SpikingBertConfig(vocab=9, layers=1, hidden=8, heads=2, ffn=8))
        >>> token_inputs([[1, 2]], bert, "The sample").mask.tolist()
        [[1, 1]]
    """
    if isinstance(value, Mapping):
        if TOKEN_INPUTS[0] not in value:
            raise SampleError(f"{what} has no 'input_ids'; it has {sorted(map(str, value))}.")
        parts = [value.get(name) for name in TOKEN_INPUTS]
    elif isinstance(value, tuple):
        parts = [*value[:3], None, None, None][:3]
    else:
        parts = [value, None, None]
    ids = _integers(parts[0], f"{what} ('input_ids')")
    if ids.dim() != 2 or not ids.numel():
        raise SampleError(f"{what} has token ids of shape {tuple(ids.shape)}; they are (B, S), both 1 or more.")
    known = _limits_of(model)
    if known.positions is not None and ids.shape[1] > known.positions:
        raise SampleError(f"{what} has {ids.shape[1]} tokens a text; the model takes {known.positions}. Truncate.")
    mask = torch.ones_like(ids) if parts[1] is None else _integers(parts[1], f"{what} ('attention_mask')")
    types = None if parts[2] is None else _integers(parts[2], f"{what} ('token_type_ids')")
    if types is not None and isinstance(value, (tuple, list)) and types.shape != ids.shape:
        types = None  # a data set's labels
    if types is not None and not known.types:
        raise SampleError(f"{what} has token types ('token_type_ids'), of which the model has none; leave them out.")
    limits = (("input_ids", ids, known.vocab), ("attention_mask", mask, 2), ("token_type_ids", types, known.types))
    for name, tensor, most in limits:
        if tensor is None:
            continue
        if tensor.shape != ids.shape:
            raise SampleError(f"{what} ({name!r}) has shape {tuple(tensor.shape)}, the ids {tuple(ids.shape)}.")
        if int(tensor.min()) < 0 or int(tensor.max()) >= most:
            raise SampleError(
                f"{what} ({name!r}) holds {int(tensor.min())} to {int(tensor.max())}; the model takes 0 to {most - 1}."
            )
    return TokenInputs(ids, mask, types)


def _integers(value: Any, what: str) -> Tensor:
    try:
        tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise SampleError(f"{what} is not a tensor or an array: {error}.") from error
    if tensor.is_floating_point() or tensor.is_complex():
        raise SampleError(f"{what} holds {tensor.dtype}; whole numbers are needed.")
    return tensor.long()


def token_batches(inputs: Any, model: SpikingBert | SpikeGPT) -> Iterator[TokenInputs]:
    """Return one batch, or each of an iterable of batches; errors as :func:`token_inputs`."""
    if isinstance(inputs, (Tensor, np.ndarray, Mapping, tuple)):
        yield token_inputs(inputs, model, "The input")
        return
    if not isinstance(inputs, Iterable):
        raise SampleError(f"verify() takes token ids or batches of them; got {type(inputs).__name__}.")
    for index, batch in enumerate(inputs):
        given = tuple(batch) if isinstance(batch, list) else batch
        yield token_inputs(given, model, f"Input {index}")
