"""Layers of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from snn_extreme_quant.layers import Conv1d, Conv2d, Linear

KINDS = {
    "linear": (Linear, nn.Linear, (12, 5), (4, 12)),
    "conv1d": (Conv1d, nn.Conv1d, (3, 5, 3), (4, 3, 11)),
    "conv2d": (Conv2d, nn.Conv2d, (3, 5, 3), (4, 3, 8, 8)),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[Any, Any, tuple[int, ...], tuple[int, ...]]:
    torch.manual_seed(0)
    return KINDS[request.param]
