"""A model goes to NIR, into a file and back: same codes, same scales, same neurons, same spikes."""

from pathlib import Path

import nir
import pytest
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.exchange import from_nir, to_nir
from snn_extreme_quant.frameworks import neurons_of
from snn_extreme_quant.layers import IntegerFirst

from .networks import NETWORKS, build, spikes_of

CONFIGS = [
    sxq.Ternary(),
    sxq.Ternary(per="tensor"),
    sxq.Ternary(per="group", group_size=4),
    sxq.Ternary(scale="mse"),
    sxq.Ternary(scale="twn"),
    sxq.Ternary(scale="learned"),
    sxq.Binary(),
    sxq.Binary(per="tensor", center=True),
    sxq.Binary(per="group", group_size=4),
    sxq.Uniform(bits=2),
    sxq.Uniform(bits=4),
    sxq.Uniform(bits=8),
    sxq.Uniform(bits=16),
]


def round_trip(net: nn.Module, sample: torch.Tensor, folder: Path, **options: object) -> nn.Module:
    nir.write(folder / "net.nir", to_nir(net, sample))
    return from_nir(folder / "net.nir", **options)


def assert_same_model(net: nn.Module, again: nn.Module) -> None:
    mine = {name: m for name, m in net.named_modules() if isinstance(m, (IntegerFirst, nn.Linear, nn.Conv2d))}
    assert mine
    for name, layer in mine.items():
        other = again.get_submodule(name)
        if isinstance(layer, IntegerFirst):
            assert other.config == layer.config
            for have, want in zip(other.integer_weight(), layer.integer_weight(), strict=True):
                assert torch.equal(have, want)
        else:
            assert torch.equal(other.weight, layer.weight)
        assert (other.bias is None) == (layer.bias is None)
        assert other.bias is None or torch.equal(other.bias, layer.bias)
    ours, theirs = neurons_of(net), neurons_of(again)
    assert sorted(n.name for n in ours) == sorted(n.name for n in theirs)
    for neuron in ours:
        module = again.get_submodule(neuron.name)
        assert type(module) is type(neuron.module)
        want, have = neuron.read(), neuron.framework.read_neuron(module)
        assert (have.spec, have.multi_step) == (want.spec, want.multi_step)
        assert {k: v for k, v in have.initial.items() if v} == {k: v for k, v in want.initial.items() if v}
        for name, value in want.parameters.items():
            assert torch.equal(have.parameters[name].expand_as(value), value), name


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_comes_back(name: str, tmp_path: Path) -> None:
    net, sample = build(name, sxq.Ternary())
    again = round_trip(net, sample, tmp_path)
    assert_same_model(net, again)
    inputs = (torch.rand(8, *sample.shape, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    want, have = spikes_of(net, inputs), spikes_of(again, inputs)
    assert torch.equal(have, want)
    assert (want != 0).sum() > 0, "the network never fired"


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("name", ["Leaky subtract delayed", "SpikingJelly image, multi-step"])
def test_every_precision_comes_back(name: str, config: sxq.config.WeightConfig, tmp_path: Path) -> None:
    net, sample = build(name, config)
    assert_same_model(net, round_trip(net, sample, tmp_path))


def test_float_layers_come_back(tmp_path: Path) -> None:
    net, sample = build("snnTorch image", None)
    assert_same_model(net, round_trip(net, sample, tmp_path))


def test_mixed_precision_comes_back(tmp_path: Path) -> None:
    net, sample = build("snnTorch image", sxq.PrecisionPlan({"0": sxq.Binary()}, default=sxq.Float()))
    again = round_trip(net, sample, tmp_path)
    assert_same_model(net, again)
    assert isinstance(again.get_submodule("0"), IntegerFirst)
    assert type(again.get_submodule("5")) is nn.Linear


@pytest.mark.parametrize("dt", [1e-4, 1e-3, 1.0])
def test_the_time_step_changes_nothing_for_us(dt: float, tmp_path: Path) -> None:
    net, sample = build("Lapicque", sxq.Ternary())
    nir.write(tmp_path / "net.nir", to_nir(net, sample, dt=dt))
    assert_same_model(net, from_nir(tmp_path / "net.nir"))


def test_the_model_is_left_as_it_was() -> None:
    net, sample = build("snnTorch residual", sxq.Ternary())
    net.train()
    net.short.eval()
    inputs = torch.ones(2, *sample.shape)
    want = spikes_of(net, inputs)
    sxq.reset(net)
    with torch.no_grad():
        first = net(inputs[0])
        to_nir(net, sample)
        second = net(inputs[1])
    assert torch.equal(torch.stack([torch.stack(first), torch.stack(second)]), want)
    assert net.training
    assert not net.short.training


def test_what_comes_back_can_be_trained_and_written_again(tmp_path: Path) -> None:
    net, sample = build("Leaky subtract delayed", sxq.Ternary())
    again = round_trip(net, sample, tmp_path)
    optimiser = torch.optim.SGD(again.parameters(), 10.0)
    before, _ = again.get_submodule("0").integer_weight()
    again(torch.ones(3, 12)).sum().backward()
    optimiser.step()
    after, _ = again.get_submodule("0").integer_weight()
    assert not torch.equal(before, after)
    sxq.reset(again)
    third = tmp_path / "third"
    third.mkdir()
    assert_same_model(again, round_trip(again, sample, third))


@pytest.mark.parametrize("name", ["Leaky subtract delayed", "SpikingJelly image, multi-step"])
def test_what_comes_back_can_be_deployed(name: str, tmp_path: Path) -> None:
    net, sample = build(name, sxq.Ternary())
    again = round_trip(net, sample, tmp_path)
    inputs = (torch.rand(6, *sample.shape[-4:], generator=torch.Generator().manual_seed(1)) < 0.5).float()
    sxq.export_onnx(again, inputs, tmp_path / "net.onnx")
    report = sxq.verify(net, tmp_path / "net.onnx", inputs)
    assert report.spikes_compared > 0
    assert report.spikes_different == 0


def test_a_sample_is_needed_only_where_shapes_do_not_say_it() -> None:
    assert to_nir(build("Leaky subtract delayed", sxq.Ternary())[0]).nodes["0"].weight.shape == (9, 12)
    with pytest.raises(sxq.SxqError, match="give to_nir"):
        to_nir(build("snnTorch image", sxq.Ternary())[0])


def test_weights_are_codes_times_scale_and_neurons_have_full_shape() -> None:
    net, sample = build("snnTorch image", sxq.Ternary())
    graph = to_nir(net, sample)
    codes, scale = net[0].integer_weight()
    assert torch.equal(torch.from_numpy(graph.nodes["0"].weight), (codes * scale.view(-1, 1, 1, 1)).detach())
    for name in ("tau", "r", "v_leak", "v_threshold", "v_reset"):
        assert getattr(graph.nodes["1"], name).shape == (4, 8, 8)
    assert "2" not in graph.nodes, "dropout has no node"
