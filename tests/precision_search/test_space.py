"""What matrices get at a level, what candidates take, and that the copy computes what a quantised model does."""

import copy
import itertools

import pytest
import snntorch as snn
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.accounting import weight_memory, weight_shapes
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig, SpikingBert, SpikingBertConfig
from snn_extreme_quant.precision_search import Hierarchy, level_configs
from snn_extreme_quant.precision_search.levels import FLOAT
from snn_extreme_quant.precision_search.metrics import Limits, memory_limit
from snn_extreme_quant.precision_search.space import Space
from snn_extreme_quant.precision_search.working_model import WorkingModel

from .networks import chain


def made(model: nn.Module, cache: float = 1e9, **given: object) -> Space:
    shapes = weight_shapes(model)
    matrices = [shape for shape in shapes if shape.kind != "Parameter"]
    working = WorkingModel(model, matrices, level_configs(**given), cache)  # type: ignore[arg-type]
    return Space(shapes, Hierarchy.of(model), working)


@pytest.mark.parametrize("skip", [(), ("2",), ("0",), ("4",)])
def test_tied_weights_are_counted_as_files_hold_them(skip: tuple[str, ...]) -> None:
    """Once where both have one precision, also if one of them is not searched."""
    net = nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(64, 64), nn.ReLU())))
    net[2].weight = net[0].weight
    shapes = weight_shapes(net)
    matrices = [shape for shape in shapes if shape.kind != "Parameter"]
    working = WorkingModel(net, matrices, level_configs([8, 4, 1]), 1e9)
    space = Space(shapes, Hierarchy.of(net, skip), working)
    assert space.as_float == 4 * (2 * 64 * 64 + 3 * 64)
    for levels in itertools.product((32.0, 8.0, 1.0), repeat=len(space.names)):
        precisions = space.precisions(levels)
        assert space.memory(precisions) == weight_memory(shapes, space.plan(precisions)).total
    lowest = space.precisions((1.0,) * len(space.names))
    assert space.least() == space.memory(lowest)


def test_levels() -> None:
    configs = level_configs()
    assert list(configs) == [16, 12, 10, 8, 6, 5, 4, 3, 2, 1.58, 1]
    assert configs[16] == sxq.Uniform(16)
    assert configs[4] == sxq.Uniform(4, scale="mse")
    assert level_configs([7.5, 1], {7.5: sxq.Ternary()})[7.5] == sxq.Ternary()


