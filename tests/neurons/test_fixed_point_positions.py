"""Where the point of fixed-point neurons lies: thresholds out of reach, and channels that must not limit the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from snn_extreme_quant.errors import UnsupportedModelError
from snn_extreme_quant.neurons import NeuronSpec, neuron_sequence
from snn_extreme_quant.neurons.fixed_point import FixedPointNeuron, IntegerCurrent, IntegerSum, fold_neuron
from snn_extreme_quant.neurons.fixed_point_dynamics import fixed_point_sequence
from snn_extreme_quant.neurons.fixed_point_spec import NEVER, STATE_LIMIT

INTEGRATE = NeuronSpec("integrate", "ge", "subtract", "same_step")
LEAK = NeuronSpec("leak", "gt", "subtract", "delayed")


def _double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _folded(
    spec: NeuronSpec, threshold: Tensor, scale: Tensor, high: int = 9, bias: Tensor | float = 0.0, **more: Any
) -> FixedPointNeuron:
    parameters = {"threshold": threshold, **({"decay": torch.tensor(0.9)} if spec.charge == "leak" else {})}
    current = IntegerCurrent((IntegerSum(scale, -high, high),), torch.as_tensor(bias, dtype=torch.float64))
    return fold_neuron(spec, parameters, current, layer="fc", **more)


def _spikes(neuron: FixedPointNeuron, sums: Tensor) -> Tensor:
    return fixed_point_sequence(neuron.spec, neuron.parameters, sums, neuron.initial, neuron.shift)[0]


@pytest.mark.parametrize("comparison", ["gt", "ge"])
@pytest.mark.parametrize("reset", ["none", "subtract", "zero"])
def test_an_infinite_threshold_is_never_reached(comparison: Any, reset: Any) -> None:
    """Not even by a potential that was clipped, far beyond max_steps, fed with the largest current there is."""
    spec = NeuronSpec("integrate", comparison, reset, "same_step")
    neuron = _folded(spec, torch.tensor(float("inf")), _double(1.0), high=2**28, max_steps=1)
    assert neuron.parameters["threshold"].item() == NEVER
    sums = torch.full((40, 1), 2**28, dtype=torch.int32)
    assert not _spikes(neuron, sums).any()
    assert not _spikes(neuron, -sums).any()


@pytest.mark.parametrize("threshold", [1e5, 1e9, 1e30, float("inf")])
@pytest.mark.parametrize("spec", [LEAK, INTEGRATE], ids=["leak", "integrate"])
def test_a_threshold_out_of_reach_costs_no_precision(spec: NeuronSpec, threshold: float) -> None:
    near = _folded(spec, _double(1.0, 1.0), _double(0.1, 0.2))
    far = _folded(spec, _double(1.0, threshold), _double(0.1, 0.2))
    assert far.fraction >= near.fraction
    assert far.steps == near.steps
    sums = torch.randint(-9, 10, (400, 2), generator=torch.Generator().manual_seed(0))
    assert torch.equal(_spikes(far, sums)[:, 0], _spikes(near, sums)[:, 0])
    assert not _spikes(far, sums)[:, 1].any()
    assert _spikes(near, sums).any()


def test_a_threshold_within_reach_is_kept() -> None:
    """One that a potential without leak reaches after max_steps is not taken for one out of reach."""
    neuron = _folded(INTEGRATE, _double(50.0), _double(1.0), high=1, max_steps=10)
    assert _spikes(neuron, torch.ones(60, 1, dtype=torch.int32)).flatten().tolist() == [0] * 49 + [1] + [0] * 10


def test_minus_infinity_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="'fc': its threshold holds NaN or infinite"):
        _folded(LEAK, torch.tensor(float("-inf")), _double(1.0))


@pytest.mark.parametrize("scale", [1e-3, 1e-5, 1e-7, 1e-9, 1e-12, 1e-30])
@pytest.mark.parametrize("bias", [0.0, 0.3, 1.7, -2.0])
@pytest.mark.parametrize("spec", [LEAK, INTEGRATE], ids=["leak", "integrate"])
def test_a_channel_all_but_switched_off(spec: NeuronSpec, scale: float, bias: float) -> None:
    """Its bias and threshold, huge in units of its sums, leave the other channel what it has by itself."""
    alone = _folded(spec, torch.tensor(1.0), _double(0.25), max_steps=100)
    both = _folded(spec, torch.tensor(1.0), _double(0.25, scale), bias=_double(0.0, bias), max_steps=100)
    assert both.fraction >= min(alone.fraction, 8)
    assert both.coarse == 0 or both.fraction >= 8
    sums = torch.randint(-9, 10, (90, 30, 2), generator=torch.Generator().manual_seed(0))
    x = (sums * _double(0.25, scale) + _double(0.0, bias)).float()
    parameters = {"threshold": torch.tensor(1.0), "decay": torch.tensor(0.9)}
    if spec.charge == "integrate":
        del parameters["decay"]
    spikes, _ = neuron_sequence(spec, parameters, x, {"v": torch.zeros(())})
    ours = _spikes(both, sums).float()
    assert (ours != spikes)[..., 0].float().mean() < 1e-3
    # Rounded constants may move a spike of the other by a step, not more: as many in all, to one.
    assert ((ours - spikes)[..., 1].sum(0).abs() <= 1).all()
    assert (spikes[..., 1].any()) == (bias > 0.1)
    assert both.bounds.potential <= STATE_LIMIT


def test_few_bits_are_reported() -> None:
    neuron = _folded(INTEGRATE, torch.tensor(1.0), _double(0.25), high=2**17, max_steps=1000)
    assert neuron.fraction < 8
    assert neuron.coarse == 1
    assert _folded(INTEGRATE, torch.tensor(1.0), _double(0.25), max_steps=1000).coarse == 0
