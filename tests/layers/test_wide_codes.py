"""Codes wider than a half-precision float holds, under autocast."""

from typing import Any

import pytest
import torch
from torch import nn

from snn_extreme_quant.config import Uniform
from snn_extreme_quant.layers import Linear

WIDE = [Uniform(8), Uniform(16), Uniform(8, per="group", group_size=64)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("config", WIDE, ids=str)
def test_wide_codes_are_summed_in_float32_under_autocast(config: Any, dtype: torch.dtype) -> None:
    """Sums of 2048 codes of 127 overflow float16; bfloat16 has no codes beyond 256."""
    layer = Linear(2048, 4, config=config)
    nn.init.constant_(layer.weight, 0.5)
    with torch.no_grad():
        layer.weight[:, ::3] = -0.1234
    inputs = torch.ones(3, 2048)
    want = layer(inputs)
    want.sum().backward()
    exact = layer.weight.grad.clone()
    for given in (inputs, inputs.to(dtype)):  # as the layer before gives them
        layer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            output = layer(given)
            assert torch.is_autocast_enabled("cpu")
        assert torch.isfinite(output).all()
        torch.testing.assert_close(output, want)
        output.sum().backward()
        torch.testing.assert_close(layer.weight.grad, exact)


def test_wide_codes_under_autocast_in_convolutions(kind: Any) -> None:
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments, config=Uniform(16))
    inputs = torch.ones(shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = layer(inputs)
    torch.testing.assert_close(got, layer(inputs))


def test_wide_codes_compile_under_autocast() -> None:
    torch.compiler.reset()
    layer = Linear(64, 4, config=Uniform(8))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    inputs = torch.ones(3, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = compiled(inputs)
    torch.testing.assert_close(under, layer(inputs))
    torch.testing.assert_close(compiled(inputs), layer(inputs))


def test_wide_codes_on_devices_without_autocast() -> None:
    layer = Linear(8, 4, config=Uniform(8)).to("meta")
    assert layer(torch.ones(3, 8, device="meta")).shape == (3, 4)
