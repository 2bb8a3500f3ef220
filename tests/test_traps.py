"""Known traps of snnTorch 1.0, SpikingJelly 2.0, Brevitas and torch: each shown, and shown to be closed here."""

import copy

import pytest
import snntorch as snn
import torch
from brevitas import nn as qnn
from brevitas.graph.quantize import layerwise_quantize
from snntorch import utils
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import layer as sj
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant import Ternary, quantize_
from snn_extreme_quant.layers import Conv2d, IntegerFirst, Linear


@pytest.fixture(autouse=True)
def forget_snntorch_neurons():
    """snnTorch keeps every neuron of the process; these tests look at that list."""
    from snntorch._neurons.neurons import SpikingNeuron

    before, SpikingNeuron.instances = SpikingNeuron.instances, []
    yield
    SpikingNeuron.instances = before


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def nested() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), snn.Leaky(0.9, init_hidden=True)))


# snnTorch: reset.


def test_utils_reset_misses_nested_neurons_and_ours_does_not() -> None:
    net = nested()
    quantize_(net, Ternary())
    first = net(torch.ones(1, 4))
    assert net[1][1].mem.any()
    utils.reset(net)
    assert net[1][1].mem.any(), "snnTorch resets nested neurons now: the docs are out of date"
    sxq.reset(net)
    assert not net[1][1].mem.any()
    assert torch.equal(net(torch.ones(1, 4)), first)


def test_utils_reset_resets_other_networks_and_ours_does_not() -> None:
    net, other = (nn.Sequential(nn.Linear(4, 4), snn.Leaky(0.9, init_hidden=True)) for _ in range(2))
    quantize_(net, Ternary())
    for reset, kept in ((utils.reset, False), (sxq.reset, True)):
        net(torch.ones(1, 4))
        other(torch.ones(1, 4))
        reset(net)
        assert bool(other[1].mem.any()) == kept
        assert not net[1].mem.any()


def test_utils_reset_does_nothing_to_a_copy_and_ours_resets_it() -> None:
    net = nn.Sequential(nn.Linear(4, 4), snn.Leaky(0.9, init_hidden=True))
    quantize_(net, Ternary())
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin(torch.ones(1, 4))
        net(torch.ones(1, 4))
    utils.reset(twin)
    assert twin[1].mem.any()
    sxq.reset(twin)
    assert not twin[1].mem.any()
    utils.reset(twin)  # which resets the original instead
    net(torch.ones(1, 4))
    sxq.reset(twin)
    assert net[1].mem.any(), "our reset of a copy must not touch the original"


@pytest.mark.parametrize(
    "make",
    [
        lambda: snn.Leaky(0.9, init_hidden=True),
        lambda: snn.Synaptic(0.8, 0.9, init_hidden=True),
        lambda: snn.Alpha(0.8, 0.7, init_hidden=True),
        lambda: snn.RLeaky(0.9, linear_features=4, init_hidden=True),
        lambda: snn.RSynaptic(0.8, 0.9, linear_features=4, init_hidden=True),
        lambda: snn.SLSTM(4, 4, init_hidden=True),
        lambda: snn.SConv2dLSTM(1, 1, 3, init_hidden=True),
    ],
    ids=["Leaky", "Synaptic", "Alpha", "RLeaky", "RSynaptic", "SLSTM", "SConv2dLSTM"],
)
def test_a_network_can_be_copied_after_a_forward_pass_once_it_is_reset(make) -> None:
    """snnTorch keeps the last step's potential with its graph, which cannot be copied."""
    net = nn.Sequential(nn.Linear(4, 4), make())
    quantize_(net, Ternary())
    shape = (1, 4, 4) if isinstance(net[1], snn.SConv2dLSTM) else (4,)
    net(torch.ones(1, *shape)).sum().backward()
    with pytest.raises(RuntimeError, match="Only Tensors created explicitly by the user"):
        copy.deepcopy(net)
    sxq.reset(net)
    twin = copy.deepcopy(net)
    for step in torch.rand(3, 2, *shape):
        assert torch.equal(net(step), twin(step))


# SpikingJelly.


