import pytest
import torch
import torch.nn.functional as F

from snn_extreme_quant import Binary, Float, Ternary
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.layers import Linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("config", [Ternary(), Binary(per="tensor")], ids=str)
@pytest.mark.parametrize("shape", [(12,), (4, 12), (3, 4, 12), (0, 12)], ids=str)
def test_forward_is_sum_then_scale_then_bias(shape, config, bias) -> None:
    """Bit for bit, on real-valued input too."""
    layer = Linear(12, 5, bias=bias, config=config)
    x = torch.randn(shape)
    codes, scale = layer.integer_weight()
    want = F.linear(x, codes) * scale
    if bias:
        want = want + layer.bias
    assert torch.equal(layer(x), want)
    assert torch.equal(layer.product(x), F.linear(x, codes) * scale)


def test_default_is_ternary() -> None:
    assert Linear(2, 2).config == Ternary()


def test_float_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Use Binary\(...\), Ternary\(...\) or Uniform\(...\)"):
        Linear(2, 2, config=Float())


def test_device_and_dtype() -> None:
    layer = Linear(4, 2, dtype=torch.float64)
    assert layer.weight.dtype == layer.bias.dtype == torch.float64
    assert Linear(4, 2, device="meta").weight.device.type == "meta"


def test_initialised_like_torch() -> None:
    torch.manual_seed(0)
    ours = Linear(30, 20)
    torch.manual_seed(0)
    theirs = torch.nn.Linear(30, 20)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
