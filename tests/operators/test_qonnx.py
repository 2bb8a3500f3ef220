"""An independent check: qonnx's quantisers give our codes, and its executor runs our bodies to the same bits."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, inliner, numpy_helper, shape_inference
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.config import WeightConfig
from snn_extreme_quant.deploy.lowering.functions import NeuronFunction
from snn_extreme_quant.deploy.lowering.layer_functions import layer_operators

from .cases import Array, Case, same
from .layers import layer_cases
from .neurons import PLAIN, neuron_cases

pytest.importorskip("qonnx", reason="qonnx is not installed: pip install qonnx")


@pytest.fixture(autouse=True)
def older_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor makes a model of each node, in the newest format of onnx, which onnxruntime may not read yet."""
    monkeypatch.setattr(onnx, "IR_VERSION", 10)


def execute(model: onnx.ModelProto, inputs: dict[str, Array]) -> list[Array]:
    """Run a model of standard operators, or of qonnx's quantisers, in qonnx's executor."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that are not known before the run
        found = execute_onnx(ModelWrapper(model), inputs)
    return [found[output.name] for output in model.graph.output]


def quantiser(config: WeightConfig, weight: Array, scale: Array) -> onnx.ModelProto:
    """qonnx's node for a precision, on a weight with a scale for each output."""
    shaped = scale.reshape(-1, *[1] * (weight.ndim - 1))
    constants = {"weight": weight, "scale": shaped}
    if config.kind == "binary":
        node = helper.make_node("BipolarQuant", ["weight", "scale"], ["y"], domain="qonnx.custom_op.general")
    else:
        constants |= {"zero": np.float32(0), "bits": np.float32(config.bits)}
        attributes = {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"}
        names = ["weight", "scale", "zero", "bits"]
        node = helper.make_node("Quant", names, ["y"], domain="qonnx.custom_op.general", **attributes)
    graph = helper.make_graph(
        [node],
        "quantiser",
        [],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, weight.shape)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("qonnx.custom_op.general", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize(
    "config", [sxq.Binary(), sxq.Ternary(), sxq.Ternary(per="tensor"), *(sxq.Uniform(b) for b in (2, 3, 4, 8, 16))]
)
@pytest.mark.parametrize("layer", [nn.Linear(70, 33), nn.Conv2d(3, 8, 3)], ids=["linear", "conv"])
def test_codes(config: WeightConfig, layer: nn.Module) -> None:
    """Our codes times our scales are what their quantiser makes of the weight."""
    model = nn.Sequential(layer)
    torch.manual_seed(0)
    with torch.no_grad():
        layer.weight.normal_()
    sxq.quantize_(model, config)
    quantised: Any = model[0]
    codes, scale = (value.detach().numpy() for value in quantised.integer_weight())
    weight = quantised.weight.detach().numpy()
    (theirs,) = execute(quantiser(config, weight, scale), {})
    shaped = scale.reshape(-1, *[1] * (weight.ndim - 1))
    assert np.array_equal(theirs, codes.astype(np.float32) * shaped)
    assert len(np.unique(codes)) >= 2


def standard(case: Case) -> onnx.ModelProto:
    """A case's model in standard operators, with the lengths of its inputs."""
    model = inliner.inline_local_functions(case.model())
    shapes = {k: v.shape for k, v in case.inputs.items()}
    shapes |= {value.name: tuple(y.shape) for value, y in zip(model.graph.output, case.expected, strict=True)}
    for value in (*model.graph.input, *model.graph.output):
        for size, length in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            size.dim_value = length
    return shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)


def assert_same(case: Case) -> None:
    for index, (result, wanted) in enumerate(zip(execute(standard(case), case.inputs), case.expected, strict=True)):
        assert same(result, wanted), f"output {index} of {case}"


@pytest.mark.parametrize("operator", layer_operators())
def test_layers(operator: str) -> None:
    """Every packing of every layer, in a few shapes; none without rows, which the executor takes for unknown."""
    found = [case for case in layer_cases(operator) if all(value.size for value in case.inputs.values())]
    for case in found[:: max(1, len(found) // 3)]:
        assert_same(case)


@pytest.mark.parametrize("spec", PLAIN[::17], ids=lambda spec: spec.operator)
def test_neurons(spec: Any) -> None:
    """Single steps: the executor does not hand a Scan what its body reads from outside."""
    for case in neuron_cases(NeuronFunction(spec, step=True)):
        assert_same(case)
