"""What runtimes rewrite around sums that are exact: with and without optimisations, the files give the same bits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.lowering.fusion_barriers import keep_sums_apart

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")

Form = Literal["sequence", "streaming", "counts"]
Between = Callable[[Tensor, Tensor, Tensor], Tensor]

#: Of two trains of spikes (..., 12, 48) and a bias (12,), what feeds the next neurons.
PATTERNS: dict[str, Between] = {
    "one factor": lambda q, k, b: q @ k.transpose(-1, -2) * 0.3,
    "two factors": lambda q, k, b: q @ k.transpose(-1, -2) * 0.3 * 0.7,
    "a factor and a quotient": lambda q, k, b: q @ k.transpose(-1, -2) * 0.3 / 1.7,
    "factors before and behind": lambda q, k, b: (q * 0.5) @ (k * 0.25).transpose(-1, -2) * 0.3 * 0.9,
    "transposed between": lambda q, k, b: (q @ k.transpose(-1, -2)).transpose(-1, -2) * 0.3 * 0.7,
    "negated": lambda q, k, b: -(q @ k.transpose(-1, -2)) * -0.3 * 0.7,
    "a bias": lambda q, k, b: q @ k.transpose(-1, -2) + b,
    "a factor and a bias": lambda q, k, b: q @ k.transpose(-1, -2) * 0.3 + b,
    "a residual": lambda q, k, b: q @ k.transpose(-1, -2) * 0.3 + q[..., :12] * 0.1,
    "two products": lambda q, k, b: (q @ k.transpose(-1, -2) @ k)[..., :12] * 0.013 * 0.7,
    "inverse first": lambda q, k, b: (1.0 / (k[..., :12] + 2.0)) * (q[..., :12] * 0.7),
    "constant over": lambda q, k, b: torch.ones(()) / (k[..., :12] * 0.3 + 2.1) * (q[..., :12] * 0.7 + b),
}

#: Where nothing is promised: reciprocals, and sums of counts over a length that is open.
NOT_PROMISED = {("inverse first", "sequence"), ("inverse first", "counts"), ("two products", "counts")}
_QUICK = ("two factors", "factors before and behind", "a factor and a bias")


class _Sequence(nn.Module):
    """Two neuron layers, a pattern, a neuron layer; over all steps at once."""

    def __init__(self, between: Between) -> None:
        super().__init__()
        self.between = between
        self.q = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m")
        self.k = neuron.IFNode(v_threshold=0.7, v_reset=None, step_mode="m")
        self.out = neuron.LIFNode(tau=2.3, v_threshold=0.35, v_reset=None, step_mode="m")
        self.register_buffer("bias", torch.linspace(-0.37, 0.41, 12))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        current = self.between(self.q(x), self.k(x * 0.9), self.bias)
        return self.out(current), current


class _Counts(nn.Module):
    """The same of synchronous neurons."""

    def __init__(self, between: Between) -> None:
        super().__init__()
        self.between = between
        self.encode = sxq.FixedPointInput(6, 4)
        self.q = sxq.SynchronousIF(16, 1.1, signed=True)
        self.k = sxq.SynchronousIF(16, 0.7, signed=True)
        self.out = sxq.SynchronousIF(16, 0.35, signed=True)
        self.register_buffer("bias", torch.linspace(-0.37, 0.41, 12))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encode(x) - 0.875
        current = self.between(self.q(z), self.k(z), self.bias)
        return self.out(current), current


def pattern_network(form: Form, between: Between) -> tuple[nn.Module, Tensor]:
    """Return a network around a pattern, and an input of which some neurons fire and some do not."""
    torch.manual_seed(0)
    if form == "counts":
        counts, x = _Counts(between), torch.rand(2, 12, 48) * 2
        counts.out.threshold.copy_(counts(x)[1].abs().mean())
        return counts, x
    model, x = _Sequence(between), (torch.rand(6, 2, 12, 48) < 0.4).float()
    model.out.v_threshold = 0.6 * float(model(x)[1].abs().mean())  # so that some fire and some do not
    for part in (model.q, model.k, model.out):
        part.reset()
    return model, x


def _session(path: Path, level: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _feed(path: Path, x: Tensor) -> dict[str, Any]:
    """Return an input; of a streaming file the first step's, and what its states are then."""
    proto = onnx.load(path)
    if len(proto.graph.input) == 1:
        return {"input": x.numpy()}
    sizes = {"B": x.shape[1]}
    states = {
        value.name: np.zeros([d.dim_value or sizes[d.dim_param] for d in value.type.tensor_type.shape.dim], np.float32)
        for value in proto.graph.input[1:]
    }
    return {"input": x[0].numpy(), **states}


