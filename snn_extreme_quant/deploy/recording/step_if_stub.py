"""What stands in for the neurons of the schedule "step" while a model is recorded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from snn_extreme_quant.deploy.lowering import operators
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.neurons.equilibrium_steps import GRID, StepIF
from snn_extreme_quant.neurons.spec import Charge

__all__ = ["step_if_spec", "step_if_stub"]


def step_if_spec(neuron: StepIF) -> NeuronSpec:
    """Return the equations of the neuron on its grid: threshold 1, and without a leak the potential times nothing.

    A framework's neuron inside gives the same spikes on that grid, so the spec is the same.
    """
    charge: Charge = "integrate" if neuron.leak == 1.0 else "leak"
    return NeuronSpec(charge, "ge", "subtract", "same_step", fire="ternary" if neuron.signed else "spike")


def step_if_stub(neuron: StepIF, name: str) -> Callable[..., Tensor]:
    """Return what takes the place of the neuron's ``forward`` in the mode "surrogate"."""
    spec = step_if_spec(neuron)
    threshold = neuron.threshold.detach().clone()
    values = {"threshold": 1.0, "decay": neuron.leak}
    parameters = [torch.tensor(values[parameter]) for parameter in spec.parameter_names]
    start = torch.tensor(neuron.start)

    def forward(current: Tensor, constant: bool = False) -> Tensor:
        most = 1024.0 / neuron.T
        scaled = ((current / threshold).clamp(-most, most) * GRID).round() / GRID  # on_grid(), without its gradient
        if constant:
            scaled = scaled.unsqueeze(0).expand(neuron.T, *(-1,) * scaled.dim())
        spikes: Tensor = operators.neuron_sequence_op(scaled, [start], parameters, [], "", [], spec.operator, name)[0]
        return spikes

    return forward
