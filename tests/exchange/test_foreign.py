"""Graphs that other programs made: float layers and the framework's neurons."""

import contextlib
import io
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import snntorch as snn
import torch
from snntorch.export_nir import export_to_nir as snntorch_export
from spikingjelly.activation_based import layer, neuron
from spikingjelly.activation_based.nir_exchange import export_to_nir as spikingjelly_export
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import ConfigError, UnsupportedNeuronError
from snn_extreme_quant.exchange import from_nir

from .networks import spikes_of


def full(value: float, width: int = 3) -> np.ndarray:
    return np.full(width, value)


def chain(*nodes: Any) -> nir.NIRGraph:
    return nir.NIRGraph.from_list(*nodes)


def lif(**values: float) -> nir.LIF:
    fields = {"tau": 1e-3, "r": 10.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0, **values}
    return nir.LIF(**{name: full(value) for name, value in fields.items()})


def euler(node: nir.LIF, inputs: torch.Tensor, dt: float = 1e-4) -> torch.Tensor:
    """The reference: one forward Euler step of NIR's equation for each input, in float64."""
    v = np.array(node.v_leak)
    spikes = []
    for x in inputs.double().numpy():
        v = v + dt / node.tau * (node.v_leak - v + node.r * x)
        s = v > node.v_threshold
        v = np.where(s, node.v_reset, v)
        spikes.append(s)
    return torch.from_numpy(np.stack(spikes)).float()


def test_snntorch_exports_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"init_hidden": True, "reset_mechanism": "zero", "reset_delay": False}
    neurons = [snn.Leaky(torch.full((n,), 0.9), torch.full((n,), 0.3), **options) for n in (9, 5)]
    net = nn.Sequential(nn.Linear(12, 9), neurons[0], nn.Linear(9, 5, bias=False), neurons[1]).eval()
    with contextlib.redirect_stdout(io.StringIO()):
        graph = snntorch_export(net, torch.rand(12))
    nir.write(tmp_path / "net.nir", graph)
    again = from_nir(tmp_path / "net.nir", "snntorch")
    inputs = torch.rand(40, 4, 12)
    want = spikes_of(net, inputs)
    assert torch.equal(spikes_of(again, inputs), want)
    assert want.sum() > 0
    assert isinstance(again.get_submodule("0"), nn.Linear)


@pytest.mark.parametrize("target", ["spikingjelly", "snntorch"])
def test_spikingjelly_exports_load(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1),
        neuron.LIFNode(tau=2.5, decay_input=False, v_threshold=0.4),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Linear(64, 5),
        neuron.IFNode(v_threshold=0.5),
    ).eval()
    inputs = torch.rand(40, 4, 2, 8, 8)
    spikingjelly_export(net, inputs[0], tmp_path / "net.nir")
    sxq.reset(net)
    again = from_nir(tmp_path / "net.nir", target)
    want = spikes_of(net, inputs)
    assert want.sum() > 0
    # The other framework adds the same numbers in another order.
    differing = (spikes_of(again, inputs) != want).float().mean()
    assert differing == 0 if target == "spikingjelly" else differing < 0.01


@pytest.mark.parametrize("framework", ["snntorch", "spikingjelly"])
@pytest.mark.parametrize("values", [{}, {"r": 1.0, "v_threshold": 0.1}, {"r": 4.0}, {"tau": 3e-4, "r": 2.0}], ids=str)
def test_neurons_compute_nirs_euler_step(framework: str, values: dict[str, float]) -> None:
    node = lif(**values)
    net = from_nir(chain(nir.Linear(np.eye(3)), node), framework)
    inputs = torch.rand(200, 3, generator=torch.Generator().manual_seed(3))
    want = euler(node, inputs)
    assert want.sum() > 0
    assert torch.equal(spikes_of(net, inputs.unsqueeze(1)).squeeze(1), want)


