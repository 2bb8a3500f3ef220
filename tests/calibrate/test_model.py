"""The model stays whole, the report tells what was left, and what cannot be calibrated is refused."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant import Binary
from snn_extreme_quant.calibrate import gptq_
from snn_extreme_quant.config import Uniform
from snn_extreme_quant.errors import (
    ConfigError,
    NonFiniteWeightError,
    NothingToQuantizeError,
    SampleError,
    UnmatchedNameError,
)
from snn_extreme_quant.layers import Embedding, Linear

from .networks import layer_model, loop, mixed


def test_state_dict_of_a_calibrated_model_loads() -> None:
    model = layer_model(Uniform(3))
    gptq_(model, [mixed(64, 20)])
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = layer_model(Uniform(3))
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    x = mixed(3, 20)
    assert torch.equal(fresh(x), model(x))


def test_modes_state_and_methods_are_put_back(trained) -> None:
    model = copy.deepcopy(trained)
    sxq.quantize_(model, Uniform(4))
    model.train()
    model.lif1.eval()
    gptq_(model, [torch.rand(4, 64)], run=loop)
    assert (model.training, model.fc1.training, model.lif1.training) == (True, True, False)
    assert "product" not in vars(model.fc1)
    fresh = copy.deepcopy(model)
    sxq.reset(fresh)
    x = torch.ones(2, 64)
    assert torch.equal(model(x), fresh(x))


def test_dropout_is_off() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(20, 8))
    sxq.quantize_(model, Uniform(3))
    twin = nn.Sequential(copy.deepcopy(model[1]))
    gptq_(model, [mixed(64, 20)])
    gptq_(twin, [mixed(64, 20)])
    assert torch.equal(model[1].weight, twin[0].weight)


def test_an_error_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 8))
    sxq.quantize_(model, Uniform(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = []

    def run(model: nn.Module, x: Tensor) -> None:
        calls.append(1)
        model(x)
        if len(calls) == 3:  # the first layer is done
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gptq_(model, [mixed(64, 20)], run=run)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "product" not in vars(model[2])


def test_report_lists_what_was_left() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[1].weight
    sxq.quantize_(model, sxq.PrecisionPlan({"0": Binary(center=True)}, default=Uniform(3)))
    model.append(Linear(4, 2))
    report = gptq_(model, [mixed(8, 4)])
    left = {entry.name: entry.reason for entry in report.left}
    assert "centred binary codes depend on the weights' mean" in left["0"]
    assert left["1"] == left["2"] == "another layer shares its weight"
    assert [entry.name for entry in report.layers] == ["3"]
    assert "3  output error " in str(report)
    assert "1  left: another layer shares its weight" in str(report)
    only = gptq_(model, [mixed(8, 4)], names=["3"])
    assert {entry.reason for entry in only.left} == {"not among the names"}


def test_a_silent_layer_is_left() -> None:
    model = layer_model(Uniform(3))
    model.append(nn.Linear(8, 2))
    sxq.quantize_(model, Uniform(3))
    model[0].weight.data.zero_()
    model[0].bias.data.zero_()
    before = model[1].weight.detach().clone()
    report = gptq_(model, [mixed(8, 20)])
    assert [(entry.name, entry.reason) for entry in report.left] == [("1", "all its inputs were 0")]
    assert torch.equal(model[1].weight, before)


class _Forgetful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = Linear(20, 8, config=Uniform(3)), Linear(20, 8, config=Uniform(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def _with_nan(model: nn.Sequential) -> nn.Sequential:
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    return model


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gptq_(layer_model(Uniform(3)), []), SampleError, "got no batches"),
        (lambda: gptq_(_Forgetful(), [mixed(4, 20)]), SampleError, "'unused' is never called.*names="),
        (lambda: gptq_(layer_model(Uniform(3)), [torch.full((2, 20), torch.nan)]), SampleError, "'0' are NaN or inf"),
        (lambda: gptq_(_with_nan(layer_model(Uniform(3))), [mixed(4, 20)]), NonFiniteWeightError, "weight of '0'"),
        (lambda: gptq_(nn.Linear(2, 2), [mixed(4, 2)]), NothingToQuantizeError, r"with quantize_\(\)"),
        (lambda: gptq_(layer_model(Binary(center=True)), [mixed(4, 20)]), NothingToQuantizeError, "centred"),
        (lambda: gptq_(layer_model(Uniform(3)), [mixed(4, 20)], names=["o"]), UnmatchedNameError, "'o' in names"),
        (
            lambda: gptq_(nn.Sequential(Embedding(4, 2), Linear(2, 2)), [torch.tensor([1])], names=["0"]),
            ConfigError,
            "'0' cannot be calibrated: Embedding",
        ),
        (lambda: gptq_(layer_model(Uniform(3)), [mixed(4, 20)], damping=-1), ConfigError, r"damping=-1\): use"),
        (lambda: gptq_(layer_model(Uniform(3)), [mixed(4, 20)], damping=True), ConfigError, "damping=True"),
        (lambda: gptq_(layer_model(Uniform(3)), [mixed(4, 20)], damping=float("inf")), ConfigError, "damping=inf"),
        (lambda: gptq_(layer_model(Uniform(3)), [mixed(4, 20)], damping=0.0), ConfigError, "singular"),
        (
            lambda: gptq_(layer_model(Uniform(9)).bfloat16(), [mixed(4, 20).bfloat16()]),
            ConfigError,
            "'0': torch.bfloat16 is too coarse.*float32",
        ),
    ],
)
def test_what_cannot_be_calibrated(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_names_that_are_left_out_need_no_calls() -> None:
    model = _Forgetful()
    report = gptq_(model, [mixed(64, 20)], names=["used"])
    assert [entry.name for entry in report.layers] == ["used"]
