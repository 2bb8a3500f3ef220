"""Products of two matrices of spikes are computed over bytes where that is exact, and give the same spikes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.lowering.byte_products import with_byte_products
from snn_extreme_quant.deploy.recording.exactness import SPIKES, analyse
from tests.deploy.random_layers import spikes

INT8, UINT8 = onnx.TensorProto.INT8, onnx.TensorProto.UINT8


def lif(threshold: float = 0.5) -> nn.Module:
    return neuron.LIFNode(v_threshold=threshold, decay_input=False, step_mode="m")


class Attention(nn.Module):
    """Spiking attention over ``(T, B, S, D)`` or, without a batch axis, ``(T, S, D)``."""

    def __init__(self, width: int, heads: int, neurons: Any = lif, scale: float = 0.25, early: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.neurons = nn.ModuleList(neurons() for _ in range(3))
        self.heads, self.scale, self.early, self.last = heads, scale, early, lif()
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        layers = zip((self.query, self.key, self.value), self.neurons, strict=True)
        q, k, v = (fire(layer(x)).unflatten(-1, (self.heads, -1)).transpose(-2, -3) for layer, fire in layers)
        weights = q @ k.transpose(-1, -2)
        context = (weights * self.scale) @ v if self.early else (weights @ v) * self.scale
        return self.last(context).transpose(-2, -3).flatten(-2)  # type: ignore[no-any-return]


def exported(model: nn.Module, x: Tensor, path: Path) -> list[onnx.NodeProto]:
    """Export, verify on other lengths too, and return the nodes of the file."""
    sxq.quantize_(model, sxq.Ternary())
    report = sxq.export_onnx(model.eval(), x, path, input="spikes")
    others = [x, torch.cat([x, x.flip(-1)], 0), torch.cat([x, x.flip(0)], 1), x[:1, :1]]
    result = sxq.verify(model, path, others)
    assert report.exact, str(report)
    assert result.spikes_different == 0
    assert result.ok, str(result)
    assert all(layer.fired > 0 for layer in result.layers), str(result)
    return list(onnx.load(path).graph.node)


def products(nodes: list[onnx.NodeProto]) -> list[str]:
    return [node.op_type for node in nodes if node.op_type in ("MatMul", "MatMulInteger")]


def bytes_made(nodes: list[onnx.NodeProto]) -> list[int]:
    types = [attribute.i for node in nodes if node.op_type == "Cast" for attribute in node.attribute]
    return sorted(kind for kind in types if kind in (INT8, UINT8))


@pytest.mark.parametrize("shape", [(3, 2, 5, 8), (3, 5, 8)])
@pytest.mark.parametrize("early", [False, True])
def test_attention_multiplies_bytes(shape: tuple[int, ...], early: bool, tmp_path: Path) -> None:
    """Query and weights as unsigned bytes, key and value as signed ones; all made before they are transposed."""
    torch.manual_seed(0)
    nodes = exported(Attention(8, 2, early=early), spikes(*shape), tmp_path / "net.onnx")
    assert products(nodes) == ["MatMulInteger", "MatMulInteger"]
    assert bytes_made(nodes) == [UINT8, UINT8, INT8, INT8]
    makers = {name: node.op_type for node in nodes for name in node.output}
    casts = [node for node in nodes if node.op_type == "Cast" and node.attribute[0].i in (INT8, UINT8)]
    assert "Transpose" not in {makers.get(node.input[0]) for node in casts}


def test_a_matrix_that_is_read_twice_becomes_bytes_once(tmp_path: Path) -> None:
    class Both(Attention):
        def forward(self, x: Tensor) -> Tensor:
            q, k = self.neurons[0](self.query(x)), self.neurons[1](self.key(x))
            first, second = q @ k.transpose(-1, -2), (q * 0.5) @ k.transpose(-1, -2)
            return self.last(first + second)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Both(8, 1)
    model.value, model.neurons[2] = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    nodes = exported(model, spikes(3, 2, 5, 8), tmp_path / "net.onnx")
    assert products(nodes) == ["MatMulInteger", "MatMulInteger"]
    assert bytes_made(nodes) == [UINT8, UINT8, INT8]


def signed() -> nn.Module:
    return neuron.TernaryIFNode(v_threshold=0.5, step_mode="m")


def counting(levels: int) -> nn.Module:
    many = surrogate.MultiLevelSpikeCount(levels)
    return neuron.ILIFNode(v_threshold=0.2, surrogate_function=many, step_mode="m")


def test_signed_spikes_and_large_counts_stay_floats(tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert products(exported(Attention(8, 2, signed), spikes(3, 5, 8), tmp_path / "a.onnx")) == ["MatMul", "MatMul"]
    # Weights of up to 8 * 7 * 7, which no byte holds.
    model = Attention(8, 1, lambda: counting(7))
    x = spikes(3, 2, 5, 8)
    assert products(exported(model, x, tmp_path / "b.onnx")) == ["MatMulInteger", "MatMul"]


def test_real_factors_stay_floats(tmp_path: Path) -> None:
    """Behind layers that are not exact nothing is promised, nor is anything changed."""
    torch.manual_seed(0)
    model = Attention(8, 2).eval()
    report = sxq.export_onnx(model, spikes(3, 5, 8), tmp_path / "net.onnx", input="spikes")
    assert not report.exact
    assert products(list(onnx.load(tmp_path / "net.onnx").graph.node)).count("MatMulInteger") == 0


class Product(nn.Module):
    """Two counts, multiplied."""

    def __init__(self, levels: tuple[int, int], factors: tuple[float, float]) -> None:
        super().__init__()
        self.a, self.b = (nn.Linear(6, 6, bias=False) for _ in range(2))
        self.counts = nn.ModuleList(counting(n) for n in levels)
        self.factors, self.last = factors, lif()
        for layer in (self.a, self.b):
            nn.init.normal_(layer.weight, std=4.0)

    def forward(self, x: Tensor) -> Tensor:
        a = self.counts[0](self.a(x)) * self.factors[0]
        b = self.counts[1](self.b(x)) * self.factors[1]
        return self.last(a @ b.transpose(-1, -2))  # type: ignore[no-any-return]


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(*[st.sampled_from([1.0, 0.5, 4.0, 0.3])] * 2),
    st.integers(0, 99),
)
@example((1, 32), (1.0, 4.0), 0)
@example((1, 31), (1.0, 4.0), 0)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
def test_any_counts_on_any_grid(
    tmp_path_factory: Any, levels: tuple[int, int], factors: tuple[float, float], seed: int
) -> None:
    """Bytes are taken exactly where both factors fit and their products fit in pairs."""
    torch.manual_seed(seed)
    model = Product(levels, factors)
    sxq.quantize_(model, sxq.Ternary())
    path, x = tmp_path_factory.mktemp("p") / "net.onnx", spikes(2, 2, 3, 6)
    report = sxq.export_onnx(model.eval(), x, path, input="spikes")
    result = sxq.verify(model, path, [x, spikes(5, 3, 3, 6)])
    power_of_two = all(factor != 0.3 for factor in factors)
    assert report.exact == power_of_two
    # Grids have no units above 1, so counts times 4 reach four times as far.
    first, second = (n * max(1, factor) for n, factor in zip(levels, factors, strict=True))
    fit = first <= 255 and second <= 127 and 2 * first * second < 2**15
    assert (products(list(onnx.load(path).graph.node)) == ["MatMulInteger"]) == (power_of_two and fit)
    if power_of_two:
        assert result.spikes_different == 0, str(result)


def test_the_recorded_graph_is_left_as_it_was() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.transpose(-1, -2)

    graph = torch.export.export(Pair(), (spikes(3, 4, 4),)).module()
    before = copy.deepcopy(str(graph.graph))
    rewritten = with_byte_products(graph, analyse(graph, SPIKES))
    assert str(graph.graph) == before
    assert "byte_matmul" in str(rewritten.graph)
    x = spikes(3, 4, 4)
    assert np.array_equal(rewritten(x)[0].numpy(), Pair()(x).numpy())
