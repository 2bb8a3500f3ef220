"""The quantisers inside plain Brevitas layers, and third parties' own."""

from dataclasses import dataclass
from typing import ClassVar

import brevitas.nn as qnn
import pytest
import torch
from torch import Tensor, nn

from snn_extreme_quant import Binary, Float, Ternary
from snn_extreme_quant.config import CONFIGS as CONFIG_CLASSES
from snn_extreme_quant.config import Uniform, WeightConfig, config_from_dict
from snn_extreme_quant.errors import ConfigError, RegistryError
from snn_extreme_quant.layers import Linear
from snn_extreme_quant.quantizers import injectors
from snn_extreme_quant.quantizers.core import Options, WeightQuant
from tests.quantizers.references import CONFIGS, quantizer_for, weight_of

NAMED = [name for name in injectors.__all__ if name.startswith("Signed") and name != "SignedWeight"]
LAYERS = {
    "linear": lambda injector: qnn.QuantLinear(9, 5, weight_quant=injector),
    "conv1d": lambda injector: qnn.QuantConv1d(4, 5, 3, weight_quant=injector),
    "conv2d": lambda injector: qnn.QuantConv2d(4, 5, 3, weight_quant=injector),
    "transposed": lambda injector: qnn.QuantConvTranspose2d(4, 5, 3, weight_quant=injector),
}
INPUTS = {"linear": (2, 9), "conv1d": (2, 4, 8), "conv2d": (2, 4, 8, 8), "transposed": (2, 4, 8, 8)}


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_brevitas_layers_take_our_quantisers(kind, config) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind](injectors.injector_for(config))
    quantised = layer.quant_weight()
    canonical = layer.weight.movedim(1, 0) if kind == "transposed" else layer.weight
    codes, scale = quantizer_for(config, canonical).integer(canonical)
    assert torch.equal(quantised.int(), (codes.movedim(0, 1) if kind == "transposed" else codes).to(torch.int32))
    assert quantised.is_valid
    if config.per == "tensor":
        assert quantised.scale.shape == ()
    assert {s.item() for s in quantised.scale.flatten()} == {s.item() for s in scale.flatten()}
    torch.testing.assert_close(quantised.value, quantised.int().float() * quantised.scale)
    layer(torch.rand(INPUTS[kind])).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_quant_embedding_takes_a_scale_a_tensor() -> None:
    layer = qnn.QuantEmbedding(6, 4, weight_quant=injectors.SignedTernaryWeightPerTensorFloatMSE)
    assert layer(torch.tensor([1, 2])).shape == (2, 4)


def test_brevitas_layer_does_not_write_into_its_weight() -> None:
    """Brevitas' own binary quantiser clamps the latent weight in place."""
    layer = qnn.QuantLinear(9, 5, weight_quant=injectors.SignedBinaryWeightPerTensorFloat)
    before = layer.weight.detach().clone()
    layer.quant_weight()
    layer(torch.ones(1, 9)).sum().backward()
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("name", NAMED)
def test_names_say_what_they_do(name: str) -> None:
    quantizer = qnn.QuantLinear(9, 5, weight_quant=getattr(injectors, name)).weight_quant.tensor_quant
    assert quantizer.granularity.per == name.partition("WeightPer")[2].partition("Float")[0].lower()
    scheme = type(quantizer).__name__.removesuffix("WeightQuant").replace("Uniform", "Int")
    assert name.startswith(f"Signed{scheme}Weight")
    assert getattr(quantizer, "center", False) == ("Centered" in name)
    wanted = {"TWN": "twn", "MSE": "mse", "Learned": "learned"}
    suffix = next((scale for end, scale in wanted.items() if name.endswith(end)), None)
    assert quantizer.scale == (suffix or {1: "mean", 2: "absmean", 8: "max"}[quantizer.bits])


def test_every_scheme_has_a_name() -> None:
    keys = {injectors.injector_key(config) for config in CONFIGS}
    assert keys == set(injectors.INJECTORS)
    assert {injectors.INJECTORS.get(key).__name__ for key in keys} == set(NAMED)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_injector_for_carries_out_the_config(config) -> None:
    quantizer = qnn.QuantLinear(4, 2, weight_quant=injectors.injector_for(config)).weight_quant.tensor_quant
    assert quantizer.granularity.per == config.per
    assert quantizer.granularity.group_size == config.group_size
    assert (quantizer.scale, quantizer.bits) == (config.scale, config.bits)
    assert getattr(quantizer, "center", False) == getattr(config, "center", False)


