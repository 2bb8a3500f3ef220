"""Codes, scales and gradients against a few lines of torch, and use inside plain Brevitas layers."""

import brevitas.nn as qnn
import pytest
import torch
from torch import Tensor, nn

from snn_extreme_quant import Binary, Float, Ternary
from snn_extreme_quant.errors import ConfigError, RegistryError
from snn_extreme_quant.quantizers import injectors
from snn_extreme_quant.quantizers.core import BinaryWeightQuant, TernaryWeightQuant, WeightQuant

EPS = 1e-5
SHAPES = [(7, 33), (5, 3, 4), (6, 2, 3, 3), (1, 1)]
CONFIGS = [
    Ternary(per="tensor"),
    Ternary(per="channel"),
    Binary(per="tensor"),
    Binary(per="channel"),
    Binary(per="tensor", center=True),
    Binary(per="channel", center=True),
]


def quantizer_for(config: Ternary | Binary) -> WeightQuant:
    per_channel = config.per == "channel"
    if isinstance(config, Ternary):
        return TernaryWeightQuant(per_channel, EPS)
    return BinaryWeightQuant(per_channel, EPS, config.center)


def reference(config: Ternary | Binary, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Each scheme as its paper writes it."""
    axes = tuple(range(1, weight.dim())) if config.per == "channel" else tuple(range(weight.dim()))
    scale = weight.abs().double().mean(axes, keepdim=True).float().clamp(min=EPS)
    if isinstance(config, Ternary):
        return (weight / scale).round().clamp(-1, 1), scale
    if config.center:
        return torch.where(weight > weight.double().mean(axes, keepdim=True).float(), 1.0, -1.0), scale
    return torch.where(weight >= 0, 1.0, -1.0), scale


def weight_of(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3 + 0.05


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_codes_and_scale_equal_the_paper(config, shape) -> None:
    for seed in range(10):
        weight = weight_of(shape, seed)
        codes, scale = quantizer_for(config).integer(weight)
        want_codes, want_scale = reference(config, weight)
        assert torch.equal(codes, want_codes)
        assert torch.equal(scale.expand_as(weight), want_scale.expand_as(weight))
        assert codes.dtype == scale.dtype == torch.float32
        levels = {-1.0, 1.0} if isinstance(config, Binary) else {-1.0, 0.0, 1.0}
        assert set(codes.unique().tolist()) <= levels


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_an_all_zero_channel_stays_finite(config) -> None:
    weight = torch.zeros(2, 4)
    weight[1] = torch.tensor([1.0, -1.0, 2.0, -2.0])
    codes, scale = quantizer_for(config).integer(weight)
    assert torch.isfinite(codes).all()
    assert (scale > 0).all()
    dead = {Ternary: 0.0}.get(type(config), 1.0)
    if isinstance(config, Binary) and config.center:
        dead = -1.0  # ties go to -1
    assert codes[0].tolist() == [dead] * 4
    if config.per == "channel":
        assert scale.flatten().tolist() == [torch.tensor(EPS).item(), 1.5]


def test_half_a_scale_rounds_to_zero() -> None:
    """Rounding is to even: 0.5 gives 0, and the next float above gives 1."""
    weight = torch.tensor([[0.5, -0.5, 1.5, -1.5, 1.0, 1.0]])
    quantizer = TernaryWeightQuant(True, EPS)
    assert quantizer.integer(weight)[1].item() == 1.0
    assert quantizer.codes(weight, torch.ones(1, 1)).tolist() == [[0, 0, 1, -1, 1, 1]]
    above = torch.nextafter(torch.tensor([[0.5]]), torch.tensor(1.0))
    assert quantizer.codes(above, torch.ones(1, 1)).item() == 1.0


def test_codes_are_never_negative_zero() -> None:
    codes, _ = TernaryWeightQuant(False, EPS).integer(torch.tensor([[-0.1, 1.0, -0.0]]))
    assert codes.tolist() == [[0.0, 1.0, 0.0]]
    assert not torch.signbit(codes).any()


def test_sign_of_zero() -> None:
    """Both zeros count as positive; centred, a weight that equals the mean counts as negative."""
    assert BinaryWeightQuant(False, EPS).integer(torch.tensor([[0.0, -0.0, -1.0]]))[0].tolist() == [[1, 1, -1]]
    centred = BinaryWeightQuant(False, EPS, center=True)
    assert centred.integer(torch.tensor([[1.0, 2.0, 3.0]]))[0].tolist() == [[-1, -1, 1]]


def test_centring_leaves_the_scale_alone() -> None:
    weight = weight_of((4, 9)) + 1.0
    plain, centred = (BinaryWeightQuant(True, EPS, center=c).integer(weight) for c in (False, True))
    assert torch.equal(plain[1], centred[1])
    assert not torch.equal(plain[0], centred[0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_gradient_is_that_of_the_identity(config, shape) -> None:
    """dL/dW equals dL/d(dequantised W): nothing is multiplied by the scale and none of it goes through the scale."""
    weight = weight_of(shape).requires_grad_()
    x = weight_of(shape, 1)
    dequantised, scale, zero, bits = quantizer_for(config)(weight)
    ((dequantised * x).sin().sum()).backward()
    leaf = dequantised.detach().clone().requires_grad_()
    (leaf * x).sin().sum().backward()
    torch.testing.assert_close(weight.grad, leaf.grad, rtol=1e-6, atol=0)
    assert not scale.requires_grad
    assert zero.item() == 0
    assert bits.item() == (1 if isinstance(config, Binary) else 2)


def test_gradient_through_codes_alone_is_divided_by_the_scale() -> None:
    """An integer-first layer multiplies by the scale afterwards, which gives the identity again."""
    weight = weight_of((3, 8)).requires_grad_()
    codes, scale = TernaryWeightQuant(True, EPS).integer(weight)
    codes.sum().backward()
    torch.testing.assert_close(weight.grad, (1 / scale).expand_as(weight), rtol=1e-6, atol=0)


def test_codes_serve_several_backward_passes() -> None:
    weight = weight_of((3, 8)).requires_grad_()
    codes, scale = TernaryWeightQuant(True, EPS).integer(weight)
    for _ in range(2):
        (codes * scale).sum().backward()
    torch.testing.assert_close(weight.grad, torch.full_like(weight, 2.0), rtol=1e-6, atol=0)


def test_no_graph_without_need() -> None:
    quantizer = TernaryWeightQuant(True, EPS)
    weight = weight_of((3, 8))
    assert not quantizer.integer(weight)[0].requires_grad
    with torch.no_grad():
        assert not quantizer.integer(weight.clone().requires_grad_())[0].requires_grad


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_result_does_not_depend_on_threads(config) -> None:
    weight = weight_of((64, 4099), 3)
    quantizer = quantizer_for(config)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(quantizer.integer(weight))
    finally:
        torch.set_num_threads(threads)
    for codes, scale in results[1:]:
        assert torch.equal(codes, results[0][0])
        assert torch.equal(scale, results[0][1])


def test_scale_is_the_correctly_rounded_mean() -> None:
    """A float32 sum of a long row would be off; the float64 one rounds once."""
    weight = weight_of((1, 200_003), 4)
    exact = sum(abs(v) for v in weight.flatten().tolist()) / weight.numel()
    assert TernaryWeightQuant(True, EPS).integer(weight)[1].item() == torch.tensor(exact, dtype=torch.float32).item()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_other_dtypes_keep_theirs(config, dtype) -> None:
    codes, scale = quantizer_for(config).integer(weight_of((4, 8)).to(dtype))
    assert codes.dtype == scale.dtype == dtype
    assert codes.abs().max() <= 1


# Inside Brevitas.


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda injector: qnn.QuantLinear(9, 5, weight_quant=injector),
        lambda injector: qnn.QuantConv2d(3, 5, 3, weight_quant=injector),
        lambda injector: qnn.QuantConv1d(3, 5, 3, weight_quant=injector),
    ],
    ids=["linear", "conv2d", "conv1d"],
)
def test_brevitas_layers_take_our_quantisers(make, config) -> None:
    layer = make(injectors.injector_for(config))
    quantised = layer.quant_weight()
    codes, scale = quantizer_for(config).integer(layer.weight)
    assert torch.equal(quantised.int(), codes.to(torch.int8))
    assert torch.equal(quantised.scale.expand_as(layer.weight), scale.expand_as(layer.weight))
    assert torch.equal(quantised.value, codes * scale)
    assert quantised.is_valid


def test_brevitas_layer_does_not_write_into_its_weight() -> None:
    """Brevitas' own binary quantiser clamps the latent weight in place."""
    layer = qnn.QuantLinear(9, 5, weight_quant=injectors.SignedBinaryWeightPerTensorFloat)
    before = layer.weight.detach().clone()
    layer.quant_weight()
    layer(torch.ones(1, 9)).sum().backward()
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("name", [n for n in injectors.__all__ if n.startswith("Signed")])
def test_named_injectors(name: str) -> None:
    layer = qnn.QuantLinear(9, 5, weight_quant=getattr(injectors, name))
    quantizer = layer.weight_quant.tensor_quant
    assert quantizer.per_channel == ("PerChannel" in name)
    assert getattr(quantizer, "center", False) == name.endswith("Centered")
    assert isinstance(quantizer, TernaryWeightQuant if "Ternary" in name else BinaryWeightQuant)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_injector_for_carries_out_the_config(config) -> None:
    quantizer = nn.Module()
    quantizer = qnn.QuantLinear(4, 2, weight_quant=injectors.injector_for(config)).weight_quant.tensor_quant
    wanted = quantizer_for(config)
    assert (type(quantizer), quantizer.per_channel) == (type(wanted), wanted.per_channel)
    assert getattr(quantizer, "center", None) == getattr(wanted, "center", None)


def test_float_has_no_quantiser() -> None:
    with pytest.raises(ConfigError, match=r"No weight quantiser carries out Float\(\)\. Use Binary\(...\) or Ternary"):
        injectors.injector_for(Float())


def test_third_parties_cannot_take_our_names() -> None:
    with pytest.raises(RegistryError, match="snn_extreme_quant and again by somebody"):
        injectors.INJECTORS.register("kind=ternary,per=tensor", object(), origin="somebody")
