"""Input on a grid: exact values, exact sums, and the gradient of a clamped identity."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_extreme_quant import FixedPointInput
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.layers import Linear


@given(st.floats(-1e3, 1e3, width=32), st.integers(1, 16), st.integers(0, 16))
def test_equals_the_definition(value, bits, fraction) -> None:
    got = FixedPointInput(bits, fraction)(torch.tensor([value])).item()
    assert got == min(max(round(value * 2**fraction), 0), 2**bits - 1) / 2**fraction


@pytest.mark.parametrize(("bits", "fraction"), [(8, 7), (1, 0), (16, 16), (16, 0), (4, 2)])
def test_is_idempotent_and_the_same_with_gradients(bits, fraction) -> None:
    module = FixedPointInput(bits, fraction)
    x = torch.cat([torch.randn(10_000) * module.highest, torch.rand(10_000) * module.highest])
    once = module(x)
    assert torch.equal(module(once), once)
    assert torch.equal(module(x.clone().requires_grad_()).detach(), once), "training and evaluation differ"
    assert once.max().item() == module.highest
    assert once.min().item() == 0.0
    assert torch.equal((once * 2**fraction).round(), once * 2**fraction)


def test_gradient_is_one_inside_and_zero_outside() -> None:
    x = torch.tensor([-0.5, 0.25, 1.0, 1.9, 2.5], requires_grad=True)
    FixedPointInput(8, 7)(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_sums_behind_it_are_exact() -> None:
    layer = Linear(1000, 8, bias=False)
    x = FixedPointInput(8, 7)(torch.rand(16, 1000))
    codes, scale = layer.integer_weight()
    assert torch.equal(layer(x), (x.double() @ codes.double().T).float() * scale)
    order = torch.randperm(1000)
    assert torch.equal(x[:, order] @ codes[:, order].T, x @ codes.T)


@pytest.mark.parametrize("arguments", [(0, 7), (17, 7), (8, -1), (8, 17), (8.0, 7), (8, None), (True, 7)], ids=str)
def test_formats_that_do_not_exist(arguments) -> None:
    with pytest.raises(ConfigError, match=r"FixedPointInput\(bits=.*: use bits 1\.\.16 and fraction 0\.\.16"):
        FixedPointInput(*arguments)


def test_repr() -> None:
    assert repr(FixedPointInput(4, 3)) == "FixedPointInput(bits=4, fraction=3)"


def test_keeps_dtype_and_shape() -> None:
    x = torch.rand(2, 3, 4, dtype=torch.float64)
    assert FixedPointInput()(x).dtype == torch.float64
    assert FixedPointInput()(x).shape == x.shape
