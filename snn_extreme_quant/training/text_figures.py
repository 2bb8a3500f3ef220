r"""How well a language model predicts a text.

.. math:: P = \exp\Big(-\frac1N \sum_i \ln p(w_i \mid w_{<i})\Big)

(2601.00679, equation 2), and the bits per character :math:`-\sum_i \log_2 p(w_i \mid w_{<i})` over their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from snn_extreme_quant.data import TextTokens
from snn_extreme_quant.models import SpikeGPT
from snn_extreme_quant.models.evaluation import evaluating
from snn_extreme_quant.models.gpt.cells import FrameworkTokenLIF
from snn_extreme_quant.neurons.token_lif import TokenLIF

__all__ = ["SpikeCount", "counted_spikes", "text_figures"]

#: Tokens of a part that go through the model together; more change nothing but the memory.
_PIECE = 256


class SpikeCount:
    """Spikes, and how many there could have been."""

    def __init__(self) -> None:
        """Begin with none."""
        self.spikes, self.places = 0.0, 0
        self.mask: Tensor | None = None

    def add(self, _: Any, __: Any, output: tuple[Tensor, Tensor]) -> None:
        """Count the spikes that a layer of neurons gives; not those at pads, where ``mask`` ``(B, T)`` is 0."""
        found = output[0].detach()
        if self.mask is not None:
            found = found[self.mask.T.bool()]
        self.spikes, self.places = self.spikes + float(found.sum()), self.places + found.numel()

    @property
    def rate(self) -> float | None:
        """Spikes of a neuron at a token; None without neurons."""
        return self.spikes / self.places if self.places else None


@contextmanager
def counted_spikes(model: SpikeGPT) -> Iterator[SpikeCount]:
    """Count the spikes of all neurons of a model."""
    count = SpikeCount()
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, (TokenLIF, FrameworkTokenLIF)):
                stack.callback(module.register_forward_hook(count.add).remove)
        yield count


@torch.no_grad()
def text_figures(model: SpikeGPT, tokens: TextTokens, text: str, streams: int = 16) -> dict[str, float]:
    """Measure a language model on a text, in float32.

    The text is cut into equal parts, which run side by side, each from the initial state; within a part a token sees
    all tokens before it. Tokens behind the last whole part are left out, and the first token of a part is not
    predicted.

    Args:
        model: of ``head="tokens"``; its training flag is as before afterwards.
        tokens: what it reads.
        text: what it is measured on.
        streams: how many parts.

    Returns:
        ``bits_per_character``, ``perplexity``, ``tokens`` that were predicted, and ``firing_rate`` of a spiking model.

    Raises:
        ConfigError: ``streams`` is no number from 1.
        DataError: a part has fewer than two tokens.
    """
    cut, characters = tokens.parts(text, streams)
    length = cut.shape[1]
    parts = torch.from_numpy(cut.astype(np.int64)).to(model.emb.weight.device)
    state, nats = model.initial_state(streams), 0.0
    with evaluating(model), counted_spikes(model) as spikes:
        for start in range(0, length - 1, _PIECE):
            stop = min(start + _PIECE, length - 1)
            logits, state = model.run(parts[:, start:stop], state)
            following = parts[:, start + 1 : stop + 1]
            losses = F.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="none")
            nats += float(losses.double().sum())
    predicted = streams * (length - 1)
    figures = {"bits_per_character": nats / math.log(2.0) / characters, "perplexity": math.exp(nats / predicted)}
    rate = {} if spikes.rate is None else {"firing_rate": spikes.rate}
    return {**figures, "tokens": float(predicted), **rate}
