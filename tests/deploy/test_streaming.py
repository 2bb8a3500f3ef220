"""Streaming files: steps made one after the other are the sequence, bit for bit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import snntorch as snn
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import Stream, session
from snn_extreme_quant.errors import ExportError, ModelFileError, SampleError, UnsupportedModelError
from tests.deploy import test_every_class as every_class
from tests.deploy.random_networks import FORMS, Network, networks
from tests.deploy.test_model_forms import FORMS as MODELS
from tests.deploy.test_model_forms import quantised, spikes

_SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


def streamed(path: Path, inputs: Tensor, time_axis: int | None, steps: int, native: Any = False) -> list[Any]:
    """The outputs of each step."""
    stream = Stream(path, native=native)
    return [stream.step(inputs if time_axis is None else inputs.select(time_axis, t)) for t in range(steps)]


def assert_same_as_sequence(
    model: nn.Module, inputs: Tensor, folder: Path, *, native: Any = False, time_axis: int | None = 0, **options: Any
) -> sxq.ExportReport:
    """After 1, 2 and all steps, the streamed outputs are those of the sequence file for so many steps."""
    sequence, streaming = folder / "sequence.onnx", folder / "streaming.onnx"
    sxq.export_onnx(model, inputs, sequence, **options)
    report = sxq.export_onnx(model, inputs, streaming, form="streaming", **options)
    whole = session(sequence, native=native)
    axes = {o["name"]: o["axis"] for o in Stream(streaming)._facts["outputs"]}
    assert [o.name for o in whole.get_outputs()] == list(axes)
    steps = inputs.shape[time_axis] if time_axis is not None else Stream(streaming)._facts["steps"]
    given = streamed(streaming, inputs, time_axis, steps, native)
    for k in {1, min(2, steps), steps} if time_axis is not None else {steps}:
        part = inputs if time_axis is None else inputs.narrow(time_axis, 0, k)
        for (name, axis), expected in zip(axes.items(), whole.run(None, {"input": part.numpy()}), strict=True):
            rows = [row[name] for row in given[:k]]
            found = rows[-1] if axis is None else np.stack(rows, axis)
            if report.exact:
                assert np.array_equal(found, expected), (name, k)
            else:
                assert found.shape == expected.shape
    return report


def check(network: Network, *, native: Any = False) -> bool:
    """Stream a network and verify it, on other numbers of steps and samples too."""
    kind = "spikes" if network.spikes_in else "real"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = assert_same_as_sequence(network.model, network.inputs, folder, native=native, input=kind)
        others = [torch.cat([network.inputs, network.inputs.flip(0)], axis) for axis in (0, 1)]
        inputs = [network.inputs, *others, network.inputs[:1, :1]]
        assert report.exact or not network.exact, str(report)
        assert report.time == "free"
        result = sxq.verify(network.model, report.path, inputs, native=native)
        assert result.spikes_compared > 0
        if report.exact:
            assert result.spikes_different == 0, str(result)
            assert result.output_difference == 0, str(result)
        return report.exact


@pytest.mark.parametrize("form", FORMS)
def test_random_networks(form: str) -> None:
    @given(networks(form))
    @settings(max_examples=1, **_SETTINGS)
    def run(network: Network) -> None:
        check(network)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("native", [False, True], ids=["stock", "native"])
def test_many_random_networks(native: bool) -> None:
    guaranteed: list[bool] = []

    @given(networks())
    @settings(max_examples=60, **_SETTINGS)
    def run(network: Network) -> None:
        guaranteed.append(check(network, native=native))

    run()
    assert sum(guaranteed) > 0.6 * len(guaranteed)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_form_of_model(name: str, tmp_path: Path) -> None:
    build, shape, other, _ = MODELS[name]
    model = quantised(build, sxq.Ternary())
    report = sxq.export_onnx(model, spikes(*shape), tmp_path / "net.onnx", input="spikes", form="streaming")
    result = sxq.verify(model, tmp_path / "net.onnx", [spikes(*shape), spikes(*other)])
    assert result.spikes_different == 0, str(result)
    assert result.firing_rate > 0.02, "the test says nothing if nothing fires"
    if report.exact:
        assert result.output_difference == 0
    assert report.exact or name == "mixed samples"


@pytest.mark.parametrize("name", ["batch first", "in-place mean", "last membrane", "images"])
def test_outputs_so_far_are_those_of_the_sequence(name: str, tmp_path: Path) -> None:
    build, shape, _, _ = MODELS[name]
    time_axis = {"batch first": 1, "images": None}.get(name, 0)
    assert_same_as_sequence(
        quantised(build, sxq.Binary()), spikes(*shape), tmp_path, time_axis=time_axis, input="spikes"
    )


@pytest.mark.parametrize("name", [n for n in every_class.NETWORKS if "neurons" in n])
def test_every_neuron(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, inputs = every_class.NETWORKS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
    sxq.quantize_(model.eval(), sxq.Ternary())
    report = sxq.export_onnx(model, inputs, tmp_path / "net.onnx", input="spikes", form="streaming")
    assert report.exact, str(report)
    for native in (False, *([True] if sxq.deploy.native_status().available else [])):
        result = sxq.verify(model, tmp_path / "net.onnx", [inputs, torch.cat([inputs, inputs], 1)], native=native)
        assert result.spikes_different == 0, str(result)
        assert result.output_difference == 0, str(result)


# The file ------------------------------------------------------------------------------------------------------------


class Loop(nn.Module):
    """A loop over steps, with something done to the input and the spikes of each."""

    def __init__(self, body: Any, after: Any = torch.stack) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.lif = nn.Linear(6, 5), snn.Leaky(beta=0.9, threshold=0.3)
        self.body, self.after = body, after

    def forward(self, x: Tensor) -> Tensor:
        state, outputs, carried = self.lif.reset_mem(), [], torch.zeros(x.shape[1], 6)
        for step in range(x.shape[0]):
            current, carried = self.body(x, step, carried)
            spike, state = self.lif(self.fc(current), state)
            outputs.append(spike)
        return self.after(outputs)


def loop(body: Any = lambda x, t, c: (x[t], c), after: Any = torch.stack) -> nn.Module:
    model = Loop(body, after)
    with torch.no_grad():
        model.fc.weight.mul_(3)
    sxq.quantize_(model, sxq.Ternary())
    return model


def test_file_has_a_step_and_its_states(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    report = sxq.export_onnx(loop(), spikes(4, 2, 6), path, input="spikes", form="streaming")
    graph = onnx.load(path).graph
    assert [n.op_type for n in graph.node] == ["TernaryLinearInteger", "Add", "StepLIF_leak_gt_subtract_delayed"]
    assert [n.name for n in graph.node][::2] == ["fc", "lif"]
    assert [i.name for i in graph.input] == ["input", "lif.v"]
    assert [o.name for o in graph.output] == ["output", "lif.v.next"]
    assert report.input_shape == ("B", 6)


@pytest.mark.parametrize(
    "body",
    [
        lambda x, t, c: (x[t] + c, x[t]),  # the input of the step before
        lambda x, t, c: (x[t] + c, 0.5 * c + x[t]),  # a trace
    ],
    ids=["delay", "trace"],
)
def test_what_the_model_carries_itself(body: Any, tmp_path: Path) -> None:
    model = loop(body)
    sxq.export_onnx(model, spikes(5, 2, 6), tmp_path / "net.onnx", input="spikes", form="streaming")
    assert "carried" in [i.name for i in onnx.load(tmp_path / "net.onnx").graph.input]
    result = sxq.verify(model, tmp_path / "net.onnx", [spikes(9, 3, 6), spikes(1, 2, 6)])
    assert result.ok, str(result)


def test_a_layer_behind_a_sum_is_not_called_exact_for_any_number_of_steps(tmp_path: Path) -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = loop(lambda x, t, c: (x[t], c), sum), nn.Linear(5, 3)
            sxq.quantize_(self, sxq.Ternary())

        def forward(self, x: Tensor) -> Any:
            return self.head(self.body(x))

    model = Summed()
    report = sxq.export_onnx(model, spikes(4, 2, 6), tmp_path / "net.onnx", input="spikes", form="streaming")
    assert {e.name: e.exact for e in report.layers} == {"body.fc": True, "body.lif": True, "head": False}
    result = sxq.verify(model, tmp_path / "net.onnx", spikes(400, 1, 6))  # counts above 255
    assert result.ok, str(result)


# Refusals ------------------------------------------------------------------------------------------------------------

REFUSED = {
    "a mean over time before the neuron": loop(lambda x, t, c: (x[t] - x.mean(0), c)),
    "steps in another order": loop(lambda x, t, c: (x[x.shape[0] - 1 - t], c)),
    "a step unlike the others": loop(lambda x, t, c: (x[t] * 0 if t == 3 else x[t], c)),
    "some of the steps": loop(after=lambda s: torch.stack(s[1:])),
    "a state from the input": loop(lambda x, t, c: (x[t] + (x[0] if t == 0 else c), x[t])),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="form='streaming'"):
        sxq.export_onnx(REFUSED[name], spikes(6, 2, 6), tmp_path / "net.onnx", form="streaming")
    assert not list(tmp_path.iterdir())


def test_unknown_form(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="form='steps'"):
        sxq.export_onnx(loop(), spikes(6, 2, 6), tmp_path / "net.onnx", form="steps")  # type: ignore[arg-type]


# Stream --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streaming") / "net.onnx"
    sxq.export_onnx(loop(), spikes(4, 2, 6), path, input="spikes", form="streaming")
    return path


@pytest.fixture
def stream(file: Path) -> Stream:
    return Stream(file, native=False)


def test_state_may_be_taken_and_set(stream: Stream) -> None:
    assert stream.state == {}
    inputs = spikes(6, 3, 6)
    given = [stream.step(x)["output"] for x in inputs[:3]]
    saved = stream.state
    rest = [stream.step(x)["output"] for x in inputs[3:]]
    stream.state["lif.v"][:] = 99.0  # a copy: the stream's own is untouched
    stream.state = saved
    assert all(np.array_equal(stream.step(x)["output"], y) for x, y in zip(inputs[3:], rest, strict=True))
    stream.reset()
    assert stream.state == {}
    assert all(np.array_equal(stream.step(x)["output"], y) for x, y in zip(inputs, given + rest, strict=True))


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (spikes(3, 7), r"\(B, 6\), not \(3, 7\)"),
        (spikes(4, 3, 6), "no time axis"),
        (spikes(2, 6) * 0.5, "input='spikes'"),
        ("text", "not a tensor"),
    ],
)
def test_wrong_step(stream: Stream, inputs: Any, names: str) -> None:
    with pytest.raises(SampleError, match=names):
        stream.step(inputs)
    assert stream.steps_made == 0


@pytest.mark.parametrize("kind", [bool, np.int64, np.uint8, np.float64])
def test_a_step_takes_what_run_file_takes(stream: Stream, kind: Any) -> None:
    events = np.ones((2, 6), np.float32)
    stream.reset()
    (wanted,) = stream.step(events).values()
    stream.reset()
    np.testing.assert_array_equal(*stream.step(events.astype(kind)).values(), wanted)
    stream.reset()


def test_another_batch_needs_a_reset(stream: Stream) -> None:
    stream.step(spikes(3, 6))
    with pytest.raises(SampleError, match=r"3 samples, the input of 2.*reset"):
        stream.step(spikes(2, 6))
    stream.reset()
    stream.step(spikes(2, 6))


@pytest.mark.parametrize(
    ("state", "names"),
    [
        ({"lif.u": np.zeros((2, 5))}, "'lif.u' is none"),
        ({"lif.v": np.zeros((2, 4))}, r"'lif.v' is .*not \(2, 4\)"),
        ({"lif.v": np.zeros(5)}, "'lif.v'"),
    ],
)
def test_wrong_state(stream: Stream, state: Any, names: str) -> None:
    with pytest.raises(SampleError, match=names):
        stream.state = state


def test_no_more_steps_than_the_model_makes(tmp_path: Path) -> None:
    model = quantised(MODELS["images"][0], sxq.Ternary())
    sxq.export_onnx(model, spikes(2, 1, 6, 6), tmp_path / "net.onnx", form="streaming")
    stream = Stream(tmp_path / "net.onnx", native=False)
    for _ in range(4):
        stream.step(spikes(2, 1, 6, 6))
    with pytest.raises(SampleError, match=r"makes 4 steps.*reset"):
        stream.step(spikes(2, 1, 6, 6))


def test_file_of_another_form(tmp_path: Path) -> None:
    sxq.export_onnx(loop(), spikes(4, 2, 6), tmp_path / "net.onnx")
    with pytest.raises(ModelFileError, match="form='streaming'"):
        Stream(tmp_path / "net.onnx")


def test_verify_takes_whole_inputs(stream: Stream) -> None:
    with pytest.raises(SampleError):
        sxq.verify(loop(), stream.path, spikes(6))
