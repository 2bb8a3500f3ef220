"""Text from a SpikeGPT, token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from snn_extreme_quant.errors import SampleError
from snn_extreme_quant.models.evaluation import evaluating
from snn_extreme_quant.models.gpt.sampling import check_request, choose
from snn_extreme_quant.models.gpt.spike_gpt import SpikeGPT

__all__ = ["generate"]

#: Tokens of a prompt that go through the model together: what that takes does not grow with the prompt.
_PIECE = 256


def generate(
    model: SpikeGPT,
    prompt: Sequence[int],
    count: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[int]:
    """Yield ``count`` tokens that follow a prompt, in the recurrent form: each takes the same time and memory.

    Args:
        model: of ``head="tokens"``. It computes as in ``eval()`` mode; its training flag is as it was in between.
        prompt: tokens, one at least, and as many as there are; they go through the model some hundreds at a time.
        count: how many to make.
        temperature: as for :func:`~snn_extreme_quant.models.gpt.sampling.choose`, as the next.
        top_p: of nucleus sampling.
        seed: the tokens are a function of model and arguments alone.

    Raises:
        ConfigError: a number means nothing, or the model is a classifier.
        SampleError: the prompt is empty, is no sequence of tokens, or holds what is no token.

    Example:
        >>> from snn_extreme_quant.models import SpikeGPTConfig
        >>> model = SpikeGPT(SpikeGPTConfig(vocab=9, layers=1, hidden=8)).eval()
        >>> list(generate(model, [1, 2], 5, seed=3)) == list(generate(model, [1, 2], 5, seed=3))
        True
    """
    check_request(prompt, count, temperature, top_p, seed)
    return _tokens(model, prompt, count, temperature, top_p, np.random.default_rng(seed))


def _tokens(
    model: SpikeGPT, prompt: Sequence[int], count: int, temperature: float, top_p: float, rng: np.random.Generator
) -> Iterator[int]:
    device = model.emb.weight.device
    state = model.initial_state()
    with _computing(model):
        for piece in torch.split(_ids(prompt).to(device), _PIECE, 1):
            every, state = model.run(piece, state)
    logits = every[:, -1]
    for number in range(count):
        token = choose(logits[0].cpu().numpy(), temperature, top_p, rng)
        yield token
        if number + 1 < count:
            with _computing(model):
                logits, state = model.step(torch.tensor([token], device=device), state)


def _ids(prompt: Sequence[int]) -> torch.Tensor:
    """Return the tokens of a prompt, ``(1, L)``."""
    try:
        return torch.tensor([list(prompt)])
    except (TypeError, ValueError) as error:
        raise SampleError(f"The prompt is a sequence of tokens, whole numbers; got {error}.") from error


def _computing(model: SpikeGPT) -> AbstractContextManager[Any]:
    """Compute without dropout and without a graph; whoever takes the tokens may train the model in between."""
    return evaluating(model) if model.training else torch.no_grad()
