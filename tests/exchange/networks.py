"""Networks that NIR can carry, one for each neuron and option, in both frameworks."""

from collections.abc import Callable

import snntorch as snn
import torch
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq


def two_layers(first: nn.Module, second: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(12, 9), first, nn.Linear(9, 5, bias=False), second)


def snntorch_image() -> nn.Module:
    beta = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        snn.Leaky(beta=beta, threshold=0.3, init_hidden=True),
        nn.Dropout(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
        snn.Leaky(beta=0.8, threshold=0.2, init_hidden=True, output=True),
    )


def spikingjelly_image() -> nn.Module:
    net = nn.Sequential(
        layer.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
        neuron.LIFNode(tau=2.3, v_threshold=0.1),
        layer.Dropout(),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Linear(16, 10),
        neuron.IFNode(v_threshold=0.2, v_reset=None),
    )
    for module in net:
        module.step_mode = "m"
    return net


class Residual(nn.Module):
    """Names inside names, a sum, a grouped convolution, a call of flatten, and state handed out and back."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleDict(
            {
                "conv": nn.Conv2d(4, 4, 3, padding="same", groups=2),
                "lif": snn.Leaky(beta=0.5, threshold=0.2, init_hidden=True),
            }
        )
        self.short = nn.Conv2d(4, 4, (1, 1))
        self.pool = nn.AvgPool2d(2, divisor_override=1)
        self.head = nn.Linear(64, 3)
        self.out = snn.Leaky(beta=0.9, threshold=0.5, reset_delay=False)

    def forward(self, x: Tensor, mem: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.block["lif"](self.block["conv"](x)) + self.short(x)
        return self.out(self.head(torch.flatten(self.pool(x), 1)), mem)


class Sound(nn.Module):
    """One-dimensional convolution with a dilated kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = layer.Conv1d(3, 4, 3, dilation=2)
        self.lif = neuron.LIFNode(tau=3.0, decay_input=False, v_threshold=0.5, v_reset=-0.25)

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(self.conv(x))


def _leaky(**options: object) -> nn.Module:
    return snn.Leaky(beta=0.9, threshold=0.3, init_hidden=True, **options)


def _lapicque(**options: object) -> nn.Module:
    return snn.Lapicque(threshold=0.05, init_hidden=True, **options)


#: Name: what makes the network, and the shape of one call's input.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{
        f"Leaky {reset} {'delayed' if delay else 'same step'}": (
            lambda o={"reset_mechanism": reset, "reset_delay": delay}: two_layers(_leaky(**o), _leaky(**o)),
            (3, 12),
        )
        for reset in ("subtract", "zero")
        for delay in (True, False)
    },
    "Leaky vector": (
        lambda: two_layers(
            snn.Leaky(beta=torch.linspace(0, 0.95, 9), threshold=torch.linspace(0.1, 0.5, 9), init_hidden=True),
            snn.Leaky(beta=1.0, threshold=0.5, init_hidden=True),
        ),
        (3, 12),
    ),
    "Lapicque": (lambda: two_layers(_lapicque(beta=0.7), _lapicque(R=5.1, C=5e-3, time_step=1e-3)), (3, 12)),
    "Lapicque zero": (
        lambda: two_layers(*(_lapicque(R=2.0, C=3.7, reset_mechanism="zero") for _ in range(2))),
        (3, 12),
    ),
    "Synaptic": (
        lambda: two_layers(
            snn.Synaptic(alpha=0.6, beta=0.83, threshold=0.3, init_hidden=True, reset_mechanism="zero"),
            snn.Synaptic(alpha=0.1, beta=torch.linspace(0.1, 0.9, 5), init_hidden=True, output=True, threshold=0.4),
        ),
        (3, 12),
    ),
    "CUBALIFNode": (
        lambda: two_layers(
            neuron.CUBALIFNode(c_decay=0.31, v_decay=0.77, v_threshold=0.3), neuron.CUBALIFNode(v_reset=None)
        ),
        (3, 12),
    ),
    "ParametricLIFNode": (
        lambda: two_layers(
            neuron.ParametricLIFNode(init_tau=2.7, v_threshold=0.1),
            neuron.ParametricLIFNode(init_tau=9.1, decay_input=False, v_threshold=0.3, v_reset=-0.125),
        ),
        (3, 12),
    ),
    "LIFNode": (lambda: two_layers(neuron.LIFNode(v_threshold=0.2), neuron.LIFNode(tau=3.7, v_threshold=0.1)), (3, 12)),
    "LIFNode soft": (
        lambda: two_layers(
            neuron.LIFNode(v_threshold=0.1, v_reset=None),
            neuron.LIFNode(decay_input=False, v_threshold=0.2, v_reset=None),
        ),
        (3, 12),
    ),
    "IFNode": (lambda: two_layers(neuron.IFNode(v_reset=-0.5), neuron.IFNode(v_threshold=0.2, v_reset=None)), (3, 12)),
    "snnTorch image": (snntorch_image, (2, 2, 8, 8)),
    "SpikingJelly image, multi-step": (spikingjelly_image, (6, 2, 2, 8, 8)),
    "snnTorch residual": (Residual, (2, 4, 8, 8)),
    "SpikingJelly sound": (Sound, (2, 3, 11)),
}


def build(name: str, config: sxq.config.WeightConfig | None) -> tuple[nn.Module, Tensor]:
    """Return the network, quantised, in evaluation, and a sample."""
    make, shape = NETWORKS[name]
    torch.manual_seed(len(name))
    net = make().eval()
    if config is not None:
        sxq.quantize_(net, config)
    return net, torch.zeros(shape)


def spikes_of(net: nn.Module, inputs: Tensor) -> Tensor:
    """Return what a model of single or of many steps gives for ``(calls, ...)``, states included, in a row."""
    sxq.reset(net)
    with torch.no_grad():
        outputs = [net(x) for x in inputs]
    flat = [torch.stack(o) if isinstance(o, tuple) else o for o in outputs]
    return torch.stack(flat)
