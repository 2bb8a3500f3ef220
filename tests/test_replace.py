"""quantize_: what it swaps, what it keeps, what it leaves and why, and what it refuses without touching the model."""

import copy

import pytest
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import layer as sj
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor, nn

from snn_extreme_quant import Binary, Float, PrecisionPlan, Ternary, quantize_, reset
from snn_extreme_quant.errors import (
    ConfigError,
    NonFiniteWeightError,
    UnmatchedNameError,
)
from snn_extreme_quant.layers import Conv1d, Conv2d, IntegerFirst, Linear
from snn_extreme_quant.replace.targets import TORCH_LAYERS
from tests.swapped_models import assert_unchanged, mlp, snapshot


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding="same", padding_mode="reflect")
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))])
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 2, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        x = x.mean((-1, -2))
        return torch.cat([head(x) for head in self.heads.values()], -1)


# What is swapped, and kept.


def test_nested_containers() -> None:
    net = Features()
    report = quantize_(net, Ternary())
    assert type(net.conv) is type(net.blocks[0][0]) is Conv2d
    assert type(net.heads["a"]) is type(net.heads["b"]) is Linear
    assert [r.names for r in report.replaced] == [("conv",), ("blocks.0.0",), ("heads.a",), ("heads.b",)]
    assert report.left == ()
    assert report.quantized_weights == 4 * 9 + 16 * 9 + 12 + 8
    assert net(torch.rand(2, 1, 6, 6)).shape == (2, 5)


def test_conv1d() -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 3, stride=2))
    quantize_(net, Binary())
    assert type(net[0]) is Conv1d
    assert net(torch.rand(1, 2, 9)).shape == (1, 3, 4)


def test_output_is_that_of_the_dequantised_model() -> None:
    net = Features().eval()
    plain = copy.deepcopy(net)
    quantize_(net, Ternary())
    for name, module in net.named_modules():
        if isinstance(module, IntegerFirst):
            plain.get_submodule(name).weight = module.to_float().weight
    x = torch.rand(2, 1, 6, 6)
    torch.testing.assert_close(net(x), plain(x), rtol=1e-4, atol=1e-5)


def test_parameters_stay_the_same_objects_and_the_optimiser_goes_on() -> None:
    net = mlp()
    before = dict(net.named_parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    quantize_(net, Ternary())
    after = dict(net.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert list(net.state_dict()) == list(mlp().state_dict())
    weight = net[2].weight.detach().clone()
    net(torch.ones(3, 4)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(net[2].weight, weight)


def test_tied_weights_stay_tied() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    quantize_(net, Ternary())
    assert net[2].weight is net[0].weight
    net(torch.ones(1, 4)).sum().backward()
    assert len({id(p) for p in net.parameters()}) == 3


def test_a_tie_to_a_layer_that_is_not_swapped_stays() -> None:
    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))
    net[1].weight = net[0].weight
    quantize_(net, Ternary(), skip=["0"])
    assert net[1].weight is net[0].weight
    assert type(net[0]) is nn.Embedding


def test_shared_modules_stay_shared() -> None:
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared))
    report = quantize_(net, Ternary())
    assert type(net[0]) is Linear
    assert net[0] is net[2][0]
    assert [r.names for r in report.replaced] == [("0", "2.0")]
    assert "0 = 2.0" in str(report)


def test_training_flags_and_frozen_parameters_stay() -> None:
    net = mlp()
    net[0].eval()
    net[2].weight.requires_grad_(False)
    quantize_(net, Ternary())
    assert [net[i].training for i in (0, 2, 4)] == [False, True, True]
    assert [net[i].weight.requires_grad for i in (0, 2, 4)] == [True, False, True]


def test_hooks_stay_and_can_be_removed() -> None:
    net = mlp()
    seen: list[int] = []
    handles = [
        net[0].register_forward_hook(lambda *_: seen.append(0)),
        net[2].register_forward_pre_hook(lambda *_: seen.append(1)),
    ]
    quantize_(net, Ternary())
    net(torch.ones(1, 4))
    assert seen == [0, 1]
    for handle in handles:
        handle.remove()
    net(torch.ones(1, 4))
    assert seen == [0, 1]