class DequantizeLinear(OpRun):
    """The operator as opset 18 has it, which onnx's own evaluator knows from opset 19 on alone."""

    op_domain = ""

    def _run(self, x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, **attributes: Any) -> tuple[np.ndarray]:
        assert scale.ndim == 0
        assert set(attributes) <= {"axis", "block_size", "output_dtype"}  # of no account with one scale
        return ((x.astype(np.int32) - zero_point.astype(np.int32)).astype(np.float32) * scale,)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(
            pytest.param(name, form, marks=() if name in _QUICK else pytest.mark.slow)
            for name in PATTERNS
            for form in ("sequence", "counts")
        ),
        ("two factors", "streaming"),
        ("constant over", "streaming"),
    ],
)
def test_optimisations_change_no_bit(tmp_path: Path, name: str, form: Form) -> None:
    model, x = pattern_network(form, PATTERNS[name])
    path = tmp_path / "net.onnx"
    report = sxq.export_onnx(model, x, path, form=form, **({} if form == "counts" else {"input": "spikes"}))
    feed = _feed(path, x)
    plain = _session(path, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL).run(None, feed)
    best = _session(path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL).run(None, feed)
    verified = sxq.verify(model, path, x)
    assert verified.spikes_compared > 0
    assert 0 < verified.layers[-1].fired < verified.layers[-1].compared
    assert report.exact == ((name, form) not in NOT_PROMISED), str(report)
    assert [a.tobytes() for a in plain] == [b.tobytes() for b in best]
    assert verified.spikes_different == 0, str(verified)


@pytest.mark.parametrize("name", ["two factors", "a factor and a bias"])
@pytest.mark.parametrize("form", ["sequence", "counts"])
def test_the_reference_evaluator_gives_the_same_bits(tmp_path: Path, name: str, form: Form) -> None:
    model, x = pattern_network(form, PATTERNS[name])
    path = tmp_path / "net.onnx"
    sxq.export_onnx(model, x, path, form=form, **({} if form == "counts" else {"input": "spikes"}))
    best = _session(path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL).run(None, _feed(path, x))
    found = ReferenceEvaluator(onnx.load(path), new_ops=[DequantizeLinear]).run(None, _feed(path, x))
    assert all(np.array_equal(a, b) for a, b in zip(best, found, strict=True))


def test_a_long_product_with_one_factor(tmp_path: Path) -> None:
    """A scale that is applied to parts of a sum rounds each of them."""

    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spikes = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m")
            self.out = neuron.IFNode(v_threshold=0.3, v_reset=None, step_mode="m")

        def forward(self, x: Tensor) -> Tensor:
            s = self.spikes(x)
            return self.out((s @ s.transpose(-1, -2)) * 0.3)

    x = (torch.rand(3, 2, 8, 1500, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    assert sxq.export_onnx(Long(), x, tmp_path / "net.onnx", input="spikes").exact
    verified = sxq.verify(Long(), tmp_path / "net.onnx", x)
    assert verified.spikes_different == 0, str(verified)


def test_onnxruntime_does_fold_factors_without_barriers() -> None:
    """The rewrite that barriers are against exists; with them no node of it is left."""
    q, k = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4, 4]) for n in "qk")
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4, 4])
    factor = onnx.helper.make_tensor("f", onnx.TensorProto.FLOAT, [], [0.3])
    nodes = [onnx.helper.make_node("MatMul", ["q", "k"], ["p"]), onnx.helper.make_node("Mul", ["p", "f"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "network", [q, k], [y], [factor])
    assert "FusedMatMul" in _optimised(graph)
    keep_sums_apart(graph)
    assert "FusedMatMul" not in _optimised(graph)


def _optimised(graph: onnx.GraphProto) -> str:
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return " ".join(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
