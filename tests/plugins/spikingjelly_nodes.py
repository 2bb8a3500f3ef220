"""Neurons of SpikingJelly beside their specs: all combinations of options, random sequences, bit for bit."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn

from snn_extreme_quant.frameworks.testing import assert_same_bits, random_currents
from snn_extreme_quant.neurons import neuron_sequence
from snn_extreme_quant_spikingjelly import plugin

WIDTH = 4
STEPS = 12


def vector_plif() -> nn.Module:
    """A leak for each feature: SpikingJelly makes scalars, and takes what broadcasts."""
    node = neuron.ParametricLIFNode()
    node.w = nn.Parameter(torch.tensor([-1.0, 0.0, 0.5, 2.0]))
    return node


#: The memories by the names that the spec has for its states.
MEMORIES = {"v": "v", "i": "c"}


def in_mode(node: nn.Module, step_mode: str) -> nn.Module:
    """Set the mode of nodes whose constructor has no argument for it."""
    functional.set_step_mode(node, step_mode)
    return node


def check_bit_for_bit(node: Any, sequences: int, seed: int, training: bool = False) -> bool:
    """Compare neuron and spec on ``sequences`` random sequences; return whether a spike was among them."""
    reading = plugin.read_neuron(node)
    currents = random_currents(STEPS, sequences, WIDTH, reading.parameters["threshold"], seed)
    spikes, states = neuron_sequence(reading.spec, reading.parameters, currents, reading.initial_state())
    with torch.set_grad_enabled(training):
        x = currents.clone().requires_grad_(training)
        if reading.multi_step:
            own_spikes = node(x)
            own_potentials = node.v_seq if getattr(node, "store_v_seq", False) else None
        else:
            steps = [(node(step), node.v) for step in x]
            own_spikes, own_potentials = (torch.stack(values) for values in zip(*steps, strict=True))
    assert_same_bits(own_spikes, spikes, "spikes")
    for name, values in states.items():
        assert_same_bits(getattr(node, MEMORIES[name]), values[-1], f"last state {name!r}")
    if own_potentials is not None:
        assert_same_bits(own_potentials, states["v"], "membrane potentials")
    return bool(spikes.any())


COMMON = (
    (1.0, 0.3, 2.5),  # v_threshold
    (None, 0.0, -0.4, 0.25),  # v_reset
    ("s", "m"),  # step_mode
    (False, True),  # detach_reset
    (False, True),  # store_v_seq
    (False, True),  # with gradients
)


def check_grid(make: Callable[..., nn.Module], *options: Any, sequences: int, cases: int) -> None:
    """Compare ``make(*o, threshold, v_reset, step_mode, detach, store)`` for all combinations of options."""
    fired = 0
    for seed, (*chosen, training) in enumerate(itertools.product(*options, *COMMON)):
        fired += check_bit_for_bit(make(*chosen), sequences, seed, training)
    assert (seed + 1) * sequences * cases >= 10_000
    assert fired > seed * 0.9