def test_a_rest_that_is_not_zero_needs_spikingjelly() -> None:
    node = lif(v_leak=-0.5, v_reset=-0.5)
    graph = chain(nir.Linear(np.eye(3)), node)
    inputs = torch.rand(200, 3, generator=torch.Generator().manual_seed(3))
    have = spikes_of(from_nir(graph, "spikingjelly"), inputs.unsqueeze(1)).squeeze(1)
    assert torch.equal(have, euler(node, inputs))
    assert have.sum() > 0
    with pytest.raises(UnsupportedNeuronError, match="snntorch has no neuron for node 'lif'"):
        from_nir(graph, "snntorch")


def test_neurons_of_a_layer_may_differ_in_snntorch() -> None:
    node = nir.LIF(np.array([1e-3, 2e-3]), np.array([10.0, 20.0]), np.zeros(2), np.array([0.5, 0.7]))
    graph = chain(nir.Linear(np.eye(2)), node)
    net = from_nir(graph, "snntorch")
    inputs = torch.rand(100, 2, generator=torch.Generator().manual_seed(3))
    assert torch.equal(spikes_of(net, inputs.unsqueeze(1)).squeeze(1), euler(node, inputs))
    with pytest.raises(UnsupportedNeuronError, match="several"):
        from_nir(graph, "spikingjelly")


@pytest.mark.parametrize("framework", ["snntorch", "spikingjelly"])
def test_the_time_step_is_the_readers(framework: str) -> None:
    graph = chain(nir.Linear(np.eye(2)), nir.IF(np.ones(2), np.full(2, 2.5)))
    inputs = torch.ones(6, 1, 2)
    assert spikes_of(from_nir(graph, framework, dt=1.0), inputs)[:, 0, 0].tolist() == [0, 0, 1, 0, 0, 1]
    assert spikes_of(from_nir(graph, framework), inputs).sum() == 0


def test_current_based_neurons() -> None:
    fields = {"tau_syn": 2e-4, "tau_mem": 4e-4, "r": 4.0, "v_leak": 0.0, "v_threshold": 1.0, "w_in": 2.0}
    graph = chain(nir.Linear(np.eye(3)), nir.CubaLIF(**{name: full(value) for name, value in fields.items()}))
    inputs = (torch.rand(50, 2, 3) < 0.3).float()
    mine, theirs = (spikes_of(from_nir(graph, name), inputs) for name in ("snntorch", "spikingjelly"))
    current = v = torch.zeros(2, 3)
    for x, spikes in zip(inputs, mine, strict=True):
        current = 0.5 * current + x
        v = 0.75 * v + current
        assert torch.equal(spikes, (v > 1).float())
        v = v * (1 - spikes)
    assert mine.sum() > 0
    assert theirs.shape == mine.shape


def test_a_framework_must_be_named_and_known() -> None:
    graph = chain(nir.Linear(np.eye(3)), lif())
    with pytest.raises(ConfigError, match="does not say of which framework"):
        from_nir(graph)
    with pytest.raises(ConfigError, match="snntorch"):
        from_nir(graph, "snntroch")


def test_layers_alone_need_no_framework() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    net = from_nir(chain(nir.Affine(weight, np.ones(2, np.float32))))
    assert net(torch.tensor([[1.0, 0.0, 0.0]])).tolist() == [[1.0, 4.0]]


def test_pools_and_strides() -> None:
    pool = {"kernel_size": np.array([2, 2]), "stride": np.array([2, 2]), "padding": np.array([0, 0])}
    conv = nir.Conv2d((4, 4), np.ones((1, 1, 3, 3), np.float32), 1, "same", 1, 1, np.zeros(1, np.float32))
    flat = nir.Flatten({"input": None}, 0, -1)
    means = from_nir(chain(conv, nir.AvgPool2d(**pool), flat))
    sums = from_nir(chain(conv, nir.SumPool2d(**pool), flat))
    x = torch.ones(2, 1, 4, 4)
    assert means(x).shape == (2, 4)
    assert torch.equal(sums(x), means(x) * 4)


def test_foreign_graphs_can_be_quantised() -> None:
    net = from_nir(chain(nir.Linear(np.eye(3)), lif()), "snntorch")
    assert len(sxq.quantize_(net, sxq.Ternary()).replaced) == 1
