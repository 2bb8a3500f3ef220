"""Every readable neuron of SpikingJelly gives the bits of its spec, in every option."""

import itertools
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

from snn_extreme_quant_spikingjelly import plugin

from .spikingjelly_nodes import COMMON, WIDTH, check_bit_for_bit, check_grid, in_mode


@pytest.mark.parametrize("v_reset", COMMON[1])
def test_if_node_is_reproduced_bit_for_bit(v_reset: float | None) -> None:
    """All combinations of options, 64 sequences each: 12,288 sequences over the four cases of this test."""
    grid = itertools.product(COMMON[0], *COMMON[2:])
    for seed, (threshold, step_mode, detach, store, training) in enumerate(grid):
        node = neuron.IFNode(threshold, v_reset, surrogate.Sigmoid(), detach, step_mode, store_v_seq=store)
        assert check_bit_for_bit(node, 64, seed, training)
    assert (seed + 1) * 64 * len(COMMON[1]) >= 10_000


@pytest.mark.parametrize("v_reset", COMMON[1])
def test_lif_node_is_reproduced_bit_for_bit(v_reset: float | None) -> None:
    """All combinations of options, 12 sequences each: 13,824 sequences over the four cases of this test."""
    grid = itertools.product((2.0, 1.5, 100 / 3), (False, True), COMMON[0], *COMMON[2:])
    fired = 0
    for seed, (tau, decay_input, threshold, step_mode, detach, store, training) in enumerate(grid):
        node = neuron.LIFNode(
            tau, decay_input, threshold, v_reset, surrogate.ATan(), detach, step_mode, store_v_seq=store
        )
        fired += check_bit_for_bit(node, 12, seed, training)
    assert (seed + 1) * 12 * len(COMMON[1]) >= 10_000
    assert fired > seed * 0.9


@pytest.mark.parametrize("decay_input", [False, True])
def test_parametric_lif_node_is_reproduced_bit_for_bit(decay_input: bool) -> None:
    """All combinations of options, 12 sequences each: 13,824 sequences over the two cases of this test."""

    def make(tau: float, threshold: float, v_reset: float | None, mode: str, detach: bool, store: bool) -> nn.Module:
        return neuron.ParametricLIFNode(
            tau, decay_input, threshold, v_reset, surrogate.ATan(), detach, mode, store_v_seq=store
        )

    check_grid(make, (2.0, 1.5, 100 / 3), sequences=12, cases=2)


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_trained_leaks_are_read_as_torch_computes_them(step_mode: str) -> None:
    """Weights for which another formula of the sigmoid differs in its last bit, and random ones."""
    weights = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * 3
    odd = [w for w in weights if w.sigmoid() != 1 / (1 + (-w).exp())]
    assert odd
    for seed, w in enumerate([*odd, *weights[:10], *weights[:40].view(10, WIDTH)]):
        node = neuron.ParametricLIFNode(step_mode=step_mode)
        node.w = nn.Parameter(w.clone())
        assert check_bit_for_bit(node, 32, seed)


def test_cuba_lif_node_is_reproduced_bit_for_bit() -> None:
    """All combinations of options, 28 sequences each: 10,752 sequences."""

    def make(decays: Any, threshold: float, v_reset: float | None, mode: str, detach: bool, store: bool) -> nn.Module:
        node = neuron.CUBALIFNode(*decays, threshold, v_reset)
        node.detach_reset, node.store_v_seq = detach, store
        return in_mode(node, mode)

    check_grid(make, ((0.5, 0.75), (0.9, 1 / 3)), sequences=28, cases=1)


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_ilif_node_is_reproduced_bit_for_bit(step_mode: str) -> None:
    """All combinations of options, 72 sequences each: 10,368 sequences over the two cases of this test."""
    flags = (False, True)
    grid = itertools.product((4 / 3, 2.0, 100 / 3), (1.0, 0.3, 2.5), (1, 4), flags, flags)
    fired = 0
    for seed, (tau, threshold, levels, store, training) in enumerate(grid):
        counts = surrogate.MultiLevelSpikeCount(levels, grad_window=(-0.5, levels + 0.5))
        node = neuron.ILIFNode(tau, threshold, counts, training, step_mode, store)
        fired += check_bit_for_bit(node, 72, seed, training)
    assert (seed + 1) * 72 * 2 >= 10_000
    assert fired > seed * 0.9


def test_ilif_node_leaks_in_another_order_in_each_mode() -> None:
    """The two charges differ in their last bits, so one spec cannot serve both."""
    charges = [plugin.read_neuron(neuron.ILIFNode(step_mode=mode)).spec.charge for mode in ("s", "m")]
    assert charges == ["relax", "leak"]


