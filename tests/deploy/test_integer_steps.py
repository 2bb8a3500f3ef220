"""Integer files beyond what their proof counts: calls of a layer, and numbers of steps."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import snntorch as snn
import torch
from onnx import TensorProto, helper
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import run_file
from snn_extreme_quant.deploy.integer.golden import golden_run
from snn_extreme_quant.errors import ModelFileError, SampleError, UnsupportedModelError


class Shared(nn.Module):
    """A neuron that is called four times in each time step."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = layer.Linear(62, 4, bias=False)
        self.n = neuron.IFNode(v_threshold=1.0, v_reset=None)
        with torch.no_grad():
            self.fc.weight[:, :31], self.fc.weight[:, 31:] = -1.0, 1.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return self.n(y) + self.n(y) + self.n(y) + self.n(y)


class Repeated(nn.Module):
    """A sequence of the model's own length, longer than ``max_steps``."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = layer.Linear(31, 4, bias=False)
        self.n = neuron.IFNode(v_threshold=1.0, v_reset=None)
        nn.init.constant_(self.fc.weight, -1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.n(self.fc(x).unsqueeze(0).repeat(240, 1, 1))


class Counted(nn.Module):
    """A layer that reads sums over time."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.n = layer.Linear(10, 8, bias=False), neuron.IFNode(step_mode="m", v_threshold=0.1)
        self.g, self.m = layer.Linear(8, 6, bias=False), neuron.IFNode(step_mode="m", v_threshold=100.0)
        nn.init.constant_(self.f.weight, 0.5)
        nn.init.constant_(self.g.weight, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.m(self.g(self.n(self.f(x)).sum(0, keepdim=True)))


def _export(model: nn.Module, x: Tensor, path: Path, mode: str = "m", **more: str) -> sxq.ExportReport:
    functional.set_step_mode(model, mode)
    sxq.quantize_(model, sxq.Ternary())
    options = sxq.deploy.IntegerOptions(max_steps=20)
    return sxq.export_onnx(model.eval(), x, path, input="spikes", integer=options, **more)


def test_calls_of_a_layer_are_counted(tmp_path: Path) -> None:
    """Driven down for all the steps that were promised, a shared neuron's potential lies within its bound."""
    model, x = Shared(), torch.zeros(24, 1, 62)  # more than max_steps
    x[:12, :, :31], x[12:, :, 31:] = 1.0, 1.0
    (found,) = _export(model, x, tmp_path / "net.onnx", mode="s", calling="step").fixed_point
    assert found.potential >= 24 * 4 * 31 * 2.0**found.fraction  # written out: all calls of the file
    result = sxq.verify(model, tmp_path / "net.onnx", x)
    assert result.ok
    assert result.integer is not None
    assert result.integer.different == 0


def test_a_sequence_of_the_models_own_length(tmp_path: Path) -> None:
    """All the steps that the model makes itself are proved."""
    model, x = Repeated(), torch.ones(2, 31)
    (found,) = _export(model, x, tmp_path / "net.onnx").fixed_point
    assert found.potential >= 240 * 31 * 2.0**found.fraction
    assert found.max_steps == 240, "what is proved, not what was asked for"


def test_states_that_add_up_beyond_the_proof(tmp_path: Path) -> None:
    """Without a leak a current of 2^30 is added to a potential of 2^30: running warns of it, verifying tells."""
    model, path = nn.Sequential(nn.Linear(31, 4, bias=False), snn.Synaptic(1.0, 1.0, init_hidden=True)), tmp_path / "n"
    nn.init.constant_(model[0].weight, -1.0)
    sxq.quantize_(model, sxq.Ternary())
    options = sxq.deploy.IntegerOptions(max_steps=20)
    report = sxq.export_onnx(model.eval(), torch.ones(4, 1, 31), path, input="spikes", integer=options)
    assert report.fixed_point[0].max_steps == 20
    assert sxq.verify(model, path, torch.ones(20, 1, 31)).ok
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_file(path, np.ones((20, 1, 31), np.float32), native=False)
    with pytest.warns(RuntimeWarning, match=r"layer '1' is proved for 20 time steps, and the input has 400\."):
        run_file(path, np.ones((400, 1, 31), np.float32), native=False)
    with pytest.raises(ModelFileError, match=r"leaves .*max_steps"):
        sxq.verify(model, path, torch.ones(700, 1, 31))


def test_sums_over_more_steps_than_promised(tmp_path: Path) -> None:
    """A sum that is a byte within max_steps is not cut to one beyond."""
    model = Counted()
    x = torch.ones(300, 2, 10)
    _export(model, x[:4], tmp_path / "net.onnx")
    result = sxq.verify(model, tmp_path / "net.onnx", x)
    assert result.ok
    assert result.integer is not None
    assert result.integer.different == 0


def _single(op: str, inputs: list[int], output: int, **attributes: int) -> bytes:
    names = [f"x{i}" for i in range(len(inputs))]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], name="sums", **attributes)],
        "g",
        [helper.make_tensor_value_info(n, kind, ["N"]) for n, kind in zip(names, inputs, strict=True)],
        [helper.make_tensor_value_info("y", output, ["N"])],
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())


@pytest.mark.parametrize(
    ("op", "a", "b"), [("Add", 2**31 - 1, 1), ("Sub", -(2**31), 1), ("Mul", 2**16, 2**16)], ids=["add", "sub", "mul"]
)
def test_the_golden_model_does_not_wrap(tmp_path: Path, op: str, a: int, b: int) -> None:
    path = tmp_path / "one.onnx"
    path.write_bytes(_single(op, [TensorProto.INT32] * 2, TensorProto.INT32))
    values = {"x0": np.array([3], np.int32), "x1": np.array([2], np.int32)}
    expected = {"Add": 5, "Sub": 1, "Mul": 6}[op]
    assert golden_run(path, values).outputs["y"].tolist() == [expected]
    with pytest.raises(ModelFileError, match=f"{op} 'sums'.*does not fit int32.*max_steps"):
        golden_run(path, {"x0": np.array([a], np.int32), "x1": np.array([b], np.int32)})


def test_the_golden_model_does_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "cast.onnx"
    path.write_bytes(_single("Cast", [TensorProto.INT32], TensorProto.UINT8, to=TensorProto.UINT8))
    assert golden_run(path, np.array([255], np.int32)).outputs["y"].tolist() == [255]
    with pytest.raises(ModelFileError, match="256 does not fit uint8"):
        golden_run(path, np.array([256], np.int32))
    path.write_bytes(_single("Cast", [TensorProto.FLOAT], TensorProto.UINT8, to=TensorProto.UINT8))
    with pytest.raises(SampleError, match=r"300.0 does not fit uint8.*input='spikes'"):
        golden_run(path, np.array([300.0], np.float32))


class AddedBack(nn.Module):
    """A neuron whose own spikes of the step before are added to its current."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.n = nn.Linear(6, 4), snn.Leaky(beta=0.5, init_hidden=True)

    def forward(self, xs: Tensor) -> Tensor:
        spikes, found = torch.zeros(xs.shape[1], 4), []
        for x in xs:
            spikes = self.n(self.fc(x) + spikes)
            found.append(spikes)
        return torch.stack(found)


def test_spikes_that_are_added_to_their_own_neurons_current_are_refused_with_the_reason(tmp_path):
    net = AddedBack()
    sxq.quantize_(net, sxq.Ternary())
    with pytest.raises(UnsupportedModelError, match=r"sum of 1 values in one call and of 2.*RLeaky"):
        sxq.export_onnx(net, torch.ones(3, 2, 6), tmp_path / "x.onnx", input="spikes", integer=True)
