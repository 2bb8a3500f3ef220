from __future__ import annotations

import pytest
import torch

from snn_extreme_quant import SpikeTrain, SynchronousIF, set_schedule
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.equilibrium import ChannelIF, average_rate, steady_state
from snn_extreme_quant.neurons.equilibrium_steps import StepIF, on_grid
from snn_extreme_quant.neurons.fixed_point_solvers import Solver, solve_fixed_point


@pytest.mark.parametrize("signed", [False, True])
def test_rates_settle_at_the_steady_state_as_one_over_t(signed):
    torch.manual_seed(0)
    current, threshold = torch.randn(2000) * 2, torch.tensor(1.5)
    for T in (4, 16, 64):
        neuron = StepIF(T, threshold=1.5, signed=signed)
        neuron.mode = "surrogate"
        rate = average_rate(neuron(current, constant=True))
        error = (rate - steady_state(current, threshold, signed)).abs().max()
        assert 0.3 / T < error <= 1.0 / T + 1e-3


@pytest.mark.parametrize("signed", [False, True])
def test_rates_with_feedback_settle_at_the_fixed_point_as_one_over_t(signed):
    """Two layers in a cycle, linear currents: s1 reads x and the last spikes of s2, s2 reads s1."""
    torch.manual_seed(0)
    x, forward, back = torch.randn(40), torch.randn(40, 40) / 12, torch.randn(40, 40) / 12
    theta = torch.tensor(0.8)

    def both(rates):
        first = steady_state(x + back @ rates, theta, signed)
        return steady_state(forward @ first, theta, signed)

    settled = solve_fixed_point(both, torch.zeros(40), Solver(tolerance=1e-6)).value
    assert settled.abs().max() > 0.2
    for T in (16, 64, 256):
        first, second = (StepIF(T, threshold=0.8, signed=signed, start=0.5) for _ in range(2))
        for neuron in (first, second):
            neuron.mode, neuron.continues = "surrogate", True
            neuron.restart()
        spikes = torch.zeros(40)
        for _ in range(T):
            spikes = second((forward @ first((x + back @ spikes)[None])[0])[None])[0]
        assert (second.last - settled).abs().max() < 4.0 / T
    assert (second.last - settled).abs().max() > 0


@pytest.mark.parametrize("leak", [1.0, 0.9])
@pytest.mark.parametrize("signed", [False, True])
def test_a_simulation_in_parts_is_the_whole_one(leak, signed):
    torch.manual_seed(0)
    currents = torch.randn(10, 50)
    whole, parts = (StepIF(10, signed=signed, leak=leak, start=0.25) for _ in range(2))
    whole.mode = parts.mode = "surrogate"
    expected = whole(currents)
    parts.continues = True
    for _ in range(2):  # a second simulation starts anew
        parts.restart()
        found = torch.cat([parts(part) for part in currents.split((1, 4, 5))])
        assert torch.equal(found, expected)
        torch.testing.assert_close(parts.last, average_rate(expected, leak))
    torch.testing.assert_close(whole.last, average_rate(expected, leak))


def test_average_rate_weighs_by_the_leak():
    spikes = (torch.rand(5, 7) < 0.5).float()
    weights = torch.tensor([0.9**4, 0.9**3, 0.9**2, 0.9, 1.0])
    torch.testing.assert_close(average_rate(spikes, 0.9), (weights[:, None] * spikes).sum(0) / weights.sum())


@pytest.mark.parametrize("signed", [False, True])
def test_synchronous_rates_and_gradients_are_those_of_synchronous_if(signed):
    torch.manual_seed(0)
    values = torch.randn(50, 3) * 2
    plain = SynchronousIF(8, threshold=0.7, signed=signed, learn_threshold=True)
    ours = ChannelIF(8, None, 0.7, signed)
    with torch.no_grad():
        plain.threshold.copy_(ours.threshold)
    a, b = values.clone().requires_grad_(), values.clone().requires_grad_()
    first, second = plain(a), ours(b)
    assert torch.equal(first, second)
    weights = torch.randn_like(first)
    (first * weights).sum().backward()
    (second * weights).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    # d/d log threshold = threshold d/d threshold
    torch.testing.assert_close(plain.threshold.grad * ours.threshold, ours.log_threshold.grad)


def test_each_channel_has_its_threshold_on_both_schedules():
    neuron = ChannelIF(8, 3)
    neuron.set_thresholds(torch.tensor([0.5, 1.0, 2.0]))
    current = torch.full((2, 3), 0.5)
    assert neuron(current)[0].tolist() == [1.0, 0.5, 0.25]
    set_schedule(neuron, "spikes")
    train = neuron(current)
    assert isinstance(train, SpikeTrain)
    assert train.rates[0].tolist() == [1.0, 0.5, 0.25]


def test_equilibrium_does_not_round():
    neuron = ChannelIF(2, None)
    neuron.mode = "equilibrium"
    assert neuron(torch.tensor([0.3, 7.0, -1.0])).tolist() == pytest.approx([0.3, 1.0, 0.0])


def test_half_precision_currents_are_rated_in_float32():
    neuron = ChannelIF(16, None, 0.3)
    current = torch.randn(100).bfloat16()
    assert torch.equal(neuron(current), neuron(current.float()))


def test_thresholds_stay_positive_under_any_gradient():
    neuron = ChannelIF(4, 2)
    optimizer = torch.optim.SGD(neuron.parameters(), lr=10.0)
    neuron(torch.full((4, 2), 0.4)).sum().neg().backward()
    before = neuron.threshold.clone()
    optimizer.step()
    assert (neuron.threshold > 0).all()
    assert (neuron.threshold < before).all()  # more spikes need a lower threshold


def test_simulated_value_with_the_gradient_of_the_steady_state():
    neuron = StepIF(3)
    neuron.mode = "surrogate"
    current = torch.tensor([0.5, 1.5, -0.5], requires_grad=True)
    with torch.no_grad():
        rate = average_rate(neuron(current, constant=True))
    neuron.mode = "simulated"
    found = neuron(current)
    assert torch.equal(found, rate)
    found.sum().backward()
    assert current.grad.tolist() == [1.0, 0.0, 0.0]


def test_the_grid_makes_sums_exact():
    torch.manual_seed(0)
    currents = on_grid(torch.randn(16, 1000) * 100, torch.tensor(0.37), 16)
    assert torch.equal(currents * 4096, (currents * 4096).round())
    assert torch.equal(currents.double().cumsum(0), currents.cumsum(0).double())


def test_surrogate_gradient_goes_through_time():
    neuron = StepIF(4)
    neuron.mode = "surrogate"
    currents = torch.full((4, 1), 0.4, requires_grad=True)
    neuron(currents)[-1].sum().backward()
    assert (currents.grad != 0).all()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ChannelIF(6), "T=6"),
        (lambda: ChannelIF(4, None, 0.0), "threshold"),
        (lambda: StepIF(0), "T=0"),
        (lambda: StepIF(4, leak=1.5), "leak"),
        (lambda: StepIF(4, start=0.1), "start"),
        (lambda: StepIF(4)(torch.zeros(2)), "surrogate"),
    ],
)
def test_what_means_nothing_is_refused(make, field):
    with pytest.raises(ConfigError, match=field):
        make()
