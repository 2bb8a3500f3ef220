"""docs/support.md says what the code does, and answers for every class of the frameworks."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import snntorch
from snntorch._neurons.neurons import SpikingNeuron
from spikingjelly.activation_based import layer, neuron
from torch import nn

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.replace.targets import TORCH_LAYERS
from snn_extreme_quant_snntorch import plugin as snn
from snn_extreme_quant_spikingjelly import plugin as jelly

ROOT = Path(__file__).parents[2]
#: Modules of torch.nn that are no layers: containers, losses and distances.
_NO_LAYERS = ("container", "loss", "distance", "module", "data_parallel")


@pytest.fixture(scope="module")
def support() -> Iterator[ModuleType]:
    """Import the generator, and forget the neurons that it makes: snnTorch keeps them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        before = len(SpikingNeuron.instances)
        yield importlib.import_module("support_table")
        del SpikingNeuron.instances[before:]
        for name in ("support_table", "support_layers", "record"):
            sys.modules.pop(name, None)


def test_the_page_is_that_of_the_registries(support: Any) -> None:
    page = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")
    assert support.render() == page, "run: python benchmarks/support_table.py"


def test_every_layer_of_torch_has_one_answer(support: Any) -> None:
    theirs = {
        name
        for name, cls in vars(nn).items()
        if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__.rpartition(".")[2] not in _NO_LAYERS
    }
    known = [cls.__name__ for cls in TORCH_LAYERS] + support.named_in(support.TORCH)
    assert sorted(known) == sorted(theirs - {"RNNBase", "RNNCellBase"})


def test_every_layer_of_spikingjelly_has_one_answer(support: Any) -> None:
    stateful = set(jelly.unreadable_neurons()) - support.classes_of(neuron)
    known = [cls.__name__ for cls in jelly.layers()] + support.named_in(support.SPIKINGJELLY) + list(stateful)
    assert sorted(known) == sorted(support.classes_of(layer))


def test_every_neuron_of_spikingjelly_has_one_answer(support: Any) -> None:
    known = [cls.__name__ for cls in jelly.neuron_classes()] + list(jelly.unreadable_neurons())
    assert len(known) == len(set(known))
    assert support.classes_of(neuron) <= set(known)


def test_every_module_of_snntorch_has_one_answer(support: Any) -> None:
    """Its batch norms through time are functions that make a list of batch norms."""
    known = [cls.__name__ for cls in snn.neuron_classes()] + list(snn.unreadable_neurons())
    known += [name for name in support.named_in(support.SNNTORCH) if isinstance(getattr(snntorch, name), type)]
    assert sorted(known) == sorted(support.classes_of(snntorch))


@pytest.mark.parametrize(
    ("plugin", "name"),
    [(plugin, name) for plugin in (snn, jelly) for name in plugin.unreadable_neurons()],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_reason_on_the_page_is_the_one_that_users_meet(plugin: Any, name: str) -> None:
    cls = getattr(snntorch, name, None) or getattr(neuron, name, None) or getattr(layer, name)
    module = cls.__new__(cls)  # reading goes by the class, so it need not be built
    nn.Module.__init__(module)
    with pytest.raises(UnsupportedNeuronError) as caught:
        plugin.read_neuron(module)
    assert str(caught.value) == f"{name} has no exact spec: {plugin.unreadable_neurons()[name]}"


def test_options_that_nobody_has_looked_at_are_noticed(support: Any) -> None:
    class New(snntorch.Leaky):
        def __init__(self, beta: float = 0.5, refractory: int = 0) -> None:
            super().__init__(beta)

    with pytest.raises(KeyError, match="refractory"):
        support._options(New, snn, support._SNNTORCH_OPTIONS)
