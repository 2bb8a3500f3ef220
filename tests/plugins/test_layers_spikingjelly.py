"""Layers under SpikingJelly's names, in both step modes, and the conversion recipe."""

import copy

import pytest
import torch
from spikingjelly.activation_based import ann2snn, base, functional, neuron
from spikingjelly.activation_based import layer as sj
from torch import Tensor, nn

from snn_extreme_quant import Binary, PrecisionPlan, Ternary, quantize_
from snn_extreme_quant.errors import ConfigError, NothingToQuantizeError, SampleError, UnmatchedNameError
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant_spikingjelly import layers
from snn_extreme_quant_spikingjelly.recipe import ExtremeQuantRecipe

SHAPES = {
    "Linear": (8,),
    "Conv1d": (4, 9),
    "Conv2d": (4, 6, 7),
    "Conv3d": (4, 5, 6, 7),
    "ConvTranspose1d": (4, 5),
    "ConvTranspose2d": (4, 4, 5),
    "ConvTranspose3d": (4, 3, 4, 5),
}


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def arguments(name: str) -> tuple[int, ...]:
    return (8, 6) if name == "Linear" else (4, 6, 3)


def test_every_synaptic_layer_of_spikingjelly_has_its_sibling() -> None:
    """All step modules of the framework that hold a weight matrix and multiply by nothing else."""
    found = {
        name
        for name, cls in vars(sj).items()
        if isinstance(cls, type)
        and issubclass(cls, base.StepModule)
        and issubclass(cls, (nn.Linear, nn.modules.conv._ConvNd))
    }
    assert found - set(SHAPES) == {"WSConv2d", "WSLinear"}, "those standardise the weight in their forward pass"
    assert {cls.__name__ for cls in layers.LAYERS} == set(SHAPES)
    for theirs, ours in layers.LAYERS.items():
        assert ours.__name__ == theirs.__name__
        assert getattr(layers, ours.__name__) is ours
        assert issubclass(ours, (IntegerFirst, base.StepModule))


@pytest.mark.parametrize("config", [Ternary(), Binary(per="tensor")], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_a_sequence_is_its_steps(name, config) -> None:
    layer = getattr(layers, name)(*arguments(name), config=config, step_mode="m")
    assert "step_mode=m" in repr(layer)
    x = spikes(3, 2, *SHAPES[name])
    sequence = layer(x)
    layer.step_mode = "s"
    assert torch.equal(sequence, torch.stack([layer(step) for step in x]))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_it_computes_what_the_frameworks_layer_does_with_the_dequantised_weight(name, step_mode) -> None:
    theirs = getattr(sj, name)(*arguments(name), step_mode=step_mode)
    net = nn.Sequential(theirs)
    quantize_(net, Ternary())
    ours = net[0]
    assert type(ours) is getattr(layers, name)
    assert ours.weight is theirs.weight
    plain = copy.deepcopy(theirs)
    plain.weight = ours.to_float().weight
    x = spikes(*((3,) if step_mode == "m" else ()), 2, *SHAPES[name])
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)
    ours(x).sum().backward()
    assert theirs.weight.grad.any()


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "Linear"])
def test_a_step_in_mode_m_is_refused(name) -> None:
    layer = getattr(layers, name)(*arguments(name), step_mode="m")
    with pytest.raises(SampleError, match=rf"{name}\(step_mode='m'\) takes \(T, N, C, .*Use step_mode='s'"):
        layer(spikes(2, *SHAPES[name]))


def test_layers_that_standardise_their_weight_are_left() -> None:
    net = nn.Sequential(sj.WSLinear(4, 4), sj.WSConv2d(1, 1, 3), sj.Linear(4, 4))
    report = quantize_(net, Ternary())
    assert {entry.name: entry.reason for entry in report.left} == {
        "0": "WSLinear overrides Linear.forward()",
        "1": report.left[1].reason,
    }
    assert report.left[1].reason.startswith("WSConv2d overrides Conv2d.")


def test_set_step_mode_knows_the_layers() -> None:
    net = nn.Sequential(layers.Conv2d(1, 2, 3), neuron.LIFNode(), layers.ConvTranspose2d(2, 1, 3))
    functional.set_step_mode(net, "m")
    assert [module.step_mode for module in net] == ["m", "m", "m"]
    assert net(spikes(3, 2, 1, 6, 6)).shape == (3, 2, 1, 6, 6)


# The recipe.


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        sj.Conv2d(1, 4, 3, padding=1, step_mode="m"),
        sj.BatchNorm2d(4, step_mode="m"),
        neuron.LIFNode(step_mode="m"),
        sj.Flatten(step_mode="m"),
        nn.Linear(144, 3),
        neuron.IFNode(step_mode="m"),
    )


def test_the_recipe_does_what_quantize_does() -> None:
    net, reference = network(), network()
    parameters = dict(net.named_parameters())
    net[0].eval()
    reference[0].eval()
    recipe = ExtremeQuantRecipe(PrecisionPlan({"4": Binary()}, default=Ternary()))
    converted = ann2snn.ModuleConverter(recipe).convert(net)
    report = quantize_(reference, recipe.config)
    assert converted is net
    assert recipe.report == report
    assert all(p is parameters[name] for name, p in converted.named_parameters())
    assert [module.training for module in converted] == [module.training for module in reference]
    x = spikes(4, 2, 1, 6, 6)
    y = converted(x)
    assert torch.equal(y, reference(x))
    y.sum().backward()
    assert converted[0].weight.grad.any(), "SpikingJelly converts without gradients; afterwards they must flow"


@pytest.mark.parametrize("skip", ["4", ["4"], iter(["4"])], ids=["string", "list", "iterator"])
def test_the_recipe_skips_and_can_be_used_again(skip) -> None:
    recipe = ExtremeQuantRecipe(Ternary(), skip)
    for _ in range(2):
        net = ann2snn.ModuleConverter(recipe).convert(network())
        assert type(net[4]) is nn.Linear
        assert type(net[0]) is layers.Conv2d


def test_the_recipe_refuses_what_quantize_refuses() -> None:
    for recipe, net, error in (
        (ExtremeQuantRecipe(Ternary(), ["9"]), network(), UnmatchedNameError),
        (ExtremeQuantRecipe(Ternary()), nn.Sequential(neuron.IFNode()), NothingToQuantizeError),
        (ExtremeQuantRecipe("ternary"), network(), ConfigError),
    ):
        with pytest.raises(error):
            ann2snn.ModuleConverter(recipe).convert(net)


def test_the_graph_converter_says_which_converter_to_use() -> None:
    with pytest.raises(TypeError, match="Use ModuleConverter"):
        ann2snn.FXConverter(ExtremeQuantRecipe(Ternary()))
