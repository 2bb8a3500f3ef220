"""``torch.compile`` of quantised networks of both frameworks, without graph breaks: the same spikes and gradients."""

import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq

STEPS = 2


class ExplicitState(nn.Module):
    """snnTorch with membrane potentials that the model hands on itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(12, 32), snn.Leaky(0.9, threshold=0.3)
        self.fc2, self.lif2 = nn.Linear(32, 8), snn.Leaky(0.9, threshold=0.1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes = []
        for step in x:
            hidden, first = self.lif1(self.fc1(step), first)
            output, second = self.lif2(self.fc2(hidden), second)
            spikes.append(output)
        return torch.stack(spikes)


class HiddenState(nn.Module):
    """snnTorch with membrane potentials that the neurons keep."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(12, 32),
            snn.Leaky(0.9, threshold=0.3, init_hidden=True),
            nn.Linear(32, 8),
            snn.Leaky(0.9, threshold=0.1, init_hidden=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layers(step) for step in x])


class Jelly(nn.Module):
    """SpikingJelly, one step a call or a sequence."""

    def __init__(self, step_mode: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            layer.Linear(12, 32), neuron.LIFNode(v_threshold=0.2), layer.Linear(32, 8), neuron.LIFNode(v_threshold=0.1)
        )
        self.many = step_mode == "m"
        functional.set_step_mode(self, step_mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) if self.many else torch.stack([self.layers(step) for step in x])


NETWORKS = {
    "snntorch-explicit": ExplicitState,
    "snntorch-hidden": HiddenState,
    "spikingjelly-s": lambda: Jelly("s"),
    "spikingjelly-m": lambda: Jelly("m"),
}
FAST = {("snntorch-explicit", "ternary"), ("spikingjelly-m", "binary")}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        pytest.param(
            name, config, marks=() if (name, config.kind) in FAST else pytest.mark.slow, id=f"{name}-{config.kind}"
        )
        for name in NETWORKS
        for config in (sxq.Ternary(), sxq.Binary())
    ],
)
def test_compiled_networks_spike_alike(name, config) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    model = NETWORKS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # else the second layer is silent
    sxq.quantize_(model, config)
    x = (torch.rand(STEPS, 16, 12) < 0.5).float()

    def run(forward) -> tuple[Tensor, list[Tensor]]:
        sxq.reset(model)
        model.zero_grad()
        spikes = forward(x)
        spikes.sum().backward()
        return spikes.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    spikes, gradients = run(model)
    assert 0 < spikes.mean() < 1
    compiled_spikes, compiled_gradients = run(torch.compile(model, fullgraph=True, backend="aot_eager"))
    assert torch.equal(compiled_spikes, spikes)
    for mine, theirs in zip(compiled_gradients, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