def test_reset_net_remembers_the_modules_from_before_a_swap() -> None:
    """Shown on a swap by hand; quantize_ clears the cache, also for neurons that come with another swap."""

    def warm(net: nn.Sequential) -> None:
        functional.reset_net(net)
        net[1] = old_neurons.setdefault(net, sj_neuron.IFNode())

    old_neurons: dict[nn.Module, nn.Module] = {}
    by_hand, ours = (nn.Sequential(sj.Linear(4, 4), sj_neuron.IFNode()) for _ in range(2))
    kept = [net[1] for net in (by_hand, ours)]  # while the old one lives, its cache entry does
    for net in (by_hand, ours):
        warm(net)
    quantize_(ours, Ternary())
    for net in (by_hand, ours):
        with torch.no_grad():
            net[1](torch.full((1, 4), 0.25))
    functional.reset_net(by_hand)
    functional.reset_net(ours)
    assert isinstance(by_hand[1].v, Tensor), "SpikingJelly sees swapped modules now: the docs are out of date"
    assert ours[1].v == 0.0
    assert len(kept) == 2
    sxq.reset(by_hand)
    assert by_hand[1].v == 0.0, "our reset looks at the modules that are there now"


class Widened(sj.Linear):
    """A user's subclass that computes what its base computes."""


@pytest.mark.parametrize("make", [lambda: sj.Linear(4, 4), lambda: Widened(4, 4)], ids=["layer.Linear", "subclass"])
def test_layerwise_quantize_skips_subclasses_and_ours_does_not(make) -> None:
    theirs, ours = nn.Sequential(make(), nn.Linear(4, 4)), nn.Sequential(make(), nn.Linear(4, 4))
    layerwise_quantize(theirs, compute_layer_map={nn.Linear: (qnn.QuantLinear, {})})
    assert [isinstance(module, qnn.QuantLinear) for module in theirs] == [False, True]
    quantize_(ours, Ternary())
    assert [isinstance(module, IntegerFirst) for module in ours] == [True, True]
    assert ours[0].step_mode == "s"


def test_step_mode_survives() -> None:
    net = nn.Sequential(sj.Conv2d(1, 2, 3), sj_neuron.IFNode())
    functional.set_step_mode(net, "m")
    quantize_(net, Ternary())
    assert net(torch.rand(3, 2, 1, 6, 6)).shape == (3, 2, 2, 4, 4)
    functional.set_step_mode(net, "s")
    assert net[0].step_mode == "s"


# torch.


def test_the_fast_path_of_the_transformer_runs_float_weights_unless_it_is_switched_off() -> None:
    """Shown on a layer put in by hand."""
    torch.manual_seed(0)
    float_layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    by_hand, ours = copy.deepcopy(float_layer), copy.deepcopy(float_layer)
    for name in ("linear1", "linear2"):
        setattr(by_hand, name, Linear.from_float(getattr(by_hand, name), Ternary()))
    quantize_(ours, Ternary())
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        assert torch.equal(by_hand(x), float_layer(x)), "torch calls the layers now: the switch is not needed"
        assert not torch.allclose(ours(x), float_layer(x), atol=1e-2)
    torch.testing.assert_close(ours(x), by_hand(x), rtol=1e-5, atol=1e-5)  # with gradients the layers are called


def test_tied_weights_stay_tied() -> None:
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False))
    net[1].weight = net[0].weight
    quantize_(net, Ternary())
    assert net[1].weight is net[0].weight
    assert len(list(net.parameters())) == 1
    codes = [layer.integer_weight()[0] for layer in net]
    assert torch.equal(codes[0], codes[1])
    net(torch.arange(9)).sum().backward()
    with torch.no_grad():
        net[0].weight.neg_()
    assert torch.equal(net[1].integer_weight()[0], -codes[0])


def test_shared_modules_stay_shared() -> None:
    shared = nn.Linear(4, 4)
    net = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), "c": nn.ModuleList([shared])})
    report = quantize_(net, Ternary())
    assert net["a"] is net["b"][0] is net["c"][0]
    assert report.replaced[0].names == ("a", "b.0", "c.0")


def test_an_optimiser_from_before_goes_on() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    quantize_(net, Ternary())
    before = [p.detach().clone() for p in net.parameters()]
    net(spikes(2, 1, 6, 6)).square().sum().backward()
    optimizer.step()
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in net.parameters()}
    assert all(not torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


def test_frozen_weights_and_hooks_stay() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 2))
    net[0].weight.requires_grad_(False)
    seen: list[str] = []
    net[0].register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    net[2].register_full_backward_hook(lambda *_: seen.append("backward"))
    net[2].weight.register_hook(lambda gradient: seen.append("gradient"))
    quantize_(net, Ternary())
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True]
    net(spikes(2, 1, 6, 6)).sum().backward()
    assert type(net[0]) is Conv2d
    assert sorted(seen) == ["Conv2d", "backward", "gradient"]
    assert net[0].weight.grad is None
