"""Checkpoints: plain state dicts in both directions, safetensors files with precisions, and what does not fit."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import snntorch as snn
import torch
from spikingjelly.activation_based import layer as sj
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor, nn

from snn_extreme_quant import (
    Binary,
    Float,
    PrecisionPlan,
    Ternary,
    Uniform,
    checkpoint_plan,
    load_checkpoint,
    quantize_,
    reset,
    save_checkpoint,
)
from snn_extreme_quant.checkpoints import to_safetensors
from snn_extreme_quant.errors import CheckpointError, OutputPathError

PLAN = PrecisionPlan(
    {
        "0": Binary(per="tensor"),
        "2": Ternary(scale="learned"),
        "4": Uniform(bits=4, per="group", group_size=3),
        "6": Float(),
    }
)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in ((4, 8), (8, 8), (8, 6), (6, 2)):
        layers += [nn.Linear(inputs, outputs), snn.Leaky(0.9, init_hidden=True)]
    return nn.Sequential(*layers)


def run(net: nn.Module) -> Tensor:
    reset(net)
    x = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(1)) * 3
    return torch.stack([net(step) for step in x])


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def facts_of(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["snn_extreme_quant"])


# Plain state dicts.


def test_a_float_state_dict_loads_into_a_quantised_model_and_back() -> None:
    floating, quantised = network(0), network(1)
    plan = PrecisionPlan({"0": Binary(), "2": Uniform(bits=3)}, default=Ternary())
    quantize_(quantised, plan)
    quantised.load_state_dict(floating.state_dict())
    assert_same(values(quantised), values(floating))
    expected = copy.deepcopy(floating)
    quantize_(expected, plan)
    assert torch.equal(run(quantised), run(expected))

    again = network(2)
    again.load_state_dict(quantised.state_dict())
    assert torch.equal(run(again), run(floating))


def test_a_float_state_dict_starts_learned_scales_anew() -> None:
    floating, quantised = network(0), network(1)
    quantize_(quantised, Ternary(scale="learned"))
    quantised.load_state_dict(floating.state_dict())
    expected = copy.deepcopy(floating)
    quantize_(expected, Ternary(scale="learned"))
    assert_same(values(quantised), values(expected))


def test_whole_modules_are_not_pickled() -> None:
    """The documented way is a state dict; this pins that the other one fails rather than writes something odd."""
    net = network()
    quantize_(net, Ternary())
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(net)
    assert pickle.loads(pickle.dumps(net.state_dict())).keys() == net.state_dict().keys()


# Files.


def test_round_trip(tmp_path) -> None:
    path = tmp_path / "net.safetensors"
    net = network(0)
    quantize_(net, PLAN)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    run(net).sum().backward()
    optimizer.step()  # scales that were learned
    save_checkpoint(net, path)

    twin = network(1)
    quantize_(twin, checkpoint_plan(path))
    load_checkpoint(twin, str(path))
    assert_same(values(twin), values(net))
    assert torch.equal(run(twin), run(net))
    assert [type(layer) for layer in twin] == [type(layer) for layer in net]


def test_the_plan_of_a_file(tmp_path) -> None:
    path = tmp_path / "net.safetensors"
    net = network()
    quantize_(net, PLAN)
    save_checkpoint(net, path)
    assert dict(checkpoint_plan(path).rules) == {name: config for name, config in PLAN.rules if name != "6"}
    assert checkpoint_plan(path).default == Float()


def test_the_same_model_gives_the_same_bytes(tmp_path) -> None:
    net = network()
    quantize_(net, PLAN)
    path, written = tmp_path / "net.safetensors", set()
    for _ in range(12):
        save_checkpoint(net, path)
        written.add(path.read_bytes())
    assert len(written) == 1
    (data,) = written
    assert (8 + int.from_bytes(data[:8], "little")) % 8 == 0  # where tensors begin, for readers that map the file
    few = {"x": torch.ones(1)}, {"größe": "é" * 7}
    assert to_safetensors(*few) == safetensors.torch.save(*few)


def test_other_readers_of_safetensors_can_read_the_file(tmp_path) -> None:
    path = tmp_path / "net.safetensors"
    net = network()
    quantize_(net, Ternary())
    save_checkpoint(net, path)
    assert_same(dict(sorted(safetensors.torch.load_file(path).items())), dict(sorted(values(net).items())))


def test_float_files_load_into_both(tmp_path) -> None:
    floating = network(0)
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    save_checkpoint(floating, ours)
    safetensors.torch.save_file(floating.state_dict(), theirs)
    for path in (ours, theirs):
        plain, quantised = network(1), network(2)
        quantize_(quantised, Ternary())
        load_checkpoint(plain, path)
        load_checkpoint(quantised, path)
        assert_same(values(plain), values(floating))
        assert_same(values(quantised), values(floating))
    with pytest.raises(CheckpointError, match=r"was not written by save_checkpoint\(\).*Choose them yourself"):
        checkpoint_plan(theirs)
    assert checkpoint_plan(ours) == PrecisionPlan()


def test_a_fixed_scale_comes_back(tmp_path) -> None:
    path = tmp_path / "net.safetensors"
    net = nn.Sequential(nn.Linear(4, 3))
    quantize_(net, Ternary())
    net[0].quantizer.fix_scale(torch.tensor([0.25, 0.5, 0.75]))
    save_checkpoint(net, path)
    twin = nn.Sequential(nn.Linear(4, 3))
    quantize_(twin, Ternary())
    load_checkpoint(twin, path)
    assert torch.equal(twin[0].integer_weight()[1], torch.tensor([0.25, 0.5, 0.75]))


def test_spikingjelly(tmp_path) -> None:
    path = tmp_path / "net.safetensors"
    make = lambda: nn.Sequential(sj.Conv2d(1, 2, 3), sj.BatchNorm2d(2), sj_neuron.ParametricLIFNode())  # noqa: E731
    net, twin = make(), make()
    quantize_(net, Binary())
    net(torch.rand(3, 1, 5, 5))  # running statistics
    save_checkpoint(net, path)
    quantize_(twin, checkpoint_plan(path))
    load_checkpoint(twin, path)
    assert_same(values(twin), values(net))


def test_tied_and_shared_weights(tmp_path) -> None:
    """Stored once, and back under all names; also into a model in which they are not tied."""

    def make(tied: bool) -> nn.ModuleDict:
        shared = nn.Linear(8, 8)
        net = nn.ModuleDict(
            {"embed": nn.Embedding(50, 8), "a": shared, "b": shared, "head": nn.Linear(8, 50, bias=False)}
        )
        if tied:
            net["head"].weight = net["embed"].weight
        return net

    path = tmp_path / "net.safetensors"
    net = make(tied=True)
    quantize_(net, Ternary())
    save_checkpoint(net, path)
    assert sorted(safetensors.torch.load_file(path)) == ["a.bias", "a.weight", "embed.weight"]
    assert facts_of(path)["same"] == {"b.weight": "a.weight", "b.bias": "a.bias", "head.weight": "embed.weight"}
    for tied in (True, False):
        twin = make(tied)
        quantize_(twin, checkpoint_plan(path))
        load_checkpoint(twin, path)
        assert_same(values(twin), values(net))
        assert (twin["head"].weight is twin["embed"].weight) == tied


def test_two_values_for_one_tensor_are_refused(tmp_path) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)), path)
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    before = values(net)
    with pytest.raises(CheckpointError, match=r"different values for '0.weight' and '1.weight', which are one tensor"):
        load_checkpoint(net, path)
    assert_same(values(net), before)


def test_views_and_other_layouts_are_stored_by_value(tmp_path) -> None:
    """Two halves of one memory are two tensors, and a transposed one keeps its values."""
    path = tmp_path / "net.safetensors"
    memory = torch.randn(2, 3, 4)
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False), nn.Linear(3, 4, bias=False))
    net[0].weight, net[1].weight = nn.Parameter(memory[0]), nn.Parameter(memory[1])
    net[2].weight = nn.Parameter(memory[0].t())
    save_checkpoint(net, path)
    twin = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False), nn.Linear(3, 4, bias=False))
    load_checkpoint(twin, path)
    assert_same(values(twin), values(net))


# What does not fit.


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "net.safetensors"
    net = network()
    quantize_(net, PLAN)
    save_checkpoint(net, path)
    return path


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (None, r"'0' is Binary\(per='tensor'\) in the file and 'float' in the model; .* and .*; '4'"),
        (
            PrecisionPlan(PLAN.rules[1:], default=Ternary()),
            r"'0' is Binary\(per='tensor'\) .* Ternary\(per='channel'\)",
        ),
        (PrecisionPlan([*PLAN.rules[:3], ("6", Ternary())]), "'6' is 'float' in the file and Ternary"),
        (PrecisionPlan({"*": Binary()}), r"and 1 more\. Build the float model and call"),
    ],
    ids=["float model", "other kind", "one more", "all others"],
)
def test_other_precisions(saved, plan, message) -> None:
    net = network(1)
    if plan is not None:
        quantize_(net, plan)
    before = values(net)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(net, saved)
    assert "quantize_(model, checkpoint_plan(" in str(caught.value)
    assert_same(values(net), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: net.append(nn.Linear(2, 2)), "Missing key.*8.weight"),
        (lambda net: net.__delitem__(6), "Unexpected key.*6.weight"),
        (lambda net: net.__setitem__(6, nn.Linear(6, 3)), "size mismatch for 6.weight"),
    ],
    ids=["missing", "unexpected", "other shape"],
)
def test_another_model_keeps_its_weights(saved, change, message) -> None:
    net = network(1)
    change(net)
    quantize_(net, checkpoint_plan(saved))
    before = values(net)
    with pytest.raises(CheckpointError, match=f"(?s)is not of this model: .*({message})"):
        load_checkpoint(net, saved)
    assert_same(values(net), before)


def test_a_scale_is_not_left_fixed_by_a_failed_load(tmp_path) -> None:
    path = tmp_path / "net.safetensors"
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    quantize_(net, Ternary())
    net[0].quantizer.fix_scale(torch.tensor([0.25, 0.5, 0.75]))
    save_checkpoint(net, path)
    other = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5))
    quantize_(other, Ternary())
    before, y = values(other), other(torch.ones(1, 4))
    with pytest.raises(CheckpointError, match="size mismatch"):
        load_checkpoint(other, path)
    assert_same(values(other), before)
    assert torch.equal(other(torch.ones(1, 4)), y)


def rewrite(path: Path, **changes: object) -> None:
    facts = {**facts_of(path), **changes}
    safetensors.torch.save_file(
        safetensors.torch.load_file(path), path, {"format": "pt", "snn_extreme_quant": json.dumps(facts)}
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "version 99, or damaged; this release reads 'snn_extreme_quant.checkpoint', version 1"),
        ({"format": "other"}, "is of format 'other'"),
        ({"layers": {"0": {"kind": "septenary"}}}, "a precision that this release does not know: .*'septenary'"),
        ({"layers": 3}, "or damaged"),
        ({"same": {"a": "b"}}, "or damaged"),
        ({"same": 3}, "holds damaged metadata"),
    ],
    ids=str,
)
def test_metadata_that_is_not_ours(saved, changes, message) -> None:
    rewrite(saved, **changes)
    with pytest.raises(CheckpointError, match=message):
        checkpoint_plan(saved)


def test_files_that_are_none(tmp_path) -> None:
    net = network()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(net, tmp_path / "nowhere.safetensors")
    pickled = tmp_path / "net.pt"
    torch.save(net.state_dict(), pickled)
    with pytest.raises(CheckpointError, match=r"is no safetensors file.*torch\.load\(path\)"):
        load_checkpoint(net, pickled)
    whole = tmp_path / "net.safetensors"
    save_checkpoint(net, whole)
    whole.write_bytes(whole.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="is no safetensors file, or is damaged"):
        load_checkpoint(net, whole)


def test_paths_that_cannot_be_written(tmp_path) -> None:
    with pytest.raises(OutputPathError, match="does not exist; create it first"):
        save_checkpoint(network(), tmp_path / "nowhere" / "net.safetensors")
    with pytest.raises(OutputPathError, match="is a directory"):
        save_checkpoint(network(), tmp_path)


def test_states_that_are_no_tensors(tmp_path) -> None:
    class Odd(nn.Module):
        def get_extra_state(self) -> dict[str, int]:
            return {"step": 3}

        def set_extra_state(self, state: object) -> None:
            pass

    path = tmp_path / "net.safetensors"
    with pytest.raises(CheckpointError, match=r"'0\._extra_state' is a dict; a checkpoint holds tensors"):
        save_checkpoint(nn.Sequential(Odd()), path)
    with pytest.raises(CheckpointError, match=r"'0\.weight' is on the meta device"):
        save_checkpoint(nn.Sequential(nn.Linear(2, 2, device="meta")), path)
    assert not path.exists()
