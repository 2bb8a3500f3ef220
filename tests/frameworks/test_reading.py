"""Finding, reading and resetting neurons, whichever framework they come from."""

import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from snn_extreme_quant import Ternary, quantize_, reset
from snn_extreme_quant.errors import PluginError, UnsupportedNeuronError
from snn_extreme_quant.frameworks import frameworks_for, loader, neurons_of


def test_neurons_are_found_at_any_depth_in_order() -> None:
    net = nn.Sequential(nn.Linear(2, 2), snn.Leaky(0.5), nn.ModuleDict({"a": nn.ModuleList([neuron.IFNode()])}))
    assert [(n.name, n.framework.name) for n in neurons_of(net)] == [("1", "snntorch"), ("2.a.0", "spikingjelly")]


def test_shared_neurons_are_found_once() -> None:
    shared = snn.Leaky(0.5)
    assert [n.name for n in neurons_of(nn.Sequential(shared, nn.Sequential(shared)))] == ["0"]


def test_neurons_inside_a_neuron_are_its_own() -> None:
    container = layer.LinearRecurrentContainer(neuron.IFNode(), 4, 4)
    assert [n.name for n in neurons_of(nn.Sequential(container))] == ["0"]


def test_a_model_that_is_a_neuron() -> None:
    assert [n.name for n in neurons_of(snn.Leaky(0.5))] == [""]
    assert [n.name for n in neurons_of(layer.LinearRecurrentContainer(neuron.IFNode(), 4, 4))] == [""]


def test_models_without_neurons() -> None:
    assert neurons_of(nn.Sequential(nn.Linear(2, 2), nn.Dropout())) == []


def test_a_name_that_starts_like_a_neurons_is_not_inside_it() -> None:
    net = nn.Sequential()
    net.add_module("lif", snn.Leaky(0.5))
    net.add_module("lif2", snn.Leaky(0.5))
    assert [n.name for n in neurons_of(net)] == ["lif", "lif2"]


def test_refusals_name_the_layer() -> None:
    net = nn.Sequential(nn.ModuleDict({"spikes": neuron.QIFNode()}))
    (found,) = neurons_of(net)
    with pytest.raises(UnsupportedNeuronError, match=r"Layer '0\.spikes': QIFNode"):
        found.read()


def test_readings_come_through() -> None:
    (found,) = neurons_of(nn.Sequential(snn.Leaky(0.5)))
    assert found.read().parameters["decay"].item() == 0.5


def test_reset_reaches_both_frameworks_and_no_other_model() -> None:
    def net() -> nn.Sequential:
        return nn.Sequential(
            nn.Sequential(snn.Leaky(0.5, init_hidden=True)), nn.Sequential(neuron.IFNode(v_reset=None))
        )

    mine, other = net(), net()
    for model in (mine, other):
        for half in model:
            half(torch.full((1, 3), 0.25))
    reset(mine)
    assert not mine[0][0].mem.any()
    assert mine[1][0].v == 0.0
    assert other[0][0].mem.tolist() == other[1][0].v.tolist() == [[0.25] * 3]


class Renamed(snn.Leaky):
    """A user's class, which comes from another package than its base."""


def quantise(net: nn.Module) -> None:
    quantize_(net, Ternary())


@pytest.mark.parametrize("call", [neurons_of, reset, frameworks_for, quantise])
def test_a_neuron_whose_plugin_is_disabled_is_named(call, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would pass for a layer without state."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(Renamed(0.5)))
    monkeypatch.setenv("SXQ_PLUGINS", "spikingjelly")
    with pytest.raises(PluginError, match=r"Layer '1\.0' is a Renamed of snntorch, whose plugin is disabled: by SXQ"):
        call(net)


def test_a_disabled_plugin_that_the_model_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SXQ_PLUGINS", "spikingjelly")
    net = nn.Sequential(neuron.IFNode())
    assert [n.name for n in neurons_of(net)] == ["0"]
    reset(net)


def test_a_neuron_of_a_version_that_the_plugin_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "version", lambda name: "0.5")
    with pytest.raises(PluginError, match=r"Layer '' is a Leaky of snntorch, .* unavailable: needs .*, found 0\.5;"):
        neurons_of(snn.Leaky(0.5))
