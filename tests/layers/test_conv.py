"""Convolutions with every option, bit for bit against torch's own on the codes."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snn_extreme_quant import Binary, Ternary, Uniform
from snn_extreme_quant.errors import ConfigError
from tests.layers.shapes import CONVOLUTIONS, TRANSPOSED

OPTIONS: list[dict[str, Any]] = [
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
OPTIONS_TRANSPOSED: list[dict[str, Any]] = [
    {},
    {"stride": 2},
    {"stride": 2, "output_padding": 1},
    {"padding": 1},
    {"dilation": 2},
    {"stride": 3, "padding": 1, "output_padding": 2, "dilation": 2},
    {"groups": 2},
    {"groups": 4, "bias": False},
    {"groups": 2, "stride": 2, "output_padding": 1},
]
OPTIONS_TRANSPOSED_2D = [
    {"kernel_size": (3, 2), "stride": (2, 1), "output_padding": (1, 0)},
    {"kernel_size": (1, 4), "padding": (0, 2), "dilation": (1, 2)},
]
# An even kernel with padding="same" makes torch warn that it copies the input; that is torch's own.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def torch_layout(canonical: Tensor, groups: int, transposed: bool) -> Tensor:
    """Put an output-first weight where torch wants it, by loops, unlike the code under test."""
    if not transposed:
        return canonical
    outputs, inputs = canonical.shape[0] // groups, canonical.shape[1]
    weight = canonical.new_empty(inputs * groups, outputs, *canonical.shape[2:])
    for group in range(groups):
        for o in range(outputs):
            for i in range(inputs):
                weight[group * inputs + i, o] = canonical[group * outputs + o, i]
    return weight


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def check(quantised, float_class, options, shape) -> None:
    options = {"kernel_size": 3, **options}
    transposed = float_class.__name__.startswith("ConvT")
    for config in (Ternary(), Binary(per="tensor")):
        torch.manual_seed(0)
        floating = float_class(4, 8, **options)
        for layer in (quantised(4, 8, config=config, **options), quantised.from_float(floating, config)):
            codes, scale = layer.integer_weight()
            assert codes.shape[:2] == (8, 4 // layer.groups)
            reference = float_class(4, 8, **{**options, "bias": False})
            reference.weight = nn.Parameter(torch_layout(codes.detach(), layer.groups, transposed))
            per_channel = (-1, *(1,) * (len(shape) - 1))
            for x in (torch.randn(2, *shape), spikes(*shape)):
                want: Tensor = reference(x) * scale.view(per_channel)
                assert torch.equal(layer.product(x), want)
                if layer.bias is not None:
                    want = want + layer.bias.view(per_channel)
                assert torch.equal(layer(x), want)
                assert layer(x).shape == floating(x).shape
            assert repr(floating)[:-1].split("(", 1)[1] in repr(layer)
            plain = layer.to_float()
            assert repr(plain) == repr(floating)
            x = spikes(2, *shape)
            torch.testing.assert_close(plain(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dimensions", CONVOLUTIONS)
def test_forward_is_sum_then_scale_then_bias(dimensions, options) -> None:
    """Bit for bit, batched and unbatched, made fresh and from a float layer."""
    quantised, float_class, shape = CONVOLUTIONS[dimensions]
    check(quantised, float_class, options, shape)


@pytest.mark.parametrize("options", OPTIONS_2D, ids=str)
def test_rectangular_kernels(options) -> None:
    quantised, float_class, shape = CONVOLUTIONS["2d"]
    check(quantised, float_class, options, shape)


@pytest.mark.parametrize("options", OPTIONS_TRANSPOSED, ids=str)
@pytest.mark.parametrize("dimensions", TRANSPOSED)
def test_transposed(dimensions, options) -> None:
    quantised, float_class, shape = TRANSPOSED[dimensions]
    check(quantised, float_class, options, shape)


@pytest.mark.parametrize("options", OPTIONS_TRANSPOSED_2D, ids=str)
def test_transposed_rectangular_kernels(options) -> None:
    quantised, float_class, shape = TRANSPOSED["2d"]
    check(quantised, float_class, options, shape)


ALL = [
    pytest.param(*entry, id=f"{kind}{d}")
    for kind, table in (("conv", CONVOLUTIONS), ("transposed", TRANSPOSED))
    for d, entry in table.items()
]


@pytest.mark.parametrize(("quantised", "float_class", "shape"), ALL)
def test_scales_belong_to_output_channels(quantised, float_class, shape) -> None:
    """The mean magnitude of all weights that an output sees, also where torch keeps inputs first."""
    floating = float_class(4, 6, 2, groups=2)
    with torch.no_grad():
        floating.weight.copy_(torch.rand_like(floating.weight) + 0.5)
    x = torch.ones(1, *shape)
    layer = quantised.from_float(floating, Binary())
    _, scale = layer.integer_weight()
    full = float_class(4, 6, 2, groups=2, bias=False)
    for channel in range(6):
        # One output channel at a time sees the weights that reach it, and no others.
        mask = full.weight.detach().new_zeros(full.weight.shape).requires_grad_()
        torch.func.functional_call(full, {"weight": mask}, x)[:, channel].sum().backward()
        seen = floating.weight[mask.grad != 0].detach()
        torch.testing.assert_close(scale[channel], seen.abs().mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("quantised", "float_class", "shape"), ALL)
@pytest.mark.parametrize("config", [Ternary(), Binary(), Uniform(bits=4)], ids=lambda c: c.kind)
def test_sums_over_spikes_are_exact(quantised, float_class, shape, config) -> None:
    layer = quantised(4, 8, 3, stride=2, config=config)
    codes, _ = layer.integer_weight()
    x = spikes(2, *shape)
    sums = layer._sums(x, codes)
    assert torch.equal(sums.double(), layer._sums(x.double(), codes.double()))
    assert torch.equal(sums, sums.round())


@pytest.mark.parametrize(("quantised", "float_class", "shape"), ALL)
@pytest.mark.parametrize("size", [2, 3])
def test_groups_of_input_channels(quantised, float_class, shape, size) -> None:
    """A scale for each group; the last group may be smaller."""
    config = Ternary(per="group", group_size=size)
    layer = quantised.from_float(float_class(4, 6, 3), config)
    codes, scale = layer.integer_weight()
    assert codes.shape[:2] == (6, 4)
    assert scale.shape == (6, 2)
    for x in (spikes(2, *shape), spikes(*shape)):
        torch.testing.assert_close(layer.to_float()(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("quantised", "float_class", "shape"), ALL)
def test_groups_of_inputs_and_grouped_convolutions_do_not_go_together(quantised, float_class, shape) -> None:
    with pytest.raises(ConfigError, match=r"groups=2.*use per='channel'"):
        quantised(4, 8, 3, groups=2, config=Ternary(per="group", group_size=2))


@pytest.mark.parametrize(("quantised", "float_class", "shape"), ALL)
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_are_those_of_the_dequantised_weight(quantised, float_class, shape, groups) -> None:
    layer = quantised(4, 8, 3, groups=groups, config=Ternary())
    plain = layer.to_float()
    x = spikes(2, *shape)
    layer(x).square().sum().backward()
    plain(x).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("quantised", "float_class", "shape"), ALL)
def test_it_takes_the_place_of_the_float_layer(quantised, float_class, shape) -> None:
    floating = float_class(4, 8, 3)
    layer = quantised.from_float(floating, Ternary())
    assert layer.weight is floating.weight
    assert layer.bias is floating.bias
    assert list(layer.state_dict()) == list(floating.state_dict())
    x = spikes(2, *shape)
    y = layer(x)
    twin = copy.deepcopy(layer)
    assert twin.weight is not layer.weight
    assert torch.equal(twin(x), y)
    with torch.no_grad():
        twin.weight.neg_()
    assert torch.equal(layer(x), y)
    assert not torch.equal(twin(x), y)


@pytest.mark.parametrize(("quantised", "float_class", "shape"), ALL)
def test_initialised_like_torch(quantised, float_class, shape) -> None:
    torch.manual_seed(0)
    ours = quantised(4, 8, 3, dtype=torch.float64)
    torch.manual_seed(0)
    theirs = float_class(4, 8, 3, dtype=torch.float64)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("dimensions", CONVOLUTIONS)
def test_options_that_torch_refuses_are_refused(dimensions) -> None:
    quantised, float_class, _ = CONVOLUTIONS[dimensions]
    for options in ({"groups": 3}, {"padding": "same", "stride": 2}, {"padding": "some"}, {"padding_mode": "mirror"}):
        with pytest.raises(ValueError) as theirs:  # noqa: PT011 - the message is torch's
            float_class(4, 8, 3, **options)
        with pytest.raises(ValueError, match=re.escape(str(theirs.value))):
            quantised(4, 8, 3, **options)


@pytest.mark.parametrize("dimensions", TRANSPOSED)
def test_a_transposed_convolution_has_one_output_size(dimensions) -> None:
    quantised, _, shape = TRANSPOSED[dimensions]
    layer = quantised(4, 8, 3, stride=2)
    with pytest.raises(ConfigError, match=r"takes no output_size in a call; build it with output_padding=\.\.\."):
        layer(spikes(2, *shape), output_size=[12] * (len(shape) - 1))
    with pytest.raises(ValueError, match='Only "zeros" padding mode'):
        quantised(4, 8, 3, padding_mode="circular")


@pytest.mark.parametrize(("quantised", "float_class", "shape"), ALL)
def test_compiled_without_graph_breaks(quantised, float_class, shape) -> None:
    torch._dynamo.reset()
    layer = quantised(4, 8, 3, groups=2)
    x = spikes(2, *shape)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), layer(x))
    compiled(x).sum().backward()
    assert layer.weight.grad.any()


@pytest.mark.parametrize(("quantised", "float_class", "shape"), ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(quantised, float_class, shape, dtype) -> None:
    """Sums of few spikes are whole numbers that half precision holds too: only scale and bias may round."""
    layer = quantised(4, 8, 3, config=Binary())
    x = spikes(2, *shape)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
        y.float().sum().backward()
    torch.testing.assert_close(y.float(), layer(x), rtol=1e-2, atol=1e-2)
    assert torch.isfinite(layer.weight.grad).all()
