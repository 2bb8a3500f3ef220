"""The search for floats in integer files: every way to hide one is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import snntorch as snn
import torch
from onnx import TensorProto, helper
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.integer.integers_only import check_integers_only
from snn_extreme_quant.errors import ExportError

make = helper.make_node
Nodes = Callable[[str], list[onnx.NodeProto]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 5), snn.Leaky(beta=0.9, init_hidden=True), nn.Linear(5, 3), snn.Leaky(beta=0.9, init_hidden=True)
    )
    sxq.quantize_(model, sxq.Ternary())
    path = tmp_path_factory.mktemp("file") / "net.onnx"
    sxq.export_onnx(model.eval(), torch.ones(3, 2, 6), path, input="spikes", integer=True)
    return path


def _through(kind: int) -> Nodes:
    return lambda name: [make("Cast", [name], ["a"], to=kind), make("Cast", ["a"], ["b"], to=TensorProto.INT32)]


def _branch(name: str) -> list[onnx.NodeProto]:
    def graph(nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        return helper.make_graph(nodes, "g", [], [helper.make_tensor_value_info("y", TensorProto.INT32, None)])

    hidden = graph([make("Cast", [name], ["x"], to=TensorProto.FLOAT), make("Cast", ["x"], ["y"], to=6)])
    plain = graph([make("Identity", [name], ["y"])])
    always = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    return [
        make("Constant", [], ["c"], value=always),
        make("If", ["c"], ["b"], then_branch=hidden, else_branch=plain),
    ]


BETWEEN: dict[str, Nodes] = {
    "float": _through(TensorProto.FLOAT),
    "float16": _through(TensorProto.FLOAT16),
    "bfloat16": _through(TensorProto.BFLOAT16),
    "double": _through(TensorProto.DOUBLE),
    "float8": _through(TensorProto.FLOAT8E4M3FN),
    "branch": _branch,
    "function": lambda name: [make("Foo", [name], ["a"], domain="x.y"), make("Foo", ["a"], ["b"], domain="x.y")],
}


@pytest.mark.parametrize("way", BETWEEN)
def test_between_integers(exported: Path, way: str) -> None:
    model = onnx.load(exported)
    check_integers_only(model)
    neuron = [n for n in model.graph.node if "IntLIF" in n.op_type][-1]
    model.opset_import.append(helper.make_opsetid("x.y", 1))
    new = BETWEEN[way](neuron.input[0])
    place = list(model.graph.node).index(neuron)
    neuron.input[0] = "b"
    for offset, node in enumerate(new):
        model.graph.node.insert(place + offset, node)
    with pytest.raises(ExportError, match=neuron.name):
        check_integers_only(model)


INSIDE: dict[str, list[onnx.NodeProto]] = {
    "cast": [make("Cast", ["xs"], ["q"], to=TensorProto.FLOAT)],
    "float8": [make("Cast", ["xs"], ["q"], to=TensorProto.FLOAT8E5M2)],
    "filled": [make("Shape", ["xs"], ["s"]), make("ConstantOfShape", ["s"], ["q"])],
    "identity": [make("EyeLike", ["xs"], ["q"], dtype=TensorProto.FLOAT)],
    "function": [make("Foo", ["xs"], ["q"], domain="x.y")],
    "constant": [make("Constant", [], ["q"], value_float=1.0)],
    "branch": _branch("xs"),
    "dequantised": [make("DequantizeLinear", ["xs", "s"], ["q"])],
}


@pytest.mark.parametrize("way", INSIDE)
def test_inside_functions(exported: Path, way: str) -> None:
    model = onnx.load(exported)
    function = next(f for f in model.functions if "IntLIF" in f.name)
    function.node.extend(INSIDE[way])
    with pytest.raises(ExportError, match=f"function {function.name} computes in float"):
        check_integers_only(model)