def test_copies_before_and_after() -> None:
    net = mlp()
    untouched = copy.deepcopy(net)
    quantize_(net, Ternary())
    assert type(untouched[0]) is nn.Linear
    twin = copy.deepcopy(net)
    assert type(twin[0]) is Linear
    x = torch.ones(1, 4)
    reset(net)
    reset(twin)
    assert torch.equal(twin(x), net(x))


@pytest.mark.parametrize("name", TORCH_LAYERS, ids=lambda cls: cls.__name__)
def test_every_layer_of_torch_and_its_sibling_here(name) -> None:
    """Also with a precision per group, which keeps the shapes of codes apart from those of weights."""
    make = {nn.Linear: lambda: nn.Linear(4, 6), nn.Embedding: lambda: nn.Embedding(4, 6)}.get(
        name, lambda: name(4, 6, 3)
    )
    net = nn.Sequential(make())
    quantize_(net, Ternary(per="group", group_size=2))
    assert type(net[0]) is TORCH_LAYERS[name]
    assert type(net[0].to_float()) is name


def test_layers_are_built_before_any_is_swapped() -> None:
    """A precision that one layer cannot have is an error that names it, and leaves all as they were."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose1d(4, 4, 3, groups=4))
    before = snapshot(net)
    with pytest.raises(ConfigError, match=r"Layer '1': .*groups=2.*use per='channel'"):
        quantize_(net, Ternary(per="group", group_size=2))
    assert_unchanged(net, before)
    quantize_(net, PrecisionPlan({"1": Ternary(), "2": Binary()}, default=Ternary(per="group", group_size=2)))
    assert isinstance(net[1], Conv2d)


def test_learned_scales_are_announced() -> None:
    net = mlp()
    report = quantize_(net, PrecisionPlan({"0": Ternary(scale="learned")}, default=Ternary()))
    assert report.notes == ("1 learned scales are new Parameters: make the optimiser after this, or add them to it",)
    assert str(report).endswith(report.notes[0])
    assert quantize_(mlp(), Ternary()).notes == ()


def test_buffers_and_other_modules_stay() -> None:
    net = Features()
    norm = net.blocks[0][1]
    quantize_(net, Ternary())
    assert net.blocks[0][1] is norm


# SpikingJelly.


def spiking_jelly(step_mode: str) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        sj.Conv2d(1, 4, 3, padding=1),
        sj.BatchNorm2d(4),
        sj_neuron.IFNode(),
        sj.Flatten(),
        sj.Linear(4 * 36, 5),
        sj_neuron.LIFNode(),
    )
    functional.set_step_mode(net, step_mode)
    return net


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_spikingjelly_layers_keep_their_step_mode(step_mode) -> None:
    net = spiking_jelly(step_mode).eval()
    report = quantize_(net, Ternary())
    assert len(report.replaced) == 2
    assert net[0].step_mode == net[4].step_mode == step_mode
    x = (torch.rand(3, 2, 1, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    outputs = net(x) if step_mode == "m" else torch.stack([net(step) for step in x])
    functional.reset_net(net)
    other = "s" if step_mode == "m" else "m"
    functional.set_step_mode(net, other)
    again = net(x) if other == "m" else torch.stack([net(step) for step in x])
    assert torch.equal(outputs, again)


def test_reset_net_after_a_swap() -> None:
    net = spiking_jelly("m").eval()
    x = (torch.rand(3, 2, 1, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    functional.reset_net(net)  # fills SpikingJelly's cache
    quantize_(net, Binary())
    first = net(x)
    functional.reset_net(net)
    assert net[2].v == net[5].v == 0.0
    assert torch.equal(net(x), first)


def test_frameworks_are_told_of_the_swap(monkeypatch) -> None:
    told: list[nn.Module] = []
    monkeypatch.setattr(functional, "invalidate_reset_cache", told.append)
    net = spiking_jelly("m")
    quantize_(net, Ternary())
    assert told == [net]


def test_step_mode_containers() -> None:
    net = sj.SeqToANNContainer(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    quantize_(net, Ternary())
    assert net(torch.rand(3, 2, 1, 6, 6)).shape == (3, 2, 2, 4, 4)


# Skipping and plans.


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        (["conv"], ["conv"]),
        ("conv", ["conv"]),
        (["heads"], ["heads.a", "heads.b"]),
        (["heads.*"], ["heads.a", "heads.b"]),
        (["*.0"], ["blocks.0.0"]),
        (["block?"], ["blocks.0.0"]),
        (["conv", "heads.b"], ["conv", "heads.b"]),
        (iter(("conv",)), ["conv"]),
    ],
    ids=lambda value: str(value) if isinstance(value, (str, list)) else "iterator",
)
def test_skip(skip, left) -> None:
    net = Features()
    report = quantize_(net, Ternary(), skip=skip)
    assert [entry.name for entry in report.left] == left
    assert {entry.reason for entry in report.left} == {"skipped by name"}
    assert [name for name, m in net.named_modules() if type(m) in {nn.Linear, nn.Conv2d}] == left


def test_skip_one_name_of_a_shared_layer() -> None:
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.Sequential(shared), nn.Linear(4, 4))
    report = quantize_(net, Ternary(), skip=["1"])
    assert type(net[0]) is nn.Linear
    assert [entry.name for entry in report.left] == ["0 = 1.0"]


@pytest.mark.parametrize(
    ("name", "sentence"), [("hedas", "Did you mean 'heads'"), ("head", "Did you mean 'heads'"), ("zzz*", "Known: ")]
)
def test_unmatched_skip(name, sentence) -> None:
    net = Features()
    before = snapshot(net)
    with pytest.raises(UnmatchedNameError) as caught:
        quantize_(net, Ternary(), skip=["conv", name])
    assert f"{name!r} in skip matches no layer. {sentence}" in str(caught.value)
    assert_unchanged(net, before)


def test_plan() -> None:
    net = Features()
    plan = PrecisionPlan({"heads.b": Float(), "heads.*": Binary(per="tensor"), "*.0.0": Binary()}, default=Ternary())
    report = quantize_(net, plan)
    assert {r.names[0]: r.config for r in report.replaced} == {
        "conv": Ternary(),
        "blocks.0.0": Binary(),
        "heads.a": Binary(per="tensor"),
    }
    assert [(entry.name, entry.reason) for entry in report.left] == [("heads.b", "float by plan")]
    assert net.heads["a"].config == Binary(per="tensor")


def test_plan_with_skip() -> None:
    report = quantize_(Features(), PrecisionPlan({"heads.*": Binary()}, default=Ternary()), skip=["heads.a"])
    assert [r.names[0] for r in report.replaced] == ["conv", "blocks.0.0", "heads.b"]


@pytest.mark.parametrize("pattern", ["heads.c", "heads", "blocks.0.1"])
def test_a_rule_must_match_a_layer_that_can_be_quantised(pattern) -> None:
    """A rule for a container or a batch norm would do nothing, silently."""
    net = Features()
    before = snapshot(net)
    with pytest.raises(UnmatchedNameError, match=f"'{pattern}' in the plan matches no layer. Did you mean"):
        quantize_(net, PrecisionPlan({pattern: Binary()}, default=Ternary()))
    assert_unchanged(net, before)


def test_a_plan_that_contradicts_itself_on_a_shared_layer() -> None:
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, shared)
    with pytest.raises(ConfigError, match="shared layer 0 = 1 different precisions"):
        quantize_(net, PrecisionPlan({"0": Binary(), "1": Ternary()}))
    assert type(net[0]) is nn.Linear


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Float(), r"quantize_\(model, Float\(\)\) would change nothing"),
        ("ternary", r"takes Binary\(\), Ternary\(\), Uniform\(\) or a PrecisionPlan; got 'ternary'"),
        (Ternary, "takes Binary"),
        (None, "takes Binary"),
    ],
    ids=["float", "string", "class", "none"],
)
def test_configs_that_are_none(config, message) -> None:
    with pytest.raises(ConfigError, match=message):
        quantize_(mlp(), config)


# Refusals.


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("position", ["0", "4"])
def test_non_finite_weights(value, position) -> None:
    net = mlp()
    with torch.no_grad():
        net.get_submodule(position).weight[1, 2] = value
    before = snapshot(net)
    with pytest.raises(NonFiniteWeightError, match=f"The weight of '{position}' holds NaN or infinite values; load"):
        quantize_(net, Ternary())
    assert_unchanged(net, before)
    quantize_(net, Ternary(), skip=[position])
    assert type(net[2]) is Linear
