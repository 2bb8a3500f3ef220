"""Convolutions with every option, bit for bit against torch's own on the codes."""

import re

import pytest
import torch
from torch import Tensor, nn

from snn_extreme_quant import Binary, Ternary
from snn_extreme_quant.layers import Conv1d, Conv2d

OPTIONS = [
    {},
    {"stride": 2},
    {"padding": 1},
    {"padding": 2, "dilation": 2},
    {"dilation": 3},
    {"groups": 2},
    {"groups": 4, "bias": False},
    {"padding": "same"},
    {"padding": "same", "dilation": 2},
    {"padding": "valid"},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": 2, "padding_mode": "circular", "stride": 2},
    {"padding": 1, "padding_mode": "replicate"},
    {"padding": "same", "padding_mode": "reflect"},
    {"padding": 1, "stride": 3, "dilation": 2, "groups": 2},
]
OPTIONS_2D = [
    {"kernel_size": (3, 2), "padding": (0, 1)},
    {"kernel_size": (1, 3), "stride": (1, 2), "dilation": (2, 1)},
    {"kernel_size": (2, 4), "padding": "same"},
    {"kernel_size": (2, 3), "padding": (1, 2), "padding_mode": "reflect"},
]
CLASSES = {"1d": (Conv1d, nn.Conv1d, (4, 13)), "2d": (Conv2d, nn.Conv2d, (4, 9, 13))}
# An even kernel with padding="same" makes torch warn that it copies the input; that is torch's own.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def check(quantised, float_class, options, shape) -> None:
    options = {"kernel_size": 3, **options}
    for config in (Ternary(), Binary(per="tensor")):
        torch.manual_seed(0)
        floating = float_class(4, 8, **options)
        for layer in (quantised(4, 8, config=config, **options), quantised.from_float(floating, config)):
            codes, scale = layer.integer_weight()
            reference = float_class(4, 8, **{**options, "bias": False})
            reference.weight = nn.Parameter(codes.detach())
            per_channel = (-1, *(1,) * (len(shape) - 1))
            for x in (torch.randn(2, *shape), (torch.rand(shape) < 0.5).float()):
                want: Tensor = reference(x) * scale.view(per_channel)
                assert torch.equal(layer.product(x), want)
                if layer.bias is not None:
                    want = want + layer.bias.view(per_channel)
                assert torch.equal(layer(x), want)
                assert layer(x).shape == floating(x).shape
            assert repr(floating)[:-1].split("(", 1)[1] in repr(layer)
            plain = layer.to_float()
            assert repr(plain) == repr(floating)
            x = (torch.rand(2, *shape) < 0.5).float()
            torch.testing.assert_close(plain(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dimensions", CLASSES)
def test_forward_is_sum_then_scale_then_bias(dimensions, options) -> None:
    """Bit for bit, batched and unbatched, made fresh and from a float layer."""
    quantised, float_class, shape = CLASSES[dimensions]
    check(quantised, float_class, options, shape)


@pytest.mark.parametrize("options", OPTIONS_2D, ids=str)
def test_rectangular_kernels(options) -> None:
    check(Conv2d, nn.Conv2d, options, (4, 9, 13))


@pytest.mark.parametrize("dimensions", CLASSES)
def test_options_that_torch_refuses_are_refused(dimensions) -> None:
    quantised, float_class, _ = CLASSES[dimensions]
    for options in ({"groups": 3}, {"padding": "same", "stride": 2}, {"padding": "some"}, {"padding_mode": "mirror"}):
        with pytest.raises(ValueError) as theirs:  # noqa: PT011 - the message is torch's
            float_class(4, 8, 3, **options)
        with pytest.raises(ValueError, match=re.escape(str(theirs.value))):
            quantised(4, 8, 3, **options)
