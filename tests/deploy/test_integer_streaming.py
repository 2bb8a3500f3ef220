"""Streaming integer files: integer steps made one after the other are the integer sequence, bit for bit."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import snntorch as snn
import torch
from hypothesis import HealthCheck, event, given, settings
from onnx import TensorProto, helper
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import IntegerOptions, Stream, native_status
from snn_extreme_quant.deploy.integer.integers_only import check_integers_only
from snn_extreme_quant.errors import ExportError, SampleError, UnsupportedModelError
from tests.deploy.random_networks import FORMS, Network, networks
from tests.deploy.test_integer_files import _recurrent, _residual, spikes
from tests.deploy.test_streaming import assert_same_as_sequence, loop

_SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
_NATIVE = [False, *([True] if native_status().available else [])]


def facts_of(path: Path) -> dict[str, Any]:
    proto = onnx.load(path)
    facts: dict[str, Any] = json.loads(next(e.value for e in proto.metadata_props if e.key == "snn_extreme_quant"))
    return facts


def export(model: nn.Module, inputs: Tensor, path: Path, **options: Any) -> sxq.ExportReport:
    return sxq.export_onnx(model, inputs, path, form="streaming", **{"integer": True, "input": "spikes", **options})


# Steps are the sequence ----------------------------------------------------------------------------------------------


def check(network: Network, *, native: bool = False) -> None:
    """Stream a network's integer file, and verify it on other numbers of steps and samples too."""
    kind: Any = "spikes" if network.spikes_in else "real"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            sxq.export_onnx(network.model, network.inputs, folder / "first.onnx", input=kind, integer=True)
        except UnsupportedModelError:
            event("no integer form")
            return
        report = assert_same_as_sequence(network.model, network.inputs, folder, native=native, input=kind, integer=True)
        assert report.exact, str(report)
        longer = torch.cat([network.inputs, network.inputs.flip(0)])
        result = sxq.verify(network.model, report.path, [longer, network.inputs[:1, :1]], native=native)
        assert result.ok, str(result)
        assert result.integer is not None
        assert result.integer.torch_compared == result.spikes_compared > 0
        assert result.output_difference == 0
        event("streamed")


@pytest.mark.parametrize("form", FORMS[1:2])
def test_random_networks(form: str) -> None:
    @given(networks(form))
    @settings(max_examples=1, **_SETTINGS)
    def run(network: Network) -> None:
        check(network)

    run()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("native", _NATIVE)
def test_many_random_networks(native: bool) -> None:
    @given(networks())
    @settings(max_examples=30, **_SETTINGS)
    def run(network: Network) -> None:
        check(network, native=native)

    run()


class Twice(nn.Module):
    """SpikingJelly: a convolution, signed spikes, and a layer of neurons that a step calls twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = layer.Conv2d(2, 4, 3, padding=1)
        self.signed = neuron.TernaryIFNode(v_threshold=0.3)
        self.mix = layer.Conv2d(4, 4, 1)
        self.fire = neuron.LIFNode(v_threshold=0.2, v_reset=-0.1, tau=1.7)
        self.head = layer.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fire(self.mix(self.signed(self.conv(x))))
        x = self.fire(self.mix(x))
        return self.head(x.flatten(1))


def _twice() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Twice()
    sxq.quantize_(model, sxq.Binary())
    return model.eval(), spikes(4, 2, 2, 4, 4)


NETWORKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "synaptic and recurrent": (_recurrent, {}),
    "signed, counted, attended": (_residual, {}),
    "called twice": (_twice, {"input": "spikes", "calling": "step"}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_have_it_all(name: str, tmp_path: Path) -> None:
    build, options = NETWORKS[name]
    model, inputs = build()
    native = _NATIVE[-1]
    sequence, streaming = tmp_path / "sequence.onnx", tmp_path / "streaming.onnx"
    whole = sxq.export_onnx(model, inputs, sequence, integer=True, **options)
    report = sxq.export_onnx(model, inputs, streaming, integer=True, form="streaming", **options)
    assert report.fixed_point == whole.fixed_point
    ours = sxq.deploy.run_file(streaming, inputs, spikes=True, native=native)
    theirs = sxq.deploy.run_file(sequence, inputs, spikes=True, native=native)
    for layer_name, found in ours.spikes.items():
        assert np.array_equal(found, theirs.spikes[layer_name].reshape(found.shape)), layer_name
    for output, found in ours.outputs.items():
        assert np.allclose(found, theirs.outputs[output], rtol=1e-5, atol=0), output
    result = sxq.verify(model, streaming, [torch.cat([inputs, inputs.flip(0)]), inputs[:1, :1]])
    assert result.ok, str(result)
    assert 0.02 < result.firing_rate < 0.98


# The file ------------------------------------------------------------------------------------------------------------


class Reset(nn.Module):
    """Potentials that begin at another integer in each channel, spikes that are added up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.fc, self.lif = layer.Linear(6, 5), neuron.LIFNode(v_threshold=0.3, v_reset=-0.4)
        nn.init.normal_(self.fc.weight)
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(self.fc(x)).sum(0)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    model = Reset()
    sxq.quantize_(model, sxq.Ternary())
    return model.eval()


