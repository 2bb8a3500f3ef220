"""Networks and evaluations that take no time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.precision_search import Classification


def chain(blocks: int = 2, width: int = 8) -> nn.Sequential:
    """Return a layer, blocks of two, and a layer: random, the same each time."""
    torch.manual_seed(0)
    body = [nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(blocks)]
    return nn.Sequential(nn.Linear(4, width), *body, nn.Linear(width, 3))


def trained(width: int = 24, examples: int = 400) -> tuple[nn.Sequential, Classification]:
    """Return a network that has learned a task, and its evaluator."""
    torch.manual_seed(0)
    inputs = torch.randn(examples, 6)
    labels = (inputs @ torch.randn(6, 4)).argmax(-1)
    block = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(2)]
    net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), *block, nn.Linear(width, 4))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(120):
        loss = nn.functional.cross_entropy(net(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net, Classification(lambda model, rows: model(inputs[rows]), labels)


def bits_of(model: nn.Module) -> dict[str, int]:
    """Return how many bits each layer has; 32 of float ones."""
    return {
        name: layer.config.bits if isinstance(layer, IntegerFirst) else 32
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Linear, nn.Embedding))
    }


def costs(table: dict[str, dict[int, float]], join: Callable[..., float] = max) -> Callable[[nn.Module], float]:
    """Return an evaluation by the bits alone: 90 minus what the layers cost, joined."""

    def evaluate(model: nn.Module) -> float:
        return 90.0 - join([table[name].get(bits, 0.0) for name, bits in bits_of(model).items()])

    return evaluate
