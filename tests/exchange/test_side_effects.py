"""What a model does besides its layers and neurons, and NIR cannot carry: hooks, writes, what tracing does not show."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import (
    UnsupportedModelError,
    UnsupportedNeuronError,
)
from snn_extreme_quant.exchange import from_nir, to_nir

from .custom import Custom, leaky


def twofold(_module: nn.Module, _args: Any, output: Any = None) -> Any:
    return None if output is None else output * 2


HOOKED: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "layer": (lambda net: net[0].register_forward_hook(twofold), "Layer '0' has forward hooks.*handle.remove"),
    "before": (lambda net: net[0].register_forward_pre_hook(twofold), "Layer '0' has forward hooks"),
    "neuron": (lambda net: net[1].register_forward_hook(twofold), "Layer '1' has forward hooks"),
    "container": (lambda net: net[2].register_forward_hook(twofold), "Layer '2' has forward hooks"),
    "model": (lambda net: net.register_forward_pre_hook(twofold), "The model has forward hooks"),
    "dropout": (lambda net: net[2][1].register_forward_hook(twofold), "Layer '2.1' has forward hooks"),
    "forward": (lambda net: setattr(net[0], "forward", lambda x: x * 2), r"Layer '0': its forward\(\) was replaced"),
}


@pytest.mark.parametrize("name", HOOKED)
@pytest.mark.parametrize("quantised", [False, True])
def test_hooks_and_replaced_methods(name: str, quantised: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 4), leaky(), nn.Sequential(nn.Linear(4, 4), nn.Dropout()), leaky())
    if quantised:
        sxq.quantize_(net, sxq.Ternary())
    to_nir(net)
    change, message = HOOKED[name]
    handle = change(net)
    with pytest.raises(UnsupportedModelError, match=message):
        to_nir(net)
    if handle is not None:
        handle.remove()
        to_nir(net)


def test_hooks_inside_a_neuron() -> None:
    # Neurons share the surrogate that they have by default.
    net = nn.Sequential(layer.Linear(4, 4), neuron.LIFNode(surrogate_function=surrogate.ATan()))
    net[1].surrogate_function.register_forward_hook(lambda module, args, output: output if output.any() else None)
    with pytest.raises(UnsupportedModelError, match=r"Layer '1\.surrogate_function' has forward hooks"):
        to_nir(net)


def test_hooks_on_modules_that_are_not_called() -> None:
    net = Custom(lambda m, x: m.lif(m.first(x)))
    net.second.register_forward_hook(twofold)
    assert set(to_nir(net).nodes) == {"input", "first", "lif", "output"}


def writing(write: Callable[[Custom, Tensor], Any]) -> Callable[[Custom, Tensor], Tensor]:
    def forward(self: Custom, x: Tensor) -> Tensor:
        write(self, x)
        return self.second(self.lif(self.first(x)))

    return forward


def damp(self: Custom, _: Tensor) -> None:
    self.lif.mem = self.lif.mem * 0.3


def damp_in_place(self: Custom, _: Tensor) -> None:
    self.lif.mem.mul_(0.3)


def clip(self: Custom, _: Tensor) -> None:
    self.mask.data.mul_(0.5)


def count(self: Custom, _: Tensor) -> None:
    self.calls = getattr(self, "calls", 0) + 1


def keep(self: Custom, x: Tensor) -> None:
    self.last = x + 1.0


def collect(self: Custom, x: Tensor) -> None:
    self.seen.append(x)


def forget(self: Custom, _: Tensor) -> None:
    del self.extra


def damp_memory(self: Custom, _: Tensor) -> None:
    self.jelly.v = self.jelly.v * 0.3


def reset_memory(self: Custom, _: Tensor) -> None:
    self.jelly.reset()


WRITES = [
    (damp, "lif.mem"),
    (damp_in_place, "lif.mem"),
    (lambda self, _: self.lif.reset_mem(), "lif.mem"),
    (clip, "mask"),
    (count, "calls"),
    (keep, "last"),
    (collect, r"seen\[0\]"),
    (forget, "extra"),
    (damp_memory, "jelly.v"),
    (reset_memory, "jelly.v"),
    (lambda self, x: setattr(self.lif, "mem", x), "lif.mem"),
]


@pytest.mark.parametrize(("write", "message"), WRITES)
def test_writes_to_attributes(write: Callable[[Custom, Tensor], Any], message: str) -> None:
    """Also where what is written is equal to what was there: potentials are 0 after a reset."""
    net = Custom(writing(lambda self, x: None))
    net.seen, net.extra, net.jelly = [], 1.5, neuron.LIFNode()
    net.register_buffer("mask", torch.ones(4))
    to_nir(net, torch.ones(1, 4))
    net.function = writing(write)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    kept = set(vars(net))
    with pytest.raises(UnsupportedModelError, match=rf"Custom.forward\(\) writes to {message}"):
        to_nir(net)
    assert set(vars(net)) == kept
    assert (net.seen, net.extra, net.jelly.v) == ([], 1.5, 0.0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert isinstance(net.lif.mem, Tensor)


def halved(self: Custom, x: Tensor) -> Tensor:
    x = self.first(x)
    x.mul_(0.5)
    return self.lif(x)


def added(self: Custom, x: Tensor) -> Tensor:
    y = self.first(x)
    y.add_(x)
    return self.lif(y)


def clamped(self: Custom, x: Tensor) -> Tensor:
    self.first.weight.clamp_(-0.01, 0.01)
    return self.lif(self.first(x))


@pytest.mark.parametrize("forward", [halved, added, clamped])
def test_writes_into_tensors(forward: Callable[[Custom, Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"writes into .* with (mul_|add_|clamp_)\(\)"):
        to_nir(Custom(forward))


def test_sums_in_place_whose_operand_is_not_used_again() -> None:
    def forward(self: Custom, x: Tensor) -> Tensor:
        y = self.first(x)
        y += self.second(x)
        return self.lif(y)

    graph = to_nir(Custom(forward), torch.ones(2, 4))
    assert [source for source, target in graph.edges if target == "lif"] == ["first", "second"]


class Hidden:
    """A state outside of all modules, which tracing cannot see."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, net: Custom, x: Tensor) -> Tensor:
        self.calls += 1
        return net.lif(net.first(x) if self.calls % 2 else net.second(x))