@pytest.fixture(scope="module")
def file(small: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streaming") / "net.onnx"
    export(small, spikes(4, 2, 6), path, integer=IntegerOptions(max_steps=50))
    return path


def test_states_are_integers(file: Path) -> None:
    proto, facts = onnx.load(file), facts_of(file)
    assert [i.name for i in proto.graph.input] == ["input", "lif.v", "so_far"]
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*proto.graph.input[1:], *proto.graph.output[1:])}
    assert set(kinds.values()) == {TensorProto.INT32}
    assert (facts["form"], facts["integer"], facts["max_steps"]) == ("streaming", True, 50)
    assert [n.op_type for n in proto.graph.node if n.domain] == [
        "TernaryMatMulInteger", "StepIntLIF_leak_ge_value_same_step",
    ]  # fmt: skip
    potential, total = facts["states"]
    assert (potential["name"], potential["shape"], potential["dtype"]) == ("lif.v", ["B", 5], "int32")
    assert (total["initial"], total["dtype"]) == (0, "int32")
    reset = next(onnx.numpy_helper.to_array(i) for i in proto.graph.initializer if i.name == "lif.v_reset")
    assert potential["initial"] == reset.tolist(), "v begins at v_reset"
    assert len(set(potential["initial"])) > 1


def test_stream_begins_at_each_channels_value(small: nn.Module, file: Path) -> None:
    stream = Stream(file, native=False)
    given = [stream.step(x)["output"] for x in spikes(6, 3, 6)]
    assert stream.state["lif.v"].dtype == np.int32
    saved = stream.state
    later = stream.step(spikes(3, 6))["output"]
    stream.state = {name: value.astype(np.int64) for name, value in saved.items()}
    assert np.array_equal(stream.step(spikes(3, 6))["output"], later)
    functional.reset_net(small)
    with torch.no_grad():
        assert np.array_equal(given[-1], small(spikes(6, 3, 6)).numpy())


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (np.full((2, 5), 0.5), "'lif.v' is int32.*whole numbers"),
        (np.full((2, 5), 2**40), "'lif.v' is int32"),
        (np.full((2, 5), np.nan), "'lif.v' is int32"),
        (np.full((2, 5), "1"), "'lif.v' is int32, not"),
    ],
)
def test_a_state_of_another_type(file: Path, value: Any, names: str) -> None:
    stream = Stream(file, native=False)
    with pytest.raises(SampleError, match=names):
        stream.state = {"lif.v": value, "so_far": np.zeros((2, 5), np.int32)}


def test_no_more_steps_than_sums_are_proved_for(file: Path) -> None:
    most = facts_of(file)["most_steps"]
    assert most == 2**31 - 1, "a sum of spikes that is decoded alone"
    stream = Stream(file, native=False)
    stream.step(spikes(2, 6))
    stream.steps_made = most
    with pytest.raises(SampleError, match=r"2147483647 steps are made.*max_steps.*50.*reset"):
        stream.step(spikes(2, 6))


def test_verify_finds_another_beginning(small: nn.Module, file: Path, tmp_path: Path) -> None:
    inputs = spikes(5, 3, 6)
    assert sxq.verify(small, file, inputs).ok
    proto = onnx.load(file)
    entry = next(e for e in proto.metadata_props if e.key == "snn_extreme_quant")
    facts = json.loads(entry.value)
    facts["states"][0]["initial"] = 2**24
    entry.value = json.dumps(facts)
    onnx.save(proto, tmp_path / "edited.onnx")
    result = sxq.verify(small, tmp_path / "edited.onnx", inputs, allow_edited=True)
    assert result.integer is not None
    # onnxruntime and the golden model run the same file, so torch alone gives other spikes.
    assert result.spikes_different == result.integer.torch_different > 0
    assert not result.ok


