"""A model to quantise, and a look at what must not change when quantising it is refused."""

from __future__ import annotations

from typing import Any

import snntorch as snn
import torch
from torch import Tensor, nn


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), snn.Leaky(0.9, init_hidden=True), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def snapshot(model: nn.Module) -> tuple[list[tuple[str, int, type]], list[tuple[str, int]], dict[str, Tensor]]:
    """Return what must not change when quantize_ refuses: modules, parameters and values."""
    return (
        [(name, id(m), type(m)) for name, m in model.named_modules(remove_duplicate=False)],
        [(name, id(p)) for name, p in model.named_parameters(remove_duplicate=False)],
        {name: value.clone() for name, value in model.state_dict().items()},
    )


def assert_unchanged(model: nn.Module, before: Any) -> None:
    modules, parameters, values = snapshot(model)
    assert (modules, parameters) == before[:2]
    for name, value in values.items():
        torch.testing.assert_close(value, before[2][name], rtol=0, atol=0, equal_nan=True)
