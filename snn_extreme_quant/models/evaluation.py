"""A model in evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Compute without dropout and without a graph; afterwards the model is in the mode that it was in.

    Example:
        >>> net = nn.Sequential(nn.Dropout(0.5)).train()
        >>> with evaluating(net):
        ...     net(torch.ones(3)).tolist()
        [1.0, 1.0, 1.0]
        >>> net.training
        True
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
