"""SpikeGPT in whole numbers: what ``profile="integer"`` puts in the place of the branches of :mod:`.spike_gpt`.

Equations, grids and bounds: ``docs/spike_gpt.md``, *In whole numbers*.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from snn_extreme_quant.models.gpt.exact import STREAM_BITS
from snn_extreme_quant.models.gpt.integer_parts import (
    CURRENT,
    GATE,
    KEY,
    LOGIT,
    NORM,
    SQUARED,
    VALUE,
    Units,
    input_units,
    whole_average,
    whole_gated,
    whole_mean,
    whole_mixed,
    whole_norm,
    whole_product,
    whole_squared,
)
from snn_extreme_quant.models.gpt.spike_gpt import Block, ChannelMix, Ends, TimeMix

__all__ = ["STREAM", "IntegerBlock", "IntegerChannelMix", "IntegerEnds", "IntegerTimeMix", "current_units"]

STREAM = Units(STREAM_BITS, 2**19 - 1)


def current_units(tau: float) -> Units:
    """Return the grid of currents, which products give divided by tau."""
    return CURRENT._replace(factor=1.0 / tau)


def _mixed(part: TimeMix | ChannelMix, y: Tensor, memory: dict[str, Tensor], *names: str) -> tuple[Tensor, ...]:
    """Return what some products read of each token and its predecessor."""
    key = f"{part.prefix}_before"
    grids = [input_units(getattr(part, name), "norm") for name in names]
    found = whole_mixed(y, memory[key], [getattr(part, f"time_mix_{name[0]}") for name in names], grids)
    memory[key] = NORM.of(y[-1].detach()).int()
    return found


def _product(part: nn.Module, name: str, x: Tensor, gives: Units, kind: str = "norm") -> Tensor:
    layer = cast("nn.Module", getattr(part, name))
    return whole_product(layer, x, input_units(layer, kind), gives)


class IntegerTimeMix(TimeMix):
    """SRWKV in whole numbers."""

    def forward(self, y: Tensor, memory: dict[str, Tensor]) -> Tensor:
        """Return the branch's spikes."""
        k, v, r = _mixed(self, y, memory, "key", "value", "receptance")
        key, value = _product(self, "key", k, KEY), _product(self, "value", v, VALUE)
        average, memory["numerator"], memory["denominator"] = whole_average(
            self.time_decay, self.time_first, key, value, memory["numerator"], memory["denominator"]
        )
        read = whole_gated(_product(self, "receptance", r, GATE), average, VALUE, input_units(self.output, "norm"))
        return self.fire(_product(self, "output", read, current_units(self.config.tau)), memory)


class IntegerChannelMix(ChannelMix):
    """SRFFN in whole numbers."""

    def forward(self, y: Tensor, memory: dict[str, Tensor]) -> Tensor:
        """Return the branch's spikes."""
        k, r = _mixed(self, y, memory, "key", "receptance")
        key = whole_squared(_product(self, "key", k, SQUARED), input_units(self.value, "square"))
        value = _product(self, "value", key, current_units(self.config.tau), "square")
        return self.fire(whole_gated(_product(self, "receptance", r, GATE), value, CURRENT, CURRENT), memory)


class IntegerBlock(Block):
    """Both branches in whole numbers, each behind a norm by shifts."""

    branches = (IntegerTimeMix, IntegerChannelMix)

    def norm(self, layer: nn.LayerNorm, x: Tensor) -> Tensor:
        """Return what a branch reads."""
        return whole_norm(layer, x, NORM)


class IntegerEnds(Ends):
    """Ends in whole numbers."""

    def start(self, layer: nn.LayerNorm, x: Tensor) -> Tensor:
        """Return the stream before the first layer."""
        return whole_norm(layer, x, STREAM)

    def features(self, x: Tensor) -> Tensor:
        """Return what the head reads."""
        return whole_norm(self.model.ln_out, x, self._grid)

    def logits(self, features: Tensor) -> Tensor:
        """Return the head's product."""
        return whole_product(self.model.head, features, self._grid, LOGIT)

    def logits_of_mean(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return the head's product with the mean over the tokens of each text, rounded."""
        inside = torch.arange(len(features), device=lengths.device).unsqueeze(1) < lengths
        return self.logits(whole_mean(features * inside.unsqueeze(2), lengths, self._grid))

    @property
    def _grid(self) -> Units:
        return input_units(self.model.head, "norm")
