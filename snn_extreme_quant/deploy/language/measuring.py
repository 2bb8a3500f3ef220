"""How well a language model's file predicts a text, by the file alone, without torch."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.deploy.language.running import GptFile
from snn_extreme_quant.errors import ModelFileError

__all__ = ["file_figures"]


def file_figures(file: GptFile, text: str, streams: int = 16) -> dict[str, float]:
    """Measure a file on a text, as :func:`~snn_extreme_quant.training.text_figures.text_figures` a model in torch.

    Args:
        file: the file; the texts that it was reading are forgotten, before and after.
        text: what it is measured on, cut into equal parts that run side by side, each from the initial state.
        streams: how many parts.

    Returns:
        ``bits_per_character``, ``perplexity``, and ``tokens`` that were predicted: the first of a part is not.

    Raises:
        ConfigError: ``streams`` is no number from 1.
        DataError: a part has fewer than two tokens.
        ModelFileError: the file does not say what a token is.
    """
    if file.tokens is None:
        raise ModelFileError(f"{file.path} does not say what a token is; export it from a folder of sxq train.")
    parts, characters = file.tokens.parts(text, streams)
    length = parts.shape[1]
    file.reset()
    # Token by token: a file gives the logits of the last token alone, unless it was asked for all.
    nats = math.fsum(_nats(file.run(parts[:, place : place + 1]), parts[:, place + 1]) for place in range(length - 1))
    file.reset()
    predicted = streams * (length - 1)
    return {
        "bits_per_character": nats / math.log(2.0) / characters,
        "perplexity": math.exp(nats / predicted),
        "tokens": predicted,
    }


def _nats(logits: npt.NDArray[np.float32], wanted: npt.NDArray[np.int32]) -> float:
    """Return the negative log-likelihood of the tokens that follow, summed over the streams."""
    rows = (logits[:, -1] if logits.ndim == 3 else logits).astype(np.float64)
    rows -= rows.max(1, keepdims=True)
    return float((np.log(np.exp(rows).sum(1)) - rows[np.arange(len(wanted)), wanted]).sum())
