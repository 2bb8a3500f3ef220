"""LIF neurons over tokens that a framework's own neuron computes, made through its plugin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import ConfigError, PluginError, UnsupportedNeuronError
from snn_extreme_quant.frameworks import NeuronReading, plugin_statuses
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.registry import suggest

__all__ = ["FrameworkTokenLIF"]

_ONE = torch.tensor(1.0)
#: What computes h = v/2 + x', s = [h >= 1], v = (1 - s) h, to the bit. Compared with >, the number below 1 stands for
#: 1; a reset that comes with the next charge finds the same h.
_EQUAL: tuple[tuple[NeuronSpec, dict[str, Tensor]], ...] = (
    (NeuronSpec("leak", "ge", "zero", "same_step"), {"threshold": _ONE, "decay": _ONE / 2}),
    (
        NeuronSpec("relax", "ge", "value", "same_step"),
        {"threshold": _ONE, "rest": _ONE * 0, "tau": _ONE * 2, "v_reset": _ONE * 0},
    ),
    (
        NeuronSpec("leak", "gt", "zero", "delayed"),
        {"threshold": torch.nextafter(_ONE, _ONE * 0), "decay": _ONE / 2},
    ),
)


class FrameworkTokenLIF(nn.Module):
    r"""As :class:`~snn_extreme_quant.neurons.token_lif.TokenLIF` with :math:`\tau = 2`, by a framework's neuron.

    Args:
        name: of the framework's plugin.

    Raises:
        ConfigError: there is no such plugin, or its framework has no such neuron.
        PluginError: the framework is not installed, or its plugin is disabled or broken.
    """

    def __init__(self, name: str) -> None:
        """Ask the plugin for the neuron."""
        super().__init__()
        statuses = {status.name: status for status in plugin_statuses()}
        if name not in statuses:
            raise ConfigError(f"neurons={name!r}: {suggest(name, statuses)}")
        framework: Any = statuses[name].framework
        if framework is None:
            raise PluginError(f"neurons={name!r}: the plugin is {statuses[name].state}: {statuses[name].detail}.")
        self.framework = framework
        with torch.device("cpu"):  # its numbers are not loaded: they may not be on the meta device
            self.neuron = _written(framework, name)
            self.potential = framework.read_neuron(self.neuron).attributes["v"]
        # A model has the same tensors whatever computes its neurons.
        self.neuron._non_persistent_buffers_set.update(self.neuron._buffers)

    def forward(self, current: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
        """Return spikes and the potential after the last token."""
        self.framework.reset(self.neuron)
        setattr(self.neuron, self.potential, potential)
        spikes = torch.stack([self.neuron(step) for step in (0.5 * current).unbind(0)])
        reached = getattr(self.neuron, self.potential)
        self.framework.reset(self.neuron)
        return spikes, torch.where(reached >= 1.0, torch.zeros_like(reached), reached)


def _written(framework: Any, name: str) -> nn.Module:
    write = getattr(framework, "write_neuron", None)
    reasons = []
    for spec, parameters in _EQUAL if write is not None else ():
        try:
            neuron: nn.Module = write(NeuronReading(spec, parameters))  # type: ignore[misc]
        except UnsupportedNeuronError as error:
            reasons.append(str(error))
        else:
            return neuron
    why = reasons[-1] if reasons else "its plugin has no write_neuron()."
    raise ConfigError(f"neurons={name!r}: {why} Use neurons=None.")
