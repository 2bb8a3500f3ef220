"""What a layer sees, and that its output error falls."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant import Binary, Ternary
from snn_extreme_quant.calibrate import gptq_, gptq_codes
from snn_extreme_quant.calibrate.inputs import rows_of
from snn_extreme_quant.config import Uniform
from snn_extreme_quant.layers import Conv1d, Conv2d, Conv3d, Linear

from .networks import layer_model, mixed

CONFIGS = [
    Uniform(3),
    Uniform(3, per="tensor", scale="mse"),
    Uniform(4, per="group", group_size=3),
    Ternary(scale="mse"),
    Ternary(scale="twn"),
    Ternary(scale="learned"),
    Ternary(per="group", group_size=5),
    Binary(),
]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Linear(6, 4, bias=False), (3, 2, 6)),
        (Linear(6, 4, bias=False), (6,)),
        (Conv1d(4, 6, 3, padding=1, bias=False), (2, 4, 9)),
        (Conv1d(4, 6, 3, bias=False), (4, 9)),
        (Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False), (2, 4, 9, 8)),
        (Conv2d(4, 6, 3, padding="same", groups=2, bias=False), (2, 4, 5, 6)),
        (Conv2d(4, 8, 3, padding=1, padding_mode="circular", groups=4, bias=False), (2, 4, 5, 6)),
        (Conv3d(2, 4, 2, stride=2, bias=False), (2, 2, 4, 5, 6)),
    ],
    ids=str,
)
def test_rows_times_weights_are_the_product(layer, shape) -> None:
    torch.manual_seed(0)
    x = torch.rand(shape)
    rows = rows_of(layer)(layer, x)
    weight = layer.dequantised().detach().flatten(1).unflatten(0, (rows.shape[0], -1))
    output = (rows @ weight.transpose(1, 2)).movedim(0, 1).flatten(1)  # (M, N)
    want = layer(x).detach()
    axis = -1 if isinstance(layer, Linear) else layer._input_axis
    torch.testing.assert_close(output, want.movedim(axis, -1).reshape(-1, want.shape[axis]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_output_error_falls_and_the_report_says_by_how_much(config) -> None:
    model = layer_model(config)
    layer, x = model[0], mixed(64, 20)
    weight = layer.weight.detach().clone()

    def error() -> float:
        return (F.linear(x, layer.dequantised() - weight).square().sum() / F.linear(x, weight).square().sum()).item()

    before, scale = error(), layer.integer_weight()[1].clone()
    (entry,) = gptq_(model, [x[:32], x[32:]]).layers
    assert (entry.name, entry.rows) == ("0", 64)
    assert entry.error_rounded == pytest.approx(before, rel=1e-4)
    assert entry.error == pytest.approx(error(), rel=1e-3, abs=1e-9)
    assert entry.error < 0.7 * entry.error_rounded
    assert not entry.kept_rounded
    codes, after = layer.integer_weight()
    assert torch.equal(after, scale)
    torch.testing.assert_close(layer.weight, layer.dequantised(), rtol=0, atol=0)
    assert codes.abs().max() <= layer.quantizer.largest


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(groups) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=groups), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2))
    sxq.quantize_(model, Uniform(3))
    x = mixed(4, 4, 12, 12, rank=2)
    floats = model[0].weight.detach().clone()
    want = F.conv2d(x, floats, None, padding=1, groups=groups)
    before = (model[0].product(x) - want).square().sum()
    report = gptq_(model, [x])
    assert [entry.name for entry in report.layers] == ["0", "2"]
    assert all(entry.error < entry.error_rounded for entry in report.layers)
    assert (model[0].product(x) - want).square().sum() < before


@pytest.mark.parametrize(
    ("config", "seed", "rows"),
    [(Binary(), 44, 4), (Ternary(scale="mse"), 47, 4), (Uniform(2), 38, 64), (Uniform(3), 54, 64)],
    ids=str,
)
def test_nearest_codes_are_kept_where_the_error_would_rise(config, seed, rows) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 2))
    sxq.quantize_(model, config)
    layer, x = model[0], mixed(rows, 6, seed=seed)
    weight, (codes, scale) = layer.weight.detach().clone(), layer.integer_weight()
    codes, scale, before = codes.clone(), scale.clone(), model(x)

    steps = scale.double().unsqueeze(1).expand_as(weight)
    gram = x.double().T @ x.double()
    other = gptq_codes(weight.double(), steps, gram, layer.quantizer.codes) * steps
    wrong, whole = (x.double() @ (other - weight).T).square().sum(), (x.double() @ weight.double().T).square().sum()

    report = gptq_(model, [x])
    (entry,) = report.layers
    assert entry.kept_rounded
    assert entry.error == entry.error_rounded < entry.error_gptq
    assert entry.error_gptq == pytest.approx((wrong / whole).item(), rel=1e-4)
    assert str(report) == (
        f"0  output error {entry.error:.3g}: nearest codes kept, GPTQ's would give {entry.error_gptq:.3g}"
    )
    assert torch.equal(layer.integer_weight()[0], codes)
    assert torch.equal(layer.integer_weight()[1], scale)
    assert torch.equal(model(x), before)
    torch.testing.assert_close(layer.weight, layer.dequantised(), rtol=0, atol=0)