def test_brevitas_keyword_arguments() -> None:
    group = injectors.SignedIntWeightPerGroupFloat
    layer = qnn.QuantLinear(8, 2, weight_quant=group, weight_bit_width=3, weight_group_size=4)
    assert layer.quant_weight().int().abs().max() == 3
    assert layer.quant_weight().scale.shape == (2, 8)


# Learned scales in Brevitas layers.


def test_a_float_checkpoint_starts_the_learned_scale_anew() -> None:
    source = nn.Linear(9, 5)
    layer = qnn.QuantLinear(9, 5, weight_quant=injectors.SignedTernaryWeightPerChannelFloatLearned)
    scaling = layer.weight_quant.tensor_quant.scaling
    layer.load_state_dict(source.state_dict(), strict=True)
    assert layer.weight_quant.tensor_quant.scaling is scaling  # an optimiser goes on with it
    want = quantizer_for(Ternary(scale="learned"), source.weight).scaling
    assert torch.equal(scaling, want)


def test_a_checkpoint_brings_the_learned_scale() -> None:
    source, layer = (
        qnn.QuantLinear(9, 5, weight_quant=injectors.SignedBinaryWeightPerChannelFloatLearned) for _ in range(2)
    )
    with torch.no_grad():
        source.weight_quant.tensor_quant.scaling.mul_(1.7)
    layer.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(layer.quant_weight().value, source.quant_weight().value)


def test_a_checkpoint_brings_the_fixed_scale() -> None:
    source, layer = (qnn.QuantLinear(9, 5, weight_quant=injectors.SignedIntWeightPerChannelFloat) for _ in range(2))
    source.weight_quant.tensor_quant.fix_scale(torch.full((5,), 0.01))
    layer.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(layer.quant_weight().value, source.quant_weight().value)


# Errors and third parties.


def test_float_has_no_quantiser() -> None:
    with pytest.raises(ConfigError, match=r"No weight quantiser carries out Float\(\)\. Use Binary\(...\), Ternary"):
        injectors.injector_for(Float())


def test_third_parties_cannot_take_our_names() -> None:
    with pytest.raises(RegistryError, match="snn_extreme_quant and again by somebody"):
        injectors.INJECTORS.register(injectors.injector_key(Ternary()), object(), origin="somebody")
    with pytest.raises(RegistryError, match="snn_extreme_quant and again by somebody"):
        CONFIG_CLASSES.register("ternary", Ternary, origin="somebody")


def test_a_key_leaves_the_numbers_out() -> None:
    assert (
        injectors.injector_key(Uniform(3)) == injectors.injector_key(Uniform(8)) == "kind=uniform,per=channel,scale=max"
    )
    assert injectors.injector_key(Binary(center=True)) == "kind=binary,per=channel,center=True,scale=mean"


@dataclass(frozen=True)
class PowerOfTwo(WeightConfig):
    """A third party's scheme: signs times a power of two."""

    kind: ClassVar[str] = "test_power_of_two"
    exponent: int = -3

    @property
    def bits(self) -> int:
        return 1


class PowerOfTwoQuant(WeightQuant):
    bits, layout = 1, "binary8"

    def __init__(self, exponent: int, output_channel_dim: int) -> None:
        super().__init__(Options("channel", output_axis=output_channel_dim))
        self.exponent = exponent

    def statistic(self, weight: Tensor) -> Tensor:
        return torch.full((weight.shape[0], 1), 2.0**self.exponent, dtype=torch.float64)

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        return (weight >= 0).to(weight.dtype) * 2 - 1


class SignedPowerOfTwoWeight(injectors.SignedWeight):
    tensor_quant = PowerOfTwoQuant


def test_a_third_partys_scheme(monkeypatch) -> None:
    for registry in (CONFIG_CLASSES, injectors.INJECTORS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    CONFIG_CLASSES.register(PowerOfTwo.kind, PowerOfTwo, origin="test")
    injectors.INJECTORS.register(injectors.injector_key(PowerOfTwo()), SignedPowerOfTwoWeight, origin="test")
    config = config_from_dict({"kind": "test_power_of_two", "exponent": -2})
    layer = Linear(6, 3, bias=False, config=config)
    x = weight_of((2, 6))
    torch.testing.assert_close(layer(x), x @ torch.where(layer.weight >= 0, 0.25, -0.25).T)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(3, 6))
