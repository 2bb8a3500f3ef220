"""A model whose forward pass is any function: what tracing has to get along with."""

from collections.abc import Callable
from typing import Any

import snntorch as snn
from torch import Tensor, nn


def leaky(**options: Any) -> nn.Module:
    return snn.Leaky(**{"beta": 0.9, "init_hidden": True, **options})


class Custom(nn.Module):
    """Runs a function on a layer's output."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.first, self.lif, self.second = nn.Linear(4, 4), leaky(), nn.Linear(4, 4)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)
