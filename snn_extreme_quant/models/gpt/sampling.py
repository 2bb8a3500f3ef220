"""The next token from a model's logits, in numpy: the same for every runtime that gives the same logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.errors import ConfigError

__all__ = ["check_sampling", "choose"]


def check_sampling(temperature: float, top_p: float) -> None:
    """Raise :class:`ConfigError` for a value that means nothing."""
    if not 0.0 <= temperature < float("inf"):
        raise ConfigError(f"temperature={temperature}: use 0, the likeliest token, or a positive number.")
    if not 0.0 < top_p <= 1.0:
        raise ConfigError(f"top_p={top_p}: use a probability above 0; 1 leaves all tokens.")


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