def test_the_sample_shows_what_tracing_does_not() -> None:
    torch.manual_seed(0)
    net = Custom(Hidden())
    with torch.no_grad():
        net.first.bias.fill_(2.0)
        net.second.bias.fill_(-2.0)
    with pytest.raises(UnsupportedModelError, match=r"does not give what Custom gives: 8 of 8 values differ in call 1"):
        to_nir(net, torch.zeros(2, 4))
    net.function = writing(lambda self, x: None)
    net.lif.mem = torch.full((2, 4), 0.25)
    to_nir(net, torch.zeros(2, 4))
    assert torch.equal(net.lif.mem, torch.full((2, 4), 0.25))


def test_the_sample_shows_sums_under_another_name() -> None:
    """torch.fx takes z += x for a sum that leaves y as it was."""

    def forward(self: Custom, x: Tensor) -> Tensor:
        y = self.first(x)
        z = y
        z += x
        return self.second(y)

    with pytest.raises(UnsupportedModelError, match="does not give what Custom gives"):
        to_nir(Custom(forward), torch.ones(2, 4))


def test_checking_the_sample_leaves_no_neurons_behind() -> None:
    from snntorch._neurons.neurons import SpikingNeuron

    net = nn.Sequential(nn.Linear(4, 4), leaky())
    before = list(SpikingNeuron.instances)
    to_nir(net, torch.zeros(1, 4))
    assert [id(n) for n in SpikingNeuron.instances] == [id(n) for n in before]


def test_neurons_that_the_plugin_does_not_make_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(reading: Any) -> nn.Module:
        raise UnsupportedNeuronError("none")

    monkeypatch.setattr("snn_extreme_quant_snntorch.writing.write_neuron", refuse)
    graph = to_nir(nn.Sequential(nn.Linear(4, 4), leaky()), torch.zeros(1, 4))
    with pytest.raises(UnsupportedNeuronError):
        from_nir(graph)