def test_a_float_state_is_found(file: Path) -> None:
    for values in ("input", "output"):
        proto = onnx.load(file)
        check_integers_only(proto)
        value = getattr(proto.graph, values)[1]
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        with pytest.raises(ExportError, match=r"state 'lif\.v.*float"):
            check_integers_only(proto)


def test_a_float_made_of_a_state_is_found(file: Path) -> None:
    proto = onnx.load(file)
    step = next(n for n in proto.graph.node if n.op_type.startswith("StepInt"))
    position = list(proto.graph.node).index(step)
    there = helper.make_node("Cast", ["lif.v"], ["real"], "there", to=TensorProto.FLOAT)
    back = helper.make_node("Cast", ["real"], ["whole"], "back", to=TensorProto.INT32)
    step.input[list(step.input).index("lif.v")] = "whole"
    proto.graph.node.insert(position, back)
    proto.graph.node.insert(position, there)
    with pytest.raises(ExportError, match="float 'real' between integers"):
        check_integers_only(proto)


# What is carried besides ---------------------------------------------------------------------------------------------


class Head(nn.Module):
    """Something behind the neuron, added up over time."""

    def __init__(self, head: Any, *, mean: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.lif, self.head = nn.Linear(6, 5), snn.Leaky(beta=0.9, threshold=0.3), head
        self.mean = mean
        sxq.quantize_(self, sxq.Ternary())

    def forward(self, x: Tensor) -> Tensor:
        state, total = self.lif.reset_mem(), 0
        for step in range(x.shape[0]):
            spike, state = self.lif(self.fc(x[step]), state)
            total = total + self.head(spike, state)
        return total / x.shape[0] if self.mean else total


class Readout(nn.Module):
    """A layer with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def forward(self, spike: Tensor, _: Tensor) -> Tensor:
        return self.fc(spike)


CARRIED: dict[str, tuple[Any, list[tuple[str, str]]]] = {
    "delay": (lambda: loop(lambda x, t, c: (x[t] + c, x[t])), [("carried", "uint8"), ("lif.v", "int32")]),
    "mean": (
        lambda: loop(after=lambda s: torch.stack(s).mean(0)),
        [("lif.v", "int32"), ("so_far", "int32"), ("steps", "int32")],
    ),
    "sum of currents with a bias": (
        lambda: Head(Readout()),
        [("lif.v", "int32"), ("so_far", "int32"), ("steps", "int32")],
    ),
    "their mean": (
        lambda: Head(Readout(), mean=True),
        [("lif.v", "int32"), ("so_far", "int32"), ("steps", "int32")],
    ),
    "largest": (lambda: loop(after=lambda s: torch.stack(s).amax(0)), [("lif.v", "int32"), ("so_far", "int32")]),
}


@pytest.mark.parametrize("name", CARRIED)
def test_what_is_carried_besides(name: str, tmp_path: Path) -> None:
    build, states = CARRIED[name]
    model, path = build(), tmp_path / "net.onnx"
    assert export(model, spikes(4, 2, 6), path).exact
    assert [(s["name"], s["dtype"]) for s in facts_of(path)["states"]] == states
    result = sxq.verify(model, path, [spikes(9, 3, 6), spikes(1, 2, 6)])
    assert result.ok, str(result)
    assert result.integer is not None
    assert result.integer.different == 0


REFUSED: dict[str, tuple[Any, str]] = {
    "a trace": (lambda: loop(lambda x, t, c: (x[t] + c, 0.5 * c + x[t])), "'lif'"),
    "an input that grows": (lambda: loop(lambda x, t, c: (x[t] + c, c + x[t])), "'lif'.*grows from step to step"),
    "a sum of real numbers": (lambda: Head(lambda s, _: s.softmax(-1)), "'so_far'.*softmax.*Export the sequence"),
    "a sum of potentials": (lambda: Head(lambda _, v: v), r"'so_far'.*1024 steps it may reach"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    build, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message):
        export(build(), spikes(4, 2, 6), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
