"""``mode="surrogate"`` with a framework's neurons is the framework's own backpropagation through time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from snn_extreme_quant.models.bert.cells import framework_cell
from snn_extreme_quant.neurons.equilibrium_steps import GRID, StepIF, on_grid
from tests.models.test_spiking_bert import build

T = 6


def snntorch_leaky(currents: Tensor) -> Tensor:
    import snntorch

    neuron = snntorch.Leaky(beta=1.0, threshold=1.0, reset_mechanism="subtract", reset_delay=True)
    potential, spikes = torch.full_like(currents[0], 0.5 / GRID), []
    for current in currents:
        spike, potential = neuron(current, potential)
        spikes.append(spike)
    return torch.stack(spikes)


def spikingjelly_if(currents: Tensor) -> Tensor:
    from spikingjelly.activation_based import neuron

    node = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m")
    return node(currents)


def spikingjelly_ternary(currents: Tensor) -> Tensor:
    from spikingjelly.activation_based import neuron

    node = neuron.TernaryIFNode(v_threshold=1.0, v_reset=None, step_mode="m")
    return node(currents)


@pytest.mark.parametrize(
    ("name", "signed", "theirs"),
    [("snntorch", False, snntorch_leaky), ("spikingjelly", False, spikingjelly_if),
     ("spikingjelly", True, spikingjelly_ternary)],
)  # fmt: skip
def test_spikes_and_gradients_are_those_of_the_framework_alone(name, signed, theirs):
    torch.manual_seed(0)
    values = on_grid(torch.randn(T, 4000) * 0.7 + (0.0 if signed else 0.4), torch.tensor(1.0), T)
    weights = torch.randn(T, 4000)
    gradients, spikes = [], []
    ours = StepIF(T, signed=signed, cell=framework_cell(name, signed))
    own = StepIF(T, signed=signed)
    ours.mode = own.mode = "surrogate"
    for run in (theirs, ours, own):
        currents = values.clone().requires_grad_()
        found = run(currents)
        (found * weights).sum().backward()
        spikes.append(found.detach())
        gradients.append(currents.grad)
    assert torch.equal(spikes[0], spikes[1])
    assert torch.equal(spikes[0], spikes[2])
    assert spikes[0].abs().mean() > 0.1
    # snnTorch's potential carries the half point of the grid in another place of the sum: 1/8192 apart at most.
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-3, rtol=1e-3)
    assert (gradients[1] - gradients[2]).abs().max() > 0.05  # our own surrogate is another


@pytest.mark.parametrize(
    ("name", "slope"),
    [
        ("snntorch", lambda x: 1.0 / (1.0 + (math.pi * x) ** 2)),  # arctangent, alpha = 2
        ("spikingjelly", lambda x: 4.0 * torch.sigmoid(4.0 * x) * (1.0 - torch.sigmoid(4.0 * x))),  # sigmoid, alpha = 4
    ],
)
def test_the_gradient_of_one_step_is_the_frameworks_surrogate(name, slope):
    neuron = StepIF(1, cell=framework_cell(name, False))
    neuron.mode = "surrogate"
    current = torch.linspace(-1.0, 3.0, 65).requires_grad_()
    neuron(current[None]).sum().backward()
    torch.testing.assert_close(current.grad, slope(current.detach() - 1.0), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("name", "signed"), [("snntorch", False), ("spikingjelly", False), ("spikingjelly", True)])
def test_every_layer_of_a_model_runs_through_the_frameworks_neuron(name, signed):
    model = build(schedule="step", T=4, neurons=name, signed=signed)
    model.mode = "surrogate"
    kind = {("snntorch", False): "Leaky", ("spikingjelly", False): "IFNode", ("spikingjelly", True): "TernaryIFNode"}
    calls = []
    for _, neurons in model.named_neurons():
        assert type(neurons.cell).__name__ == kind[name, signed]
        assert type(neurons.cell).__module__.startswith(name)
        neurons.cell.register_forward_hook(lambda cell, *_: calls.append(cell))
    model(torch.tensor([[3, 1, 4]])).sum().backward()
    assert len(calls) == 4 * len(set(calls)) == 4 * len(model.named_neurons())
    for layer in model.encoder:
        assert layer.attention.key.weight.grad.abs().max() > 0
