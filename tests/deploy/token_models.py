"""Small SpikingBerts whose neurons fire, and batches of padded sentences for them."""

from __future__ import annotations

from typing import Any

import torch

from snn_extreme_quant.models import SpikingBert, SpikingBertConfig

__all__ = ["IDS", "MASK", "batches", "built"]

SMALL = {"vocab": 40, "positions": 16, "layers": 1, "hidden": 16, "heads": 2, "ffn": 24, "T": 4, "threshold": 0.5}
IDS = torch.randint(40, (3, 7), generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(7) < torch.tensor([[7], [4], [2]])).long()


def built(seed: int = 0, **options: Any) -> SpikingBert:
    """A model with random thresholds, norms and biases, and currents of the size of its thresholds."""
    torch.manual_seed(seed)
    model = SpikingBert(SpikingBertConfig(**{**SMALL, **options})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("log_threshold"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
            elif name.endswith("norm.weight"):
                parameter.copy_(torch.randn_like(parameter) * 0.3 + 0.8)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.2)
            elif name.startswith("encoder"):
                parameter.mul_(15.0)
    return model


def batches(count: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Sentences of different lengths, padded, some to the longest length, one alone."""
    generator = torch.Generator().manual_seed(2)
    found = [(IDS, MASK), (IDS[:1, :1], MASK[:1, :1])]
    for length in range(3, 3 + count):
        ids = torch.randint(40, (5, 2 * length), generator=generator)
        lengths = torch.randint(1, 2 * length + 1, (5, 1), generator=generator)
        found.append((ids, (torch.arange(2 * length) < lengths).long()))
    return found
