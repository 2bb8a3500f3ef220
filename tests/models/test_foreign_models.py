"""Networks that ship with the frameworks go through quantize_ -> 5 training steps -> export -> verify, unchanged.

Each case says what is expected of it: whether all its spikes are guaranteed, and if not, which layer is the cause;
and whether it can be written in integers.
The networks are small configurations of the published classes; weights are random, batch norms settle in training.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from snntorch import surrogate
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import neuron as sj_neuron
from spikingjelly.activation_based import surrogate as sj_surrogate
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import UnsupportedModelError

_DOWNLOADERS = ("torchvision", "torchvision.models", "torchvision._internally_replaced_utils")


@pytest.fixture
def model_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Import a module of ``spikingjelly.activation_based.model``.

    Some import torchvision's function for downloading weights, which nothing here calls; torchvision itself has no
    CPU build for this torch, so an empty module stands in where it is missing.
    """
    if importlib.util.find_spec("torchvision") is None:
        for name in _DOWNLOADERS:
            module = types.ModuleType(name)
            module.load_state_dict_from_url = None
            monkeypatch.setitem(sys.modules, name, module)
    return lambda name: importlib.import_module(f"spikingjelly.activation_based.model.{name}")


def _multi_step(net: nn.Module) -> nn.Module:
    functional.set_step_mode(net, "m")
    return net


_NEURON = {"surrogate_function": sj_surrogate.ATan(), "detach_reset": True}


_TERNARY = sxq.Ternary()


@dataclass(frozen=True)
class Case:
    """A network, the shape of its input, and what is expected.

    Args:
        build: makes the network from the function that imports SpikingJelly's model modules.
        shape: of one input.
        config: precision.
        time: whether the file takes any number of steps.
        cause: "" if every spike is guaranteed, else the layer that sums real numbers.
        spikes_in: the input is events; else images of 8 bit behind a FixedPointInput.
        gain: factor on the initial weights of a network without batch norm, so that spikes reach its end.
        integer: whether it has an integer form; else the layer is refused that is the cause.
    """

    build: Callable[[Callable[[str], Any]], nn.Module]
    shape: tuple[int, ...]
    config: Any = _TERNARY
    time: str = "free"
    cause: str = ""
    spikes_in: bool = False
    gain: float = 1.0
    integer: bool = True


class TutorialConvNet(nn.Module):
    """The convolutional network of snnTorch's tutorial 6, 12C5-MP2-64C5-MP2-1024FC10, with its loop over time."""

    def __init__(self) -> None:
        super().__init__()
        spike_grad = surrogate.fast_sigmoid(slope=25)
        self.conv1 = nn.Conv2d(1, 12, 5)
        self.lif1 = snn.Leaky(beta=0.5, spike_grad=spike_grad)
        self.conv2 = nn.Conv2d(12, 64, 5)
        self.lif2 = snn.Leaky(beta=0.5, spike_grad=spike_grad)
        self.fc1 = nn.Linear(64 * 4 * 4, 10)
        self.lif3 = snn.Leaky(beta=0.5, spike_grad=spike_grad)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        spikes, potentials = [], []
        for _ in range(6):
            cur1 = F.max_pool2d(self.conv1(x), 2)
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = F.max_pool2d(self.conv2(spk1), 2)
            spk2, mem2 = self.lif2(cur2, mem2)
            cur3 = self.fc1(spk2.view(x.size(0), -1))
            spk3, mem3 = self.lif3(cur3, mem3)
            spikes.append(spk3)
            potentials.append(mem3)
        return torch.stack(spikes), torch.stack(potentials)