@pytest.mark.parametrize(
    ("levels", "message"),
    [([17], "17 stands for no precision"), ([2.5], "2.5 stands"), ([4, 4.0], "twice"), ([], "empty"), (["4"], "'4'"),
     ([0], "Level 0"), ([float("nan")], "nan"), ([True], "True")],
)  # fmt: skip
def test_bad_levels(levels: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        level_configs(levels)


@pytest.mark.parametrize("limit", ["", "12", "4 QB", "-3MB", "0", 0, -1, float("nan"), True, "1e3MB"])
def test_bad_memory(limit: object) -> None:
    if limit == "12":
        assert memory_limit("12", 0) == 12.0
        return
    with pytest.raises(ConfigError, match="max_memory"):
        memory_limit(limit, 100)  # type: ignore[arg-type]


@pytest.mark.parametrize("drop", [-1, float("nan"), float("inf"), "1"])
def test_bad_drops(drop: object) -> None:
    with pytest.raises(ConfigError, match="max_drop"):
        Limits.of(drop, None, 100)  # type: ignore[arg-type]


def test_no_limit_at_all() -> None:
    with pytest.raises(ConfigError, match="without a limit"):
        Limits.of(None, None, 100)


def test_candidates_compute_what_quantised_models_do() -> None:
    net = nn.Sequential(nn.Linear(6, 8), snn.Leaky(0.9, init_hidden=True), nn.Linear(8, 3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    space = made(net)
    spikes = (torch.rand(5, 2, 6) < 0.5).float()
    for assignment in ((16.0, 1.0), (1.58, 4.0), (FLOAT, 2.0), (16.0, 1.0)):
        precisions = space.precisions(assignment)
        space.model.give(precisions)
        space.model.reset()
        twin = copy.deepcopy(net)
        sxq.quantize_(twin, space.plan(precisions))
        with torch.no_grad():
            assert all(torch.equal(space.model.model(step), twin(step)) for step in spikes)
        assert space.memory(precisions) == weight_memory(net, space.plan(precisions)).total == weight_memory(twin).total
    space.model.give_original()
    assert type(net[0]) is nn.Linear
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net[0].weight.requires_grad


def test_codes_are_kept_and_dropped() -> None:
    net = chain()
    space = made(net, cache=1.0)
    model = space.model
    for level in (8.0, 4.0):
        precisions = space.precisions((level,) * len(space.names))
        model.give(precisions)
        model.model(torch.rand(2, 4))
        kept = [key for key, layer in model._layers.items() if layer._cache.value is not None]  # type: ignore[union-attr]
        assert {config for _, config in kept} >= set(precisions.values())
    model.give({})
    assert all(layer._cache.value is None for layer in model._layers.values())  # type: ignore[union-attr]


def test_shared_layers_have_one_level_under_all_names() -> None:
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    space = made(net)
    plan = space.plan(space.precisions((1.0,)))
    assert [name for name, _ in plan.rules] == ["0", "2"]
    space.model.give(space.precisions((1.0,)))
    assert space.model.model[0] is space.model.model[2]
    sxq.quantize_(net, plan)


def test_signs_alone_are_binary_at_any_level() -> None:
    model = SpikeGPT(SpikeGPTConfig(vocab=20, layers=1, hidden=8)).eval()
    space = made(model)
    levels = tuple(4.0 for _ in space.names)
    precisions = space.precisions(levels)
    assert precisions["emb"] == sxq.Binary()
    assert precisions["head"] == sxq.Uniform(4, scale="mse")
    assert space.notes([levels]) == ("emb: only the signs of a binarised embedding are read: Binary() loses nothing",)
    twin = copy.deepcopy(model)
    twin.set_weights(space.plan(precisions))
    space.model.give(precisions)
    ids = torch.randint(20, (2, 7))
    with torch.no_grad():
        assert torch.equal(space.model.model(ids), twin(ids))
    assert space.key(space.precisions((16.0, *levels[1:]))) == space.key(precisions)


def test_refused_levels_keep_the_next_higher_one() -> None:
    net = nn.Sequential(nn.Conv1d(4, 4, 1, groups=2), nn.Conv1d(4, 4, 1))
    space = made(net, levels=[8, 2], configs={2: sxq.Uniform(2, per="group", group_size=2)})
    precisions = space.precisions((2.0, 2.0))
    assert precisions == {"0": sxq.Uniform(8), "1": sxq.Uniform(2, per="group", group_size=2)}
    (note,) = space.notes([(2.0, 2.0)])
    assert note.startswith("0: level 2 is refused")
    assert "groups=2" in note


@pytest.mark.parametrize("signed", [True, False])
def test_spiking_bert_is_what_set_weights_gives(signed: bool) -> None:
    """With offsets the biases follow the weights."""
    torch.manual_seed(0)
    config = SpikingBertConfig(
        vocab=20, layers=1, hidden=8, heads=2, ffn=16, positions=8, T=4, signed=signed, offset=not signed
    )
    model = SpikingBert(config).eval()
    for neurons in (neurons for _, neurons in model.named_neurons()):
        if not signed:
            neurons.offset.data.uniform_(-0.5, 0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    space = made(model)
    ids = torch.randint(20, (3, 5))
    for level in (4.0, 1.0):
        precisions = space.precisions((level,) * len(space.names))
        space.model.give(precisions)
        twin = copy.deepcopy(model)
        twin.set_weights(space.plan(precisions))
        with torch.no_grad():
            assert torch.equal(space.model.model(ids), twin(ids))
    space.model.give_original()
    with torch.no_grad():
        assert torch.equal(space.model.model(ids), model(ids))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_behind_a_training_step_is_copied() -> None:
    net = nn.Sequential(nn.Linear(4, 4), snn.Leaky(0.9, init_hidden=True))
    net(torch.rand(2, 4)).sum()
    assert made(net).model.model is not net


def test_quantised_models_are_searched_by_their_latent_weights() -> None:
    net = chain()
    plain = copy.deepcopy(net)
    sxq.quantize_(net, sxq.Ternary())
    space, twin = made(net), made(plain)
    x = torch.rand(3, 4)
    levels = (4.0,) * len(space.names)
    space.model.give(space.precisions(levels))
    twin.model.give(twin.precisions(levels))
    with torch.no_grad():
        assert torch.equal(space.model.model(x), twin.model.model(x))
        space.model.give_original()
        assert torch.equal(space.model.model(x), net(x))
    assert space.as_float == twin.as_float
