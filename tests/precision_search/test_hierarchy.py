"""Blocks come from the tree of modules, whatever anything is called."""

import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import ConfigError, NothingToQuantizeError, UnmatchedNameError
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig, SpikingBert, SpikingBertConfig
from snn_extreme_quant.precision_search import Hierarchy

from .networks import chain


def shape(hierarchy: Hierarchy) -> list[tuple[str, str, list[int]]]:
    return [(b.name, b.role, [len(part.matrices) for part in b.modules]) for b in hierarchy.blocks]


@pytest.mark.parametrize("layers", [1, 3])
def test_spike_gpt(layers: int) -> None:
    model = SpikeGPT(SpikeGPTConfig(vocab=20, layers=layers, hidden=8))
    found = Hierarchy.of(model)
    body = [(f"blocks.{i}", "body", [4, 3]) for i in range(layers)]
    assert shape(found) == [("input", "input", [1]), *body, ("output", "output", [1])]
    assert found.blocks[1].modules[1].name == "ffn"


def test_spiking_bert() -> None:
    config = SpikingBertConfig(vocab=20, layers=2, hidden=8, heads=2, ffn=16, positions=8, head="pooled")
    found = Hierarchy.of(SpikingBert(config))
    body = [(f"encoder.{i}", "body", [3, 1, 1, 1]) for i in range(2)]
    assert shape(found) == [("input", "input", [3]), *body, ("output", "output", [1, 1])]


def test_convolutions_of_snntorch_are_a_block_each() -> None:
    lif = {"beta": 0.9, "init_hidden": True}
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), snn.Leaky(**lif), nn.Conv2d(2, 2, 3), snn.Leaky(**lif), nn.Flatten(), nn.Linear(8, 2)
    )
    assert shape(Hierarchy.of(net)) == [("0", "input", [1]), ("2", "body", [1]), ("5", "output", [1])]


def test_stages_of_spikingjelly_repeat() -> None:
    class Stage(nn.Module):
        def __init__(self, inputs: int, outputs: int, shortcut: bool) -> None:
            super().__init__()
            self.a = layer.Conv2d(inputs, outputs, 3, padding=1)
            self.b = layer.Conv2d(outputs, outputs, 3, padding=1)
            self.fire = neuron.LIFNode()
            self.way = layer.Conv2d(inputs, outputs, 1) if shortcut else nn.Identity()

    net = nn.Sequential(layer.Conv2d(1, 4, 3), nn.Sequential(Stage(4, 8, True), Stage(8, 8, False)),
                        nn.Sequential(Stage(8, 16, True), Stage(16, 16, False)), layer.Linear(16, 2))  # fmt: skip
    found = Hierarchy.of(net)
    assert [block.name for block in found.blocks] == ["input", "1.0", "1.1", "2.0", "2.1", "output"]
    assert [len(block.matrices) for block in found.blocks] == [1, 3, 2, 3, 2, 1]


def test_a_layer_between_blocks_is_a_block() -> None:
    inner = chain()
    net = nn.Sequential(inner[1], nn.Linear(8, 8), inner[2])
    assert shape(Hierarchy.of(net)) == [("0", "body", [1, 1]), ("1", "body", [1]), ("2", "body", [1, 1])]


def test_one_layer() -> None:
    assert shape(Hierarchy.of(nn.Sequential(nn.Linear(2, 2)))) == [("0", "body", [1])]


def test_shared_and_quantised_layers_count_once() -> None:
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 2))
    sxq.quantize_(net, sxq.Ternary())
    assert Hierarchy.of(net).matrices == ("0", "3")


def test_what_is_skipped_is_left() -> None:
    found = Hierarchy.of(chain(), skip=["1"])
    assert found.left == ("1.0", "1.2")
    assert "1.0" not in found.matrices
    with pytest.raises(UnmatchedNameError, match="nothing_like_it"):
        Hierarchy.of(chain(), skip=["nothing_like_it"])
    with pytest.raises(NothingToQuantizeError):
        Hierarchy.of(chain(), skip=["*"])


def test_descriptions() -> None:
    net = chain()
    data = {
        "blocks": [
            {"name": "all", "role": "body", "modules": [{"name": "x", "matrices": ["1.*", "2.?"]}]},
            {"name": "end", "role": "output", "modules": [{"name": "y", "matrices": ["3"]}]},
        ],
        "float": ["0"],
    }
    found = Hierarchy.from_dict(data, net)
    assert found.matrices == ("1.0", "1.2", "2.0", "2.2", "3")
    assert found.left == ("0",)
    assert Hierarchy.from_dict(found.to_dict(), net) == found
    assert Hierarchy.from_dict(Hierarchy.of(net).to_dict(), net) == Hierarchy.of(net)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"float": []}, "'0' is in no block"),
        ({"float": ["0", "3"]}, "'3' is in the hierarchy more than once"),
        ({"float": ["0", "9"]}, "'9' in the hierarchy matches no layer"),
        ({"left": []}, "not 'left'"),
        ({"blocks": "all"}, "A hierarchy is"),
        ({"blocks": [{"name": "a", "role": "middle", "modules": []}]}, "role='middle'"),
        ({"blocks": [{"name": "a", "modules": []}]}, "needs 'modules'"),
        ({"blocks": [{"name": "a", "modules": [{"name": "b", "matrices": "c"}]}]}, "a list of names"),
    ],
)
def test_bad_descriptions(change: dict[str, object], message: str) -> None:
    good = {"blocks": [{"name": "a", "modules": [{"name": "b", "matrices": ["1.*", "2.*", "3"]}]}], "float": ["0"]}
    with pytest.raises((ConfigError, UnmatchedNameError), match=message):
        Hierarchy.from_dict({**good, **change}, chain())


def test_meta_models_have_a_hierarchy() -> None:
    with torch.device("meta"):
        model = SpikeGPT(SpikeGPTConfig(vocab=20, layers=2, hidden=8))
    assert len(Hierarchy.of(model).blocks) == 4
