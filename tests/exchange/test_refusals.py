"""What NIR cannot carry, and graphs that are no models: refused by name, with the remedy."""

import copy
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import (
    ConfigError,
    MissingDependencyError,
    ModelEditedError,
    ModelFileError,
    SampleError,
    UnsupportedModelError,
    UnsupportedNeuronError,
)
from snn_extreme_quant.exchange import from_nir, to_nir
from snn_extreme_quant.exchange.metadata import KEY

from .networks import build


def leaky(**options: Any) -> nn.Module:
    return snn.Leaky(**{"beta": 0.9, "init_hidden": True, **options})


class Custom(nn.Module):
    """Runs a function on a layer's output."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.first, self.lif, self.second = nn.Linear(4, 4), leaky(), nn.Linear(4, 4)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def over_time(self: Custom, x: Tensor) -> Tensor:
    return torch.stack([self.lif(self.first(step)) for step in x])


def twice(self: Custom, x: Tensor) -> Tensor:
    return self.second(self.lif(self.first(self.first(x))))


def doubled(self: Custom, x: Tensor) -> Tensor:
    x = self.first(x)
    return self.lif(x + x)


def branching(self: Custom, x: Tensor) -> Tensor:
    return self.first(x) if x.sum() > 0 else self.second(x)


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "pool": (lambda: nn.Sequential(nn.Linear(4, 4), nn.MaxPool1d(2)), "Layer '1': NIR has no node for .*MaxPool1d"),
    "norm": (lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "batch norm has no node"),
    "subclass": (
        lambda: nn.Sequential(nn.Linear(4, 4), type("Flatten", (nn.Flatten,), {})()),
        "Layer '1': NIR has no node for .*test_refusals.Flatten",
    ),
    "namesake": (
        lambda: nn.Sequential(nn.Linear(4, 4), type("Dropout", (nn.Tanh,), {})()),
        "Layer '1': NIR has no node for .*test_refusals.Dropout",
    ),
    "loop": (lambda: Custom(over_time), "computes one time step"),
    "branch": (lambda: Custom(branching), "decides by its input's values"),
    "twice": (lambda: Custom(twice), "Layer 'first' is called more than once"),
    "doubled": (lambda: Custom(doubled), "'first' is added to itself"),
    "sigmoid": (lambda: Custom(lambda m, x: m.second(m.first(x).sigmoid())), r"calls sigmoid\(\)"),
    "constant": (lambda: Custom(lambda m, x: m.second(m.first(x) + 1.0)), "A sum takes 1.0"),
    "potential": (lambda: Custom(lambda m, x: m.second(m.first.weight)), "no membrane"),
    "sum of sums": (
        lambda: Custom(lambda m, x: m.second((m.first(x) + x) + (m.lif(m.first(x)) + x))),
        "called more than once|sum of two sums",
    ),
    "sum at the end": (lambda: Custom(lambda m, x: m.first(x) + m.second(x)), "output is a sum"),
    "nothing": (nn.Identity, "gives its input unchanged"),
    "layer itself": (lambda: nn.Linear(4, 4), "put it into nn.Sequential"),
    "name": (lambda: nn.Sequential(OrderedDict(output=nn.Linear(4, 4))), "as NIR's own node is"),
    "padding": (lambda: nn.Sequential(nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular")), "'circular'"),
    "kernel": (lambda: nn.Sequential(nn.Conv2d(1, 1, (3, 1))), "kernel of 3x1"),
    "ceil": (lambda: nn.Sequential(nn.AvgPool2d(2, ceil_mode=True)), "ceil_mode=False"),
    "batch": (lambda: nn.Sequential(nn.Flatten(0)), r"use Flatten\(1\)"),
    "axes": (lambda: nn.Sequential(nn.Linear(4, 4)), "takes 2 axes"),
}
SAMPLES = {"padding": (1, 1, 8), "kernel": (1, 1, 8, 8), "ceil": (1, 1, 8, 8), "axes": (1, 7, 4)}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_nir_cannot_carry(name: str) -> None:
    make, message = MODELS[name]
    with pytest.raises(UnsupportedModelError, match=message):
        to_nir(make(), torch.zeros(SAMPLES.get(name, (2, 4))))


# What a model does besides its layers and neurons.


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_types_are_checked(dtype: torch.dtype) -> None:
    net, sample = build("LIFNode", sxq.Ternary())
    assert "output" in to_nir(net.to(dtype), sample.to(dtype) + 1).nodes


NEURONS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no reset": (lambda: leaky(reset_mechanism="none"), "Layer '1': NIR has no neuron node with no reset"),
    "graded": (lambda: leaky(graded_spikes_factor=2.0), "graded spikes; fold"),
    "partly leaking": (lambda: leaky(beta=torch.tensor([0.5, 1.0, 1.0, 1.0])), "Use two layers"),
    "synapse without leak": (lambda: snn.Synaptic(1.0, 0.5, init_hidden=True), "A decay of 1"),
    "alpha": (lambda: snn.Alpha(0.9, 0.8, init_hidden=True), "charging by 'alpha'"),
    "recurrent": (lambda: snn.RLeaky(0.9, linear_features=4, init_hidden=True), "fed back"),
    "ternary spikes": (neuron.TernaryLIFNode, "spikes by 'ternary'"),
    "no spec": (lambda: leaky(inhibition=True), "inhibition"),
}


@pytest.mark.parametrize("name", NEURONS)
def test_neurons_that_nir_cannot_carry(name: str) -> None:
    make, message = NEURONS[name]
    with pytest.raises(UnsupportedNeuronError, match=message):
        to_nir(nn.Sequential(nn.Linear(4, 4), make()))


def test_samples_and_time_steps_are_checked() -> None:
    net = nn.Sequential(nn.Linear(4, 4), leaky())
    with pytest.raises(SampleError, match="does not fit"):
        to_nir(net, torch.zeros(2, 5))
    for dt in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="time step in seconds"):
            to_nir(net, dt=dt)
        with pytest.raises(ConfigError, match="time step in seconds"):
            from_nir(to_nir(net), dt=dt)
    with pytest.raises(UnsupportedModelError, match="got int"):
        to_nir(3)


def test_the_package_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(4, 4), leaky())
    graph = to_nir(net)
    monkeypatch.setitem(sys.modules, "nir", None)
    for call in (lambda: to_nir(net), lambda: from_nir(graph)):
        with pytest.raises(MissingDependencyError, match=r'pip install "snn-extreme-quant\[nir\]"'):
            call()


@pytest.fixture
def graph() -> Any:
    return to_nir(build("Leaky subtract delayed", sxq.Ternary())[0])


def test_changed_weights_and_neurons_are_noticed(graph: Any) -> None:
    for name, field in (("0", "weight"), ("1", "tau"), ("3", "v_threshold")):
        changed = copy.deepcopy(graph)
        getattr(changed.nodes[name], field).reshape(-1)[0] *= 1.5
        with pytest.raises(ModelEditedError, match=f"node '{name}' is not that of"):
            from_nir(changed)
        del changed.nodes[name].metadata[KEY]
        if name == "0":
            assert type(from_nir(changed).get_submodule("0")) is nn.Linear


def test_changed_groups_are_noticed() -> None:
    graph = to_nir(*build("snnTorch residual", sxq.Ternary()))
    graph.nodes["block.conv"].weight[0, 3] = 1.0
    with pytest.raises(ModelEditedError, match="of different groups"):
        from_nir(graph)


def about(change: Callable[[str], str]) -> Callable[[dict[str, Any]], None]:
    def damage(metadata: dict[str, Any]) -> None:
        metadata["about"] = change(metadata["about"])

    return damage


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata.pop(key)


def put(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata.update({key: value})


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("0", about(lambda text: text[:-1]), "damaged"),
        ("0", about(lambda text: text.replace('"version": 1', '"version": 2')), "version 2; this release reads 1"),
        ("0", about(lambda text: text.replace("ternary4", "ternary9")), "ternary9"),
        ("0", about(lambda text: text.replace('"kind": "ternary"', '"kind": "tern"')), "tern"),
        ("0", put("codes", np.full((12, 3), 255, np.uint8)), "damaged"),
        ("0", drop("scale"), "scale"),
        ("0", put("scale", np.ones(3, np.float32)), "scale of node '0' is damaged"),
        ("0", put("scale", np.full(9, np.nan, np.float32)), "scale of node '0' is damaged"),
        ("1", about(lambda text: text.replace('"charge": "leak"', '"charge": "leek"')), "leek"),
        ("1", drop("parameter_decay"), "parameter_decay"),
        ("1", put("parameter_decay", np.zeros(2, np.float32)), "neuron of node '1' is damaged"),
    ],
)
def test_damaged_metadata_is_noticed(graph: Any, name: str, damage: Any, message: str) -> None:
    damage(graph.nodes[name].metadata[KEY])
    with pytest.raises(ModelFileError, match=message):
        from_nir(graph)


def test_files_that_are_no_graphs(tmp_path: Path) -> None:
    (tmp_path / "net.nir").write_text("no graph")
    for path in (tmp_path / "net.nir", str(tmp_path / "none.nir"), tmp_path):
        with pytest.raises(ModelFileError, match="cannot be read as a NIR graph"):
            from_nir(path)
    with pytest.raises(UnsupportedModelError, match="got list"):
        from_nir([])


def linear() -> Any:
    return nir.Linear(np.ones((2, 2), np.float32))


def graph_of(nodes: dict[str, Any], edges: list[tuple[str, str]]) -> Any:
    ends = {"input": nir.Input(np.array([2])), "output": nir.Output(np.array([2]))}
    return nir.NIRGraph({**ends, **nodes}, edges, type_check=False)


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ({"a": linear(), "b": linear()}, [("input", "a"), ("a", "b"), ("b", "a"), ("b", "output")], "loop .*recurrent"),
        ({"a": linear()}, [("input", "output")], "'a' has no input"),
        ({"in2": nir.Input(np.array([2]))}, [("input", "output")], "2 Input nodes"),
        (
            {"g": graph_of({}, [("input", "output")])},
            [("input", "g"), ("g", "output")],
            "a graph of its own, as recurrent layers are",
        ),
        ({"d": nir.Delay(np.ones(2))}, [("input", "d"), ("d", "output")], "'d' is a NIR Delay"),
    ],
    ids=["loop", "no input", "two inputs", "nested", "unknown"],
)
def test_graphs_that_are_no_models(nodes: dict[str, Any], edges: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        from_nir(graph_of(nodes, edges))


def test_neurons_stay_in_their_framework(graph: Any) -> None:
    with pytest.raises(UnsupportedNeuronError, match="spikingjelly has no neuron for node '1'"):
        from_nir(graph, "spikingjelly")


def test_infinite_parameters_are_noticed() -> None:
    node = nir.IF(np.full(2, np.inf), np.ones(2))
    with pytest.raises(ModelFileError, match="NaN or infinite"):
        from_nir(graph_of({"n": node}, [("input", "n"), ("n", "output")]), "snntorch")


def test_multi_step_models_take_sequences() -> None:
    net = nn.Sequential(layer.Linear(4, 4, step_mode="m"), neuron.IFNode(step_mode="m"))
    with pytest.raises(UnsupportedModelError, match="takes 3 axes"):
        to_nir(net, torch.zeros(2, 4))
