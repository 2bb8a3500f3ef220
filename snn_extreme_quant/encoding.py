"""Turning real numbers into spikes."""

from __future__ import annotations

import torch
from torch import Tensor

from snn_extreme_quant.errors import SampleError

__all__ = ["rate_encode"]


def rate_encode(values: Tensor, steps: int, generator: torch.Generator | None = None) -> Tensor:
    r"""Encode values in [0, 1] as Bernoulli spike trains: :math:`P(s_t = 1) = x`.

    A network fed by spikes is verified without exception, its first layer included.

    Args:
        values: probabilities of a spike in one step, any shape.
        steps: T, the number of time steps.
        generator: source of randomness, for reproducible trains.

    Returns:
        0 and 1 in ``values``' dtype, shape ``(T, *values.shape)``.

    Raises:
        SampleError: a value is no number in [0, 1], or ``steps`` is no whole number >= 0.

    Example:
        >>> rate_encode(torch.tensor([0.0, 1.0]), steps=2).tolist()
        [[0.0, 1.0], [0.0, 1.0]]
    """
    given: tuple[object, object] = (values, steps)  # not every caller checks types
    if not isinstance(given[0], Tensor) or not given[0].is_floating_point():
        raise SampleError("rate_encode() takes a tensor of floats; use torch.as_tensor(..., dtype=torch.float32).")
    if not isinstance(given[1], int) or given[1] < 0:
        raise SampleError(f"rate_encode() takes a whole number of time steps >= 0; got {steps!r}.")
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise SampleError("rate_encode() takes values in [0, 1]; scale them first.")
    noise = torch.rand((steps, *values.shape), generator=generator, device=values.device)
    return (noise < values).to(values.dtype)
