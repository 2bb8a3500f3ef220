"""Spiking networks: layers are calibrated on what they see over all time steps."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant import Ternary
from snn_extreme_quant.calibrate import gptq_
from snn_extreme_quant.config import Uniform

from .networks import STEPS, layer_model, logits, loop, mixed


@pytest.mark.parametrize("config", [Uniform(3), Ternary(scale="mse")], ids=str)
def test_a_trained_network_on_data_it_was_not_calibrated_on(trained, digits, config) -> None:
    images, _, held_out, labels = digits
    rounded = copy.deepcopy(trained)
    sxq.quantize_(rounded, config)
    calibrated = copy.deepcopy(trained)
    sxq.quantize_(calibrated, config)
    report = gptq_(calibrated, images[:400].split(100), run=loop)
    assert [entry.name for entry in report.layers] == ["fc1", "fc2"]
    assert [entry.rows for entry in report.layers] == [400 * STEPS] * 2
    want = logits(trained, held_out)
    assert (want.argmax(1) == labels).float().mean() > 0.9
    errors = [(logits(model, held_out) - want).square().mean() for model in (rounded, calibrated)]
    assert errors[1] < 0.8 * errors[0]
    agreement = [
        (logits(model, held_out).argmax(1) == want.argmax(1)).float().mean() for model in (rounded, calibrated)
    ]
    assert agreement[1] > agreement[0] - 0.02


def test_later_time_steps_count() -> None:
    """An input that speaks only at t = 1 must shape the codes: without it they would be others."""
    late, early = mixed(64, 20, seed=1), mixed(64, 20, seed=2)

    def over_time(model: nn.Module, batch: Tensor) -> None:
        for step in batch:
            model(step)

    both, first, second = (layer_model(Ternary(scale="mse")) for _ in range(3))
    entry = gptq_(both, [torch.stack([early, late])], run=over_time).layers[0]
    gptq_(first, [early])
    gptq_(second, [torch.cat([early, late])])
    assert entry.rows == 128
    assert not torch.equal(both[0].weight, first[0].weight)
    assert torch.equal(both[0].weight, second[0].weight)
    floats = layer_model(Ternary(scale="mse"))[0].weight
    errors = [F.linear(late, model[0].weight - floats).square().sum() for model in (first, both)]
    assert errors[1] < errors[0]


def test_a_later_layer_sees_the_calibrated_one_before_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 8))
    sxq.quantize_(model, Uniform(3))
    x = mixed(64, 20)
    alone = copy.deepcopy(model)
    gptq_(alone, [x], names="0")
    gptq_(model, [x])
    assert torch.equal(model[0].weight, alone[0].weight)
    gptq_(alone, [x], names="2")
    assert torch.equal(model[2].weight, alone[2].weight)


def test_spikingjelly_in_one_step_and_in_many() -> None:
    """Both step modes give the layers the same rows, and so the same codes."""
    from spikingjelly.activation_based import functional, layer, neuron

    def build(step_mode: str) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(
            layer.Conv2d(2, 4, 3), neuron.LIFNode(v_threshold=0.3), layer.Flatten(), layer.Linear(64, 5)
        )
        functional.set_step_mode(model, step_mode)
        sxq.quantize_(model, Uniform(3))
        return model

    x = mixed(6, 3, 2, 6, 6, rank=2)
    single, multi = build("s"), build("m")
    reports = [
        gptq_(single, [x], run=lambda model, batch: [model(step) for step in batch]),
        gptq_(multi, [x]),
    ]
    assert [entry.rows for entry in reports[0].layers] == [6 * 3 * 16, 6 * 3]
    assert [entry.rows for entry in reports[1].layers] == [6 * 3 * 16, 6 * 3]
    assert torch.equal(single[0].weight, multi[0].weight)
    assert torch.equal(single[3].weight, multi[3].weight)
    assert all(entry.error < entry.error_rounded for entry in reports[1].layers)
