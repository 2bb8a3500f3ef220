"""Which frameworks the demo can show, and the network of each."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import PluginError
from snn_extreme_quant.frameworks import frameworks, plugin_statuses

__all__ = ["Recipe", "recipes"]

_MODULES = {
    "snntorch": "snn_extreme_quant.demo.network_snntorch",
    "spikingjelly": "snn_extreme_quant.demo.network_spikingjelly",
}


@dataclass(frozen=True)
class Recipe:
    """A framework's network and the loss that its users train it with."""

    framework: str
    network: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]

    def build(self, seed: int) -> nn.Module:
        """Return a network with weights drawn by Kaiming's rule, which lets deep layers fire from the start."""
        torch.manual_seed(seed)
        network = self.network()
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_uniform_(module.weight)
                nn.init.zeros_(cast("Tensor", module.bias))
        return network


def recipes() -> tuple[list[Recipe], list[str]]:
    """Return the recipes of the frameworks that are installed, and a sentence for each that is not.

    Raises:
        PluginError: no framework is installed.
    """
    available = {framework.name for framework in frameworks()}
    missing = [
        f"{s.name} is left out: {s.detail}" for s in plugin_statuses() if s.name in _MODULES and s.framework is None
    ]
    found = []
    for name, where in _MODULES.items():
        if name in available:
            module = importlib.import_module(where)
            found.append(Recipe(name, module.Network, module.loss))
    if not found:
        raise PluginError(f"The demo needs snnTorch or SpikingJelly. {'; '.join(missing)}")
    return found, missing