class TutorialSynapticNet(nn.Module):
    """The fully connected network of snnTorch's tutorial 5 with the second-order neurons of tutorial 4."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 100)
        self.lif1 = snn.Synaptic(alpha=0.9, beta=0.8)
        self.fc2 = nn.Linear(100, 10)
        self.lif2 = snn.Synaptic(alpha=0.9, beta=0.8)

    def forward(self, x: Tensor) -> Tensor:
        syn1, mem1 = self.lif1.init_synaptic()
        syn2, mem2 = self.lif2.init_synaptic()
        spikes = []
        for step in range(x.size(0)):
            spk1, syn1, mem1 = self.lif1(self.fc1(x[step]), syn1, mem1)
            spk2, syn2, mem2 = self.lif2(self.fc2(spk1), syn2, mem2)
            spikes.append(spk2)
        return torch.stack(spikes)


CASES = {
    "spikformer": Case(
        lambda m: m("spikformer").Spikformer(
            T=4, img_size_h=32, img_size_w=32, num_classes=10, embed_dims=64, num_heads=4, depths=1
        ),
        (2, 3, 32, 32),
        time="fixed by the model",
    ),
    "spike_driven_transformer": Case(
        lambda m: m("spike_driven_transformer").SpikeDrivenTransformer(
            T=2, num_classes=10, embed_dims=64, num_heads=4, depths=1
        ),
        (2, 3, 64, 64),
        time="fixed by the model",
        cause="head_lif",  # fed by the mean over a residual stream of real numbers
    ),
    "qkformer": Case(
        lambda m: m("qkformer").QKFormer(T=2, num_classes=10, embed_dims=64, num_heads=(1, 2, 2), depths=(1, 1, 1)),
        (2, 3, 32, 32),
        config=sxq.Binary(),
        time="fixed by the model",
    ),
    "ms_resnet": Case(
        lambda m: m("ms_resnet").MSResNet(T=2, num_classes=10, layers=(1, 1, 1, 1), base_channels=8),
        (2, 3, 32, 32),
        time="fixed by the model",
        cause="layer1.0.downsample.0",  # its shortcut convolves membrane potentials, not spikes
        integer=False,
    ),
    "sew_resnet": Case(
        lambda m: _multi_step(
            m("sew_resnet").SEWResNet(
                m("sew_resnet").BasicBlock,
                [1, 1, 1, 1],
                num_classes=10,
                cnf="ADD",
                spiking_neuron=sj_neuron.IFNode,
                **_NEURON,
            )
        ),
        (2, 2, 3, 32, 32),
    ),
    "spiking_resnet": Case(
        lambda m: _multi_step(
            m("spiking_resnet").SpikingResNet(
                m("spiking_resnet").BasicBlock,
                [1, 1, 1, 1],
                num_classes=10,
                spiking_neuron=sj_neuron.LIFNode,
                **_NEURON,
            )
        ),
        (2, 2, 3, 32, 32),
        config=sxq.Uniform(bits=4),
    ),
    "plif_gesture": Case(
        lambda m: _multi_step(
            m("parametric_lif_net").DVSGestureNet(channels=8, spiking_neuron=sj_neuron.ParametricLIFNode, **_NEURON)
        ),
        (3, 2, 2, 128, 128),
        spikes_in=True,
    ),
    "snntorch_tutorial_6": Case(lambda _: TutorialConvNet(), (2, 1, 28, 28), time="fixed by the model", gain=3),
    "snntorch_tutorial_5": Case(
        lambda _: TutorialSynapticNet(), (5, 2, 784), config=sxq.Binary(), spikes_in=True, gain=3
    ),
}


def _class_scores(output: Any) -> Tensor:
    values = output[0] if isinstance(output, tuple) else output
    scores: Tensor = values.mean(0) if values.dim() == 3 else values
    return scores


def _train(net: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """Take five steps; the last settles the batch norms' running statistics on the data."""
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    net.train()
    for _ in range(5):
        optimiser.zero_grad()
        sxq.reset(net)
        loss = F.cross_entropy(_class_scores(net(inputs)), targets)
        loss.backward()
        assert torch.isfinite(loss)
        optimiser.step()
    sxq.reset(net)


def _network(case: Case, model_module: Callable[[str], Any]) -> tuple[nn.Module, Tensor, dict[str, nn.Parameter]]:
    """Return the quantised network, its input, and the weights that were replaced."""
    torch.manual_seed(0)
    inner = case.build(model_module)
    net = inner if case.spikes_in else nn.Sequential(sxq.FixedPointInput(bits=8, fraction=8), inner)
    replaced = sxq.quantize_(net, case.config)
    assert not replaced.left, str(replaced)
    weights: dict[str, Any] = {at.names[0]: net.get_submodule(at.names[0]).weight for at in replaced.replaced}
    with torch.no_grad():
        for weight in weights.values():
            weight.mul_(case.gain)
    return net, (torch.rand(case.shape) < 0.5).float() if case.spikes_in else torch.rand(case.shape), weights


#: Like sew_resnet, which every run of the tests has.
_ALIKE = ("spiking_resnet",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in _ALIKE else ()) for name in CASES]
)
def test_model_that_ships_with_a_framework(name: str, model_module: Callable[[str], Any], tmp_path: Path) -> None:
    case = CASES[name]
    net, inputs, weights = _network(case, model_module)
    before = {layer: weight.detach().clone() for layer, weight in weights.items()}
    _train(net, inputs, torch.arange(2))
    # A layer behind attention that never fires has a gradient of zeros: most layers move, all have a gradient.
    assert all(weight.grad is not None for weight in weights.values())
    moved = [layer for layer, weight in weights.items() if not torch.equal(weight, before[layer])]
    assert len(moved) > 0.7 * len(weights), f"training reached {moved} alone"

    kind: Any = "spikes" if case.spikes_in else "real"
    report = sxq.export_onnx(net, inputs, tmp_path / "net.onnx", input=kind)
    assert report.time == case.time
    causes = [layer for layer in report.layers if not layer.exact]
    assert report.exact == (not case.cause), str(report)
    if case.cause:
        assert causes[0].name.endswith(case.cause), str(report)
        assert causes[0].reason.startswith("sums real numbers")
    assert report.file_bytes < sum(w.numel() for w in weights.values())

    result = sxq.verify(net, tmp_path / "net.onnx", inputs)
    assert result.spikes_different == 0, str(result)
    assert result.firing_rate > 0.01, str(result)
    assert result.ok, str(result)


#: Small enough for every run of the tests; with all the others it takes minutes.
_QUICK = ("snntorch_tutorial_5", "snntorch_tutorial_6")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow) for name in CASES]
)
def test_other_forms_of_models_that_ship(name: str, model_module: Callable[[str], Any], tmp_path: Path) -> None:
    case = CASES[name]
    net, inputs, _ = _network(case, model_module)
    _train(net, inputs, torch.arange(2))
    kind: Any = "spikes" if case.spikes_in else "real"
    forms: list[tuple[Any, bool]] = [("sequence", True), ("streaming", False), ("streaming", True)]
    for form, integer in forms:
        path = tmp_path / f"{form}-{integer}.onnx"
        if integer and not case.integer:
            with pytest.raises(UnsupportedModelError, match=case.cause):
                sxq.export_onnx(net, inputs, path, input=kind, form=form, integer=True)
            continue
        sxq.export_onnx(net, inputs, path, input=kind, form=form, integer=integer)
        result = sxq.verify(net, path, inputs)
        assert result.spikes_different == 0, f"{form}, integer={integer}: {result}"
        assert result.ok, f"{form}, integer={integer}: {result}"
