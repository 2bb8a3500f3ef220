"""The neuron of the synchronous schedule, and the verbs that switch it."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from snn_extreme_quant import SpikeTrain, SynchronousIF, Ternary, quantize_, reset, schedule, set_schedule
from snn_extreme_quant.errors import ConfigError, UnsupportedNeuronError
from snn_extreme_quant.frameworks import neurons_of
from snn_extreme_quant.neurons import spikes_first, synchronous_count

STEPS = [1, 2, 4, 8, 16, 32, 64, 128]


def fired_one_by_one(currents: Tensor, threshold: float, signed: bool) -> Tensor:
    """An integrate-and-fire neuron that takes in everything and then fires, in double precision."""
    v = threshold / 2 + currents.double().sum(0)
    spikes = []
    for _ in range(currents.shape[0]):
        s = (v >= threshold).double() - ((v < 0).double() if signed else 0.0)
        v = v - s * threshold
        spikes.append(s.float())
    return torch.stack(spikes)


@given(st.sampled_from(STEPS), st.sampled_from([0.25, 0.5, 1.0, 2.0]), st.booleans(), st.integers(0, 10_000))
def test_it_is_the_neuron_that_takes_in_everything_and_then_fires(
    steps: int, threshold: float, signed: bool, seed: int
) -> None:
    # Multiples of 1/8: potentials meet thresholds exactly, and nothing is rounded.
    currents = torch.randint(-12, 20, (steps, 30), generator=torch.Generator().manual_seed(seed)) / 8
    neuron = SynchronousIF(steps, threshold, signed)
    set_schedule(neuron, "spikes")
    fired = neuron(SpikeTrain(currents)).spikes
    assert torch.equal(fired, fired_one_by_one(currents, threshold, signed))
    set_schedule(neuron, "counts")
    assert torch.equal(neuron(currents.mean(0)), fired.mean(0))


@given(st.sampled_from(STEPS), st.booleans())
def test_spikes_come_first_and_are_as_many_as_counted(steps: int, signed: bool) -> None:
    counts = torch.arange(-steps if signed else 0, steps + 1).float()
    spikes = spikes_first(counts, steps)
    assert torch.equal(spikes.sum(0), counts)
    assert bool((spikes.abs().diff(dim=0) <= 0).all())
    assert set(spikes.unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_half_a_threshold_is_enough_for_the_first_spike() -> None:
    just = torch.tensor([0.125, 0.1249, -0.125, -0.1251])
    assert synchronous_count(just, torch.tensor(1.0), 4, signed=True).tolist() == [1.0, 0.0, 0.0, -1.0]


@pytest.mark.parametrize("steps", [0, 3, 12, 256, -4, 2.0, True, None])
def test_other_numbers_of_steps_are_refused(steps: object) -> None:
    with pytest.raises(ConfigError, match=r"use 1, 2, 4, 8, 16, 32, 64 or 128.*exact"):
        SynchronousIF(steps)  # type: ignore[arg-type]


def test_a_train_of_another_number_of_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="T=5"):
        SpikeTrain(torch.zeros(5, 2))
    with pytest.raises(ConfigError, match="all steps"):
        SpikeTrain(torch.tensor(1.0))


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf")])
def test_thresholds_are_positive(threshold: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        SynchronousIF(4, threshold)


def test_switches_are_true_or_false() -> None:
    with pytest.raises(ConfigError, match="signed=1"):
        SynchronousIF(4, signed=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("on", ["counts", "spikes"])
def test_gradient(signed: bool, on: str) -> None:
    neuron = SynchronousIF(8, threshold=2.0, signed=signed, learn_threshold=True)
    set_schedule(neuron, on)  # type: ignore[arg-type]
    current = torch.tensor([-3.0, -1.0, 0.5, 1.5, 2.5], requires_grad=True)
    given = neuron(current)
    rates = given.rates if isinstance(given, SpikeTrain) else given
    assert torch.equal(rates.detach(), synchronous_count(current.detach(), torch.tensor(2.0), 8, signed) / 8)
    rates.backward(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]))
    inside = torch.tensor([0.0, float(signed), 1.0, 1.0, 0.0])
    outer = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    assert torch.allclose(current.grad, inside * outer / 2.0)
    assert torch.allclose(neuron.threshold.grad, (-current.detach() / 4.0 * inside * outer).sum())


def test_training_moves_the_threshold() -> None:
    neuron = SynchronousIF(4, learn_threshold=True)
    assert dict(neuron.named_parameters())
    assert not dict(SynchronousIF(4).named_parameters())
    restored = SynchronousIF(4, threshold=3.0)
    restored.load_state_dict(SynchronousIF(4, threshold=0.5).state_dict())
    assert restored.threshold.item() == 0.5


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 6), SynchronousIF(8, 0.2), nn.Sequential(nn.Linear(6, 4), SynchronousIF(8, 0.2)))


def test_a_schedule_holds_for_a_while() -> None:
    net = network()
    x = torch.rand(3, 5)
    with schedule(net, "spikes") as same:
        assert same is net
        assert isinstance(net(x), SpikeTrain)
    assert isinstance(net(x), Tensor)
    with pytest.raises(RuntimeError, match="stop"), schedule(net, "spikes"):
        raise RuntimeError("stop")
    assert isinstance(net(x), Tensor)


def test_schedules_are_refused_by_name_and_for_other_models() -> None:
    with pytest.raises(ConfigError, match="no schedule 'steps'"):
        set_schedule(network(), "steps")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no synchronous neurons"):
        set_schedule(nn.Linear(2, 2), "counts")


def test_a_train_on_the_schedule_of_counts_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="set_schedule"):
        SynchronousIF(4)(SpikeTrain(torch.zeros(4, 2)))


def test_the_package_knows_it_for_a_neuron_without_steps() -> None:
    net = network()
    assert [n.name for n in neurons_of(net)] == ["1", "2.1"]
    with pytest.raises(
        UnsupportedNeuronError, match=r"Layer '1': SynchronousIF takes in all time steps.*form='counts'"
    ):
        neurons_of(net)[0].read()


def test_a_network_of_it_is_quantised_reset_and_copied() -> None:
    net = network()
    assert len(quantize_(net, Ternary()).replaced) == 2
    x = torch.rand(3, 5)
    before = net(x)
    reset(net)
    assert torch.equal(net(x), before)
    assert torch.equal(copy.deepcopy(net)(x), before)
