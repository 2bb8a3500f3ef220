"""Neurons of a framework, made through its plugin, for models of the schedule ``"step"``."""

from __future__ import annotations

from typing import Any

import torch

from snn_extreme_quant.errors import ConfigError, PluginError, UnsupportedNeuronError
from snn_extreme_quant.frameworks import NeuronReading, plugin_statuses
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.neurons.equilibrium_steps import GRID, Cell
from snn_extreme_quant.registry import suggest

__all__ = ["framework_cell"]

#: What computes the neuron of the models on its grid, without leak: the spec, its parameters besides the threshold, and
#: what is added to the first current. Compared with >, half a point of the grid makes p >= 1 of p > 1; a reset that
#: comes with the next step's charge gives the same potential, as without leak no other operation lies between.
_EQUAL: tuple[tuple[NeuronSpec, dict[str, float], float], ...] = (
    (NeuronSpec("integrate", "ge", "subtract", "same_step"), {}, 0.0),
    (NeuronSpec("leak", "gt", "subtract", "delayed"), {"decay": 1.0}, 0.5 / GRID),
)
_EQUAL_SIGNED: tuple[tuple[NeuronSpec, dict[str, float], float], ...] = (
    (NeuronSpec("integrate", "ge", "subtract", "same_step", fire="ternary"), {}, 0.0),
)


def framework_cell(name: str, signed: bool) -> Cell:
    """Make a framework's integrate-and-fire neuron with a threshold of 1.

    Args:
        name: of the framework's plugin.
        signed: whether it gives -1 too.

    Raises:
        ConfigError: there is no such plugin, or its framework has no such neuron.
        PluginError: the framework is not installed, or its plugin is disabled or broken.
    """
    statuses = {status.name: status for status in plugin_statuses()}
    if name not in statuses:
        raise ConfigError(f"neurons={name!r}: {suggest(name, statuses)}")
    framework: Any = statuses[name].framework
    if framework is None:
        raise PluginError(f"neurons={name!r}: the plugin is {statuses[name].state}: {statuses[name].detail}.")
    reasons = []
    for spec, parameters, shift in _EQUAL_SIGNED if signed else _EQUAL:
        values = {key: torch.tensor(value) for key, value in {"threshold": 1.0, **parameters}.items()}
        try:
            return Cell(framework.write_neuron(NeuronReading(spec, values)), shift, framework.reset)
        except UnsupportedNeuronError as error:
            reasons.append(str(error))
    raise ConfigError(f"neurons={name!r}, signed={signed}: {reasons[0]} Use neurons=None.")
