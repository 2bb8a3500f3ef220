"""What other programs make of our graphs: the frameworks' own importers run them."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import pytest
import snntorch as snn
import torch
from snntorch.import_nir import import_from_nir as snntorch_import
from spikingjelly.activation_based import neuron
from spikingjelly.activation_based.nir_exchange import import_from_nir as spikingjelly_import
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.exchange import nir_losses, to_nir

from .networks import spikes_of, spikingjelly_image, two_layers

IMPORTERS = {"snntorch": snntorch_import, "spikingjelly": spikingjelly_import}


def imported(importer: str, graph: Any, inputs: Tensor) -> Tensor:
    """Run a graph by a framework's importer over ``(T, B, ...)``."""
    with contextlib.redirect_stdout(io.StringIO()):  # snnTorch's importer prints
        model = IMPORTERS[importer](graph)
    state, outputs = None, []
    with torch.no_grad():
        for x in inputs:
            output, state = model(x, state)
            outputs.append(output)
    return torch.stack(outputs)


def leaky(**options: Any) -> nn.Module:
    return snn.Leaky(beta=0.9, threshold=0.3, init_hidden=True, **options)


def lif(**options: Any) -> nn.Module:
    return neuron.LIFNode(tau=2.5, v_threshold=0.1, **options)


def make(neuron_of: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = two_layers(neuron_of(), neuron_of()).eval()
    sxq.quantize_(net, sxq.Ternary())
    return net, (torch.rand(50, 8, 12) < 0.4).float()


#: Neurons that the importers compute with the same spikes, and by which importers.
SAME = {
    "Leaky zero": (lambda: leaky(reset_mechanism="zero", reset_delay=False), ("snntorch", "spikingjelly")),
    # The reset of the step before is done before anything else of this step: the spikes are the same.
    "Leaky zero delayed": (lambda: leaky(reset_mechanism="zero"), ("snntorch", "spikingjelly")),
    "LIFNode": (lif, ("snntorch", "spikingjelly")),
    "LIFNode decay_input=False": (lambda: lif(decay_input=False), ("snntorch", "spikingjelly")),
    "IFNode": (lambda: neuron.IFNode(v_threshold=0.3), ("spikingjelly",)),
}


@pytest.mark.parametrize("through_file", [False, True])
@pytest.mark.parametrize(("name", "importer"), [(name, i) for name, (_, names) in SAME.items() for i in names])
def test_importers_give_the_same_spikes(name: str, importer: str, through_file: bool, tmp_path: Path) -> None:
    net, inputs = make(SAME[name][0])
    graph = to_nir(net)
    if through_file:
        nir.write(tmp_path / "net.nir", graph)
        graph = nir.read(tmp_path / "net.nir")
    want = spikes_of(net, inputs)
    assert torch.equal(imported(importer, graph, inputs), want)
    assert want.sum() > 0


def test_convolutions_reach_spikingjelly() -> None:
    torch.manual_seed(0)
    net = spikingjelly_image().eval()
    net[-1].v_reset = 0.0
    sxq.quantize_(net, sxq.Ternary())
    inputs = (torch.rand(30, 4, 2, 8, 8) < 0.5).float()
    want = spikes_of(net, inputs.unsqueeze(0))[0]
    have = imported("spikingjelly", to_nir(net, inputs), inputs)
    assert want.sum() > 0
    assert (have != want).float().mean() < 0.01, "rounding alone: the importer multiplies before it adds"


def test_convolutions_reach_snntorch() -> None:
    torch.manual_seed(0)
    spiking = {"threshold": 0.1, "init_hidden": True, "reset_mechanism": "zero", "reset_delay": False}
    beta = torch.full((3, 6, 6), 0.5)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), snn.Leaky(beta, **spiking), nn.AvgPool2d(2)).eval()
    sxq.quantize_(net, sxq.Ternary())
    inputs = (torch.rand(20, 4, 1, 8, 8) < 0.5).float()
    want = spikes_of(net, inputs)
    assert want.sum() > 0
    assert (imported("snntorch", to_nir(net, inputs[0]), inputs) != want).float().mean() < 0.01


def test_sums_and_groups_reach_spikingjelly() -> None:
    torch.manual_seed(0)
    net = Block().eval()
    sxq.quantize_(net, sxq.Ternary())
    inputs = (torch.rand(20, 4, 4, 6, 6) < 0.5).float()
    want = spikes_of(net, inputs)
    assert want.sum() > 0
    assert (imported("spikingjelly", to_nir(net, inputs[0]), inputs) != want).float().mean() < 0.01


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.short = nn.Conv2d(4, 4, 1)
        self.first, self.second = lif(), neuron.IFNode(v_threshold=0.3)
        self.head = nn.Linear(144, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.head(self.first(self.grouped(x) + self.short(x)).flatten(1)))


LOSSY = {
    "subtract": (lambda: leaky(reset_delay=False), "reset by subtraction"),
    "delayed": (lambda: leaky(reset_mechanism="zero"), "in the step after the spike"),
    "equal": (lif, "equal to the threshold"),
    "start": (lambda: started(lif()), "initial state"),
}


def started(node: Any) -> nn.Module:
    node.set_reset_value("v", 0.05)
    node.reset()
    return node


@pytest.mark.parametrize("name", LOSSY)
def test_what_is_lost_is_said_and_refused_on_demand(name: str) -> None:
    make_neuron, reason = LOSSY[name]
    net, _ = make(make_neuron)
    found = nir_losses(to_nir(net))
    assert set(found) == {"1", "3"}
    assert any(reason in text for text in found["1"])
    with pytest.raises(UnsupportedNeuronError, match="Layer '1' is not exactly a NIR neuron"):
        to_nir(net, exact=True)


def test_nothing_is_lost_of_what_nir_describes() -> None:
    net, _ = make(SAME["Leaky zero"][0])
    assert nir_losses(to_nir(net, exact=True)) == {}


def test_subtraction_is_really_lost() -> None:
    net, inputs = make(leaky)
    assert (imported("snntorch", to_nir(net), inputs) != spikes_of(net, inputs)).any()
