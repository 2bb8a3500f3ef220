"""Codes follow the weight, however it is changed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from snn_extreme_quant.layers import IntegerFirst, Linear
from tests.layers.inputs import count_quantiser_calls, spikes


def _copy_into(layer: IntegerFirst, new: Tensor) -> None:
    with torch.no_grad():
        layer.weight.copy_(new)


def _write_data(layer: IntegerFirst, new: Tensor) -> None:
    layer.weight.data.copy_(new)


def _replace_data(layer: IntegerFirst, new: Tensor) -> None:
    layer.weight.data = new.clone()


def _load(layer: IntegerFirst, new: Tensor) -> None:
    layer.load_state_dict({**layer.state_dict(), "weight": new})


def _load_assign(layer: IntegerFirst, new: Tensor) -> None:
    layer.load_state_dict({**layer.state_dict(), "weight": new.clone()}, assign=True)


def _new_parameter(layer: IntegerFirst, new: Tensor) -> None:
    layer.weight = nn.Parameter(new.clone())


def _in_place(layer: IntegerFirst, new: Tensor) -> None:
    with torch.no_grad():
        layer.weight.mul_(0).add_(new)


def _slice(layer: IntegerFirst, new: Tensor) -> None:
    with torch.no_grad():
        for row, value in zip(layer.weight, new, strict=True):
            row[:] = value


def _numpy(layer: IntegerFirst, new: Tensor) -> None:
    layer.weight.detach().numpy()[:] = new.numpy()


@pytest.mark.parametrize(
    "change",
    [_copy_into, _write_data, _replace_data, _load, _load_assign, _new_parameter, _in_place, _slice, _numpy],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("training", [True, False])
def test_codes_follow_the_weight(kind, change: Callable[[IntegerFirst, Tensor], None], training) -> None:
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments).train(training)
    layer(spikes(*shape))
    new = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(7))
    change(layer, new)
    want_codes, want_scale = layer.quantizer.integer(new)
    codes, scale = layer.integer_weight()
    assert torch.equal(codes, want_codes)
    assert torch.equal(scale, want_scale.flatten())


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.neg_(),
        lambda w: w[0, 0].copy_(w[1, 1]) + w[1, 1].copy_(torch.tensor(-11.5 / 8)),
        lambda w: w.copy_(w.flip(0)),
        lambda w: w.copy_(w.flip(1)),
    ],
    ids=["negated", "two entries swapped", "rows swapped", "columns swapped"],
)
def test_codes_follow_writes_through_data_that_a_plain_sum_could_miss(change) -> None:
    """A write through ``weight.data`` bumps no version, and these leave the sum of the weights, 0, as it was."""
    layer = Linear(6, 4)
    with torch.no_grad():
        layer.weight.copy_((torch.arange(24.0).reshape(4, 6) - 11.5) / 8)
    layer(spikes(1, 6))
    change(layer.weight.data)
    assert layer.weight.sum() == 0
    assert torch.equal(layer.integer_weight()[0], layer.quantizer.integer(layer.weight)[0])


def test_codes_follow_a_change_of_dtype(kind) -> None:
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments)
    layer(spikes(*shape))
    layer.to(torch.float64)
    codes, scale = layer.integer_weight()
    assert codes.dtype == scale.dtype == torch.float64
    assert layer(spikes(*shape).double()).dtype == torch.float64
    layer.float()
    assert layer(spikes(*shape)).dtype == torch.float32


def test_forget_codes(kind) -> None:
    quantised, _, arguments, _ = kind
    layer = quantised(*arguments)
    calls = count_quantiser_calls(layer)
    layer.integer_weight()
    layer.forget_codes()
    layer.integer_weight()
    assert len(calls) == 2


# Gradients.
