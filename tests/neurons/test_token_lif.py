from __future__ import annotations

import math

import pytest
import torch

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons import neuron_sequence
from snn_extreme_quant.neurons.token_lif import TOKEN_LIF, TokenLIF, unit_step


def currents(tokens=60, size=40, scale=3.0):
    return torch.randn(tokens, 2, size, generator=torch.Generator().manual_seed(0)) * scale


@pytest.mark.parametrize("tau", [2.0, 3.0, 1.25])
def test_it_is_the_neuron_of_its_spec(tau):
    x = currents()
    x[5] = 2.0  # lands on the threshold from a potential of 0
    start = torch.rand(2, 40)
    spikes, potential = TokenLIF(tau)(x, start)
    parameters = {"threshold": torch.tensor(1.0), "decay": torch.tensor(1.0 - 1.0 / tau)}
    expected, states = neuron_sequence(TOKEN_LIF, parameters, x * (1.0 / tau), {"v": start})
    assert torch.equal(spikes, expected)
    assert torch.equal(potential, states["v"][-1])
    assert 0.1 < spikes.mean() < 0.9


def slow(x, v, tau, detach):
    """The equations, with torch's own gradient of everything but the step."""
    spikes = []
    for step in x:
        h = (1.0 - 1.0 / tau) * v + step / tau
        hard = (h >= 1.0).to(h.dtype)
        soft = torch.atan(math.pi * (h - 1.0)) / math.pi
        s = hard + (soft - soft.detach())
        v = h * (1.0 - (s.detach() if detach else s))
        spikes.append(s)
    return torch.stack(spikes), v


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("tau", [2.0, 4.0])
def test_gradient_through_time(tau, detach):
    x, v = currents(12, 7).double().requires_grad_(), torch.rand(2, 7).double().requires_grad_()
    weights = torch.randn(12, 2, 7, dtype=torch.float64)
    found = []
    for run in (TokenLIF(tau, detach), lambda x, v: slow(x, v, tau, detach)):
        spikes, last = run(x, v)
        found.append(torch.autograd.grad((spikes * weights).sum() + (last * last).sum(), (x, v)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.abs().max() > 0


def test_the_unit_step_reads_the_sign_bit():
    x = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 3.0], requires_grad=True)
    y = unit_step(x)
    assert y.tolist() == [1.0, 0.0, 1.0, 0.0, 1.0]
    y.sum().backward()
    torch.testing.assert_close(x.grad, 1.0 / (1.0 + (math.pi * x.detach()) ** 2))


@pytest.mark.parametrize("tau", [1.0, 0.5, float("inf"), float("nan")])
def test_no_tau(tau):
    with pytest.raises(ConfigError, match="tau"):
        TokenLIF(tau)