TERNARY_RESETS = [None, 0.0, -0.2, 0.25]


@pytest.mark.parametrize("v_reset", TERNARY_RESETS)
def test_ternary_nodes_are_reproduced_bit_for_bit(v_reset: float | None) -> None:
    """All combinations of options, 24 sequences each: 11,520 sequences over the four cases of this test."""
    flags = (False, True)
    below = 0
    seed = 0
    for threshold, mode, detach, store, training in itertools.product((1.0, 0.3, 2.5), ("s", "m"), flags, flags, flags):
        options = (threshold, v_reset, surrogate.ATan(), detach, mode, store)
        nodes = [neuron.TernaryIFNode(*options)]
        if not store:
            nodes += [neuron.TernaryLIFNode(tau, decay, *options) for tau in (2.0, 1.5) for decay in (False, True)]
        else:
            nodes += [neuron.TernaryLIFNode(100 / 3, detach, *options)]
        for node in nodes:
            assert check_bit_for_bit(node, 24, seed, training)
            node.reset()
            currents = torch.full((2, 1, 1), -2 * threshold * 40)
            below += bool((node(currents if mode == "m" else currents[0]) == -1).any())
            seed += 1
    assert seed * 24 * 4 >= 10_000
    assert below == seed


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_half_threshold_and_simple_nodes_are_reproduced_bit_for_bit(step_mode: str) -> None:
    """All combinations of options, 64 sequences each: 11,520 sequences over the two cases of this test."""
    flags = (False, True)
    seed = 0
    for threshold, detach, training in itertools.product((1.0, 0.3, 2.5), flags, flags):
        shared: dict[str, Any] = {"v_threshold": threshold, "detach_reset": detach, "step_mode": step_mode}
        nodes = [neuron.HalfThresholdIFNode(**shared, store_v_seq=training)]
        nodes += [neuron.SimpleIFNode(v_reset=r, **shared) for r in (None, 0.0, -0.4, 0.25)]
        nodes += [neuron.SimpleLIFNode(tau, True, v_reset=r, **shared) for tau in (2.0, 100 / 3) for r in (0.0, -0.4)]
        nodes += [neuron.SimpleLIFNode(tau, False, v_reset=0.0, **shared) for tau in (2.0, 100 / 3)]
        for node in nodes:
            assert check_bit_for_bit(node, 64, seed, training)
            seed += 1
    assert seed * 64 * 2 >= 10_000


@pytest.mark.parametrize("v_reset", COMMON[1])
def test_nodes_for_online_learning_are_lif_nodes_in_evaluation(v_reset: float | None) -> None:
    """All combinations of options, 120 sequences each: 11,520 sequences over the four cases of this test."""
    flags = (False, True)
    kinds = ((neuron.SLTTLIFNode, "s"), (neuron.SLTTLIFNode, "m"), (neuron.OTTTLIFNode, "s"))
    for seed, ((cls, mode), decay, store, tau) in enumerate(itertools.product(kinds, flags, flags, (1.5, 100 / 3))):
        node = in_mode(cls(tau, decay, 0.75, v_reset, store_v_seq=store).eval(), mode)
        assert check_bit_for_bit(node, 120, seed)
    assert (seed + 1) * 120 * len(COMMON[1]) >= 10_000


@pytest.mark.parametrize("memory", ["v", "c"])
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_reset_values_of_both_memories_count(memory: str, step_mode: str) -> None:
    node = neuron.CUBALIFNode()
    node.set_reset_value(memory, 0.625)
    node.reset()
    assert plugin.read_neuron(node).initial[{"v": "v", "c": "i"}[memory]] == 0.625
    assert check_bit_for_bit(in_mode(node, step_mode), 16, 0)


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_reset_value_is_where_the_neuron_starts(step_mode: str) -> None:
    node = neuron.LIFNode(step_mode=step_mode)
    node.set_reset_value("v", 0.75)
    node.reset()
    assert plugin.read_neuron(node).initial == {"v": 0.75}
    assert check_bit_for_bit(node, 16, 0)


def test_numbers_are_read_when_they_are_asked_for() -> None:
    """A threshold changed after construction is the one that counts."""
    node = neuron.IFNode()
    node.v_threshold = 0.5
    assert plugin.read_neuron(node).parameters["threshold"].item() == 0.5
    assert check_bit_for_bit(node, 16, 0)


@pytest.mark.parametrize("surrogate_class", [surrogate.Sigmoid, surrogate.ATan, surrogate.PiecewiseQuadratic])
def test_surrogates_do_not_matter(surrogate_class: type[nn.Module]) -> None:
    assert check_bit_for_bit(neuron.LIFNode(surrogate_function=surrogate_class()), 16, 0)
