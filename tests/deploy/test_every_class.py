"""Every neuron that is read and every layer that is swapped goes into a file, with guarantee and 0 differences.

The sets are those of the registries: a class that is added to one without a network here fails.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron as jelly
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.frameworks import frameworks
from snn_extreme_quant.replace.targets import TORCH_LAYERS
from tests.deploy.random_layers import spikes
from tests.deploy.random_networks import Loop

WIDTH = 8


def snntorch_neurons() -> list[nn.Module]:
    recurrent = {"beta": 0.8, "threshold": 0.5, "linear_features": WIDTH}
    return [
        snn.Leaky(beta=0.8, threshold=0.5),
        snn.Lapicque(beta=0.9, threshold=0.5),
        snn.Synaptic(alpha=0.7, beta=0.8, threshold=0.5),
        snn.Alpha(alpha=0.9, beta=0.8, threshold=0.1),
        snn.RLeaky(**recurrent),
        snn.RSynaptic(alpha=0.6, **recurrent),
        snn.DeltaLeaky(beta=0.8, delta_threshold=0.3),
    ]


def spikingjelly_neurons(mode: str) -> list[nn.Module]:
    neurons = [
        jelly.IFNode(v_threshold=0.5),
        jelly.LIFNode(v_threshold=0.5),
        jelly.ParametricLIFNode(v_threshold=0.5),
        jelly.CUBALIFNode(v_threshold=0.5),
        jelly.ILIFNode(v_threshold=0.5),
        jelly.TernaryIFNode(v_threshold=0.5),
        jelly.TernaryLIFNode(v_threshold=0.5),
        jelly.SimpleIFNode(v_threshold=0.5),
        jelly.SimpleLIFNode(tau=2.0, decay_input=True, v_threshold=0.5),
        jelly.HalfThresholdIFNode(v_threshold=0.5),
        *([jelly.OTTTLIFNode(v_threshold=0.5), jelly.SLTTLIFNode(v_threshold=0.5)] if mode == "s" else []),
    ]
    for neuron in neurons:
        neuron.step_mode = mode  # type: ignore[assignment]
    return neurons


def between(layers: Callable[[], nn.Module], neurons: list[nn.Module]) -> list[nn.Module]:
    return [module for neuron in neurons for module in (layers(), neuron)]


def neurons_of_snntorch() -> tuple[nn.Module, Tensor]:
    return Loop(*between(lambda: nn.Linear(WIDTH, WIDTH), snntorch_neurons())), spikes(6, 3, WIDTH)


def neurons_of_spikingjelly(mode: str) -> tuple[nn.Module, Tensor]:
    modules = between(lambda: sj_layer.Linear(WIDTH, WIDTH, step_mode=mode), spikingjelly_neurons(mode))
    return nn.Sequential(*modules), spikes(6, 3, WIDTH)


def layers_of(library: Any, axes: int, **options: Any) -> tuple[nn.Module, Tensor]:
    """A convolution, a transposed one, and a linear layer."""
    neuron: Callable[[], nn.Module] = (
        (lambda: jelly.IFNode(v_threshold=0.4, **options))
        if options
        else (lambda: snn.Leaky(0.8, threshold=0.3, init_hidden=True))
    )
    size = (5, 4, 3)[:axes]
    flat = 4 * int(torch.tensor(size).add(1).prod())
    modules = [
        getattr(library, f"Conv{axes}d")(2, 4, 3, padding=1, **options),
        neuron(),
        getattr(library, f"ConvTranspose{axes}d")(4, 4, 2, groups=2, **options),
        neuron(),
        library.Flatten(**options),
        library.Linear(flat, 5, **options),
        neuron(),
    ]
    return nn.Sequential(*modules), spikes(6, 3, 2, *size)


def tokens() -> tuple[nn.Module, Tensor]:
    modules = (nn.Embedding(9, 6), snn.Leaky(0.8, threshold=0.2), nn.Linear(6, 5), snn.Leaky(0.8))
    return Loop(*modules), torch.randint(0, 9, (6, 3, 4))


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "neurons of snntorch": neurons_of_snntorch,
    "neurons of spikingjelly, steps": lambda: neurons_of_spikingjelly("s"),
    "neurons of spikingjelly, sequences": lambda: neurons_of_spikingjelly("m"),
    "tokens": tokens,
    "layers of torch, 1d": lambda: layers_of(nn, 1),
    "layers of torch, 2d": lambda: layers_of(nn, 2),
    "layers of torch, 3d": lambda: layers_of(nn, 3),
    "layers of spikingjelly, 1d": lambda: layers_of(sj_layer, 1, step_mode="m"),
    "layers of spikingjelly, 2d": lambda: layers_of(sj_layer, 2, step_mode="s"),
    "layers of spikingjelly, 3d": lambda: layers_of(sj_layer, 3, step_mode="m"),
}


def test_no_class_of_the_registries_is_left_out() -> None:
    used = {type(module) for build in NETWORKS.values() for module in build()[0].modules()}
    neurons = {cls for framework in frameworks() for cls in framework.neuron_classes()}
    layers = {*TORCH_LAYERS, *(cls for framework in frameworks() for cls in framework.layers())}
    assert {cls.__name__ for cls in (neurons | layers) - used} == set()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_class(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, inputs = NETWORKS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
    report = sxq.quantize_(model, sxq.Ternary())
    swapped = {type(module) for module in model.modules()} & {*TORCH_LAYERS.values()}
    assert swapped or "spikingjelly" in name, report
    kind = "real" if name == "tokens" else "spikes"
    exported = sxq.export_onnx(model.eval(), inputs, tmp_path / "net.onnx", input=kind)
    assert exported.exact, str(exported)
    assert exported.time == "free", str(exported)
    result = sxq.verify(model, tmp_path / "net.onnx", [inputs, torch.cat([inputs, inputs], 1), inputs[:2]])
    assert result.spikes_different == 0, str(result)
    assert result.output_difference == 0, str(result)
    silent = [layer.name for layer in result.layers if not layer.fired]
    assert not silent, "the test says little of neurons that never fire"
