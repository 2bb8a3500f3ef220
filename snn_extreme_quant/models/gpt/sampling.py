"""The next token from a model's logits, in numpy: the same for every runtime that gives the same logits."""

from __future__ import annotations

from collections.abc import Sized
from numbers import Integral, Real

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.errors import ConfigError, SampleError

__all__ = ["check_request", "choose"]


def check_request(prompt: object, count: object, temperature: object, top_p: object, seed: object) -> None:
    """Check what ``generate`` is called with, but for the values of the tokens.

    Raises:
        ConfigError: a number means nothing.
        SampleError: the prompt is empty, or is no sequence of tokens.
    """
    if not isinstance(temperature, Real) or not 0.0 <= float(temperature) < float("inf"):
        raise ConfigError(f"temperature={temperature!r}: use 0, the likeliest token, or a positive number.")
    if not isinstance(top_p, Real) or not 0.0 < float(top_p) <= 1.0:
        raise ConfigError(f"top_p={top_p!r}: use a probability above 0; 1 leaves all tokens.")
    for name, value in (("count", count), ("seed", seed)):
        if not isinstance(value, Integral) or value < 0:
            raise ConfigError(f"{name}={value!r}: use a whole number from 0.")
    if isinstance(prompt, (str, bytes)) or not isinstance(prompt, Sized):
        raise SampleError(
            f"The prompt is a sequence of tokens; got {type(prompt).__name__}. Tokens of a text: tokens.encode(text)."
        )
    if not len(prompt):
        raise SampleError("The prompt is empty; give one token at least, such as a line end.")


def choose(logits: npt.NDArray[np.floating], temperature: float, top_p: float, generator: np.random.Generator) -> int:
    r"""Return a token drawn from :math:`\mathrm{softmax}(z / \tau)`, among the likeliest that reach ``top_p`` together.

    Args:
        logits: z, ``(vocab,)``.
        temperature: :math:`\tau`; 0: the likeliest token, of equals the first.
        top_p: the least set of likeliest tokens of at least this probability is drawn from (nucleus sampling,
            Holtzman et al. 2020).
        generator: of random numbers; a temperature of 0 draws none.

    Example:
        >>> choose(np.array([0.0, 3.0, 1.0]), 0.0, 1.0, np.random.default_rng(0))
        1
    """
    if temperature == 0.0:
        return int(np.argmax(logits))
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    order = np.argsort(-weights, kind="stable")
    total = np.cumsum(weights[order])
    kept = int(np.searchsorted(total, top_p * total[-1])) + 1
    place = int(np.searchsorted(total[:kept], generator.random() * total[min(kept, len(total)) - 1], side="right"))
    return int(order[min(place, kept - 1, len(order) - 1)])
