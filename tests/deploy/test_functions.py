"""Every operator's body, run by onnx's evaluator and by onnxruntime, equals the torch operator bit for bit."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from snn_extreme_quant.deploy import functions, operators
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons import NeuronSpec, neuron_sequence, neuron_step
from snn_extreme_quant.neurons.spec import Charge, Comparison, Reset, Timing
from snn_extreme_quant.quantizers.packing import pack


def all_specs() -> list[NeuronSpec]:
    """Every legal spec."""
    found = []
    for charge in get_args(Charge):
        for comparison in get_args(Comparison):
            for timing in get_args(Timing):
                for reset in get_args(Reset):
                    for graded in (False, True):
                        try:
                            found.append(NeuronSpec(charge, comparison, reset, timing, graded))
                        except ConfigError:
                            continue
    return found


SPECS = all_specs()


def model_of(
    operator: str, inputs: dict[str, Any], constants: dict[str, Any], outputs: list[str], **attributes: Any
) -> onnx.ModelProto:
    """A model of one node and its body."""
    body = functions.function_body(operator)
    rank = next(iter(inputs.values())).ndim
    node = helper.make_node(operator, list(body.input), outputs, domain=functions.DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), [None] * v.ndim)
            for k, v in inputs.items()
        ],
        [helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, [None] * rank) for k in outputs],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    imports = [
        helper.make_opsetid("", functions.OPSET),
        helper.make_opsetid(functions.DOMAIN, functions.DOMAIN_VERSION),
    ]
    model = helper.make_model(graph, functions=[body], opset_imports=imports, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run_both(model: onnx.ModelProto, inputs: dict[str, Any]) -> list[list[Any]]:
    """Outputs from the reference evaluator and from onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [ReferenceEvaluator(model).run(None, inputs), session.run(None, inputs)]


def bits(value: Any) -> Any:
    return np.ascontiguousarray(value, np.float32).view(np.int32)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.operator)
def test_neuron_bodies(spec: NeuronSpec) -> None:
    generator = torch.Generator().manual_seed(len(spec.operator))
    x = torch.randn(6, 3, 5, generator=generator) * 1.5 + 0.4
    x[::2] = (x[::2] * 4).round() / 4  # meets thresholds exactly
    values = {
        "threshold": 0.75, "decay": 0.9, "v_reset": -0.1, "amplitude": 2.5, "rest": -0.1, "tau": 2.3,
        "resistance": 0.7, "inverse_rc": 0.31, "time_step": 0.5,
    }  # fmt: skip
    for vector in (False, True):
        parameters = {
            n: torch.full((5,), values[n]) + torch.arange(5) * 0.125 if vector else torch.tensor(values[n])
            for n in spec.parameter_names
        }
        expected, potentials = neuron_sequence(spec, parameters, x, torch.tensor(0.25))
        for potential in (False, True):
            name = functions.neuron_operator(spec, vector=vector, potential=potential)
            assert functions.neuron_spec(name) == spec
            constants = {n if not vector else f"p_{n}": p.numpy() for n, p in parameters.items()}
            constants["v0"] = np.float32(0.25).reshape(())
            outputs = ["spikes", "potentials"][: 1 + potential]
            model = model_of(name, {"xs": x.numpy()}, constants, outputs)
            for result in run_both(model, {"xs": x.numpy()}):
                assert np.array_equal(bits(result[0]), bits(expected))
                if potential:
                    assert np.array_equal(bits(result[1]), bits(potentials))
    name = functions.neuron_operator(spec, vector=False, potential=True, step=True)
    parameters = {n: torch.tensor(values[n]) for n in spec.parameter_names}
    step = neuron_step(spec, parameters, x[0], x[1])
    model = model_of(
        name, {"xs": x[0].numpy(), "v0": x[1].numpy()}, {n: p.numpy() for n, p in parameters.items()}, ["s", "p"]
    )
    for result in run_both(model, {"xs": x[0].numpy(), "v0": x[1].numpy()}):
        assert np.array_equal(bits(result[0]), bits(step[0]))
        assert np.array_equal(bits(result[1]), bits(step[1]))


@pytest.mark.parametrize("layout", ["binary8", "ternary4"])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 1), (1, 9), (64, 10), (130, 33)])
@pytest.mark.parametrize("grid", [None, 1.0, 0.0625])
def test_linear_bodies(layout: str, inputs: int, outputs: int, grid: float | None) -> None:
    rng = np.random.default_rng(inputs * outputs)
    codes = rng.choice([-1, 1] if layout == "binary8" else [-1, 0, 1], size=(inputs, outputs))
    packed, scale = pack(codes, layout), rng.random(outputs, np.float32) + 0.01
    x = (rng.integers(0, 256, (3, 4, inputs)) * (grid or 0.125)).astype(np.float32)
    expected = operators.packed_linear(
        torch.from_numpy(x), torch.from_numpy(packed), torch.from_numpy(scale), outputs, layout, ""
    )
    name = functions.layer_operator("Linear", layout, integer_input=grid is not None)
    attributes = {} if grid is None else {"grid": grid, "inverse_grid": 1 / grid}
    model = model_of(name, {"x": x}, {"packed": packed, "scale": scale}, ["y"], **attributes)
    for (result,) in run_both(model, {"x": x}):
        assert np.array_equal(bits(result), bits(expected.numpy()))


@pytest.mark.parametrize("layout", ["binary8", "ternary4"])
@pytest.mark.parametrize(
    ("axes", "stride", "pads", "dilation", "groups"),
    [(1, 1, 0, 1, 1), (1, 2, 1, 1, 2), (2, 1, 1, 1, 1), (2, 2, 0, 2, 1), (2, 1, 2, 1, 4)],
)
def test_conv_bodies(layout: str, axes: int, stride: int, pads: int, dilation: int, groups: int) -> None:
    rng = np.random.default_rng(axes)
    shape = (8, 4 // groups, *(3,) * axes)
    codes = rng.choice([-1, 1] if layout == "binary8" else [-1, 0, 1], size=(int(np.prod(shape[1:])), shape[0]))
    packed, scale = pack(codes, layout), rng.random(shape[0], np.float32) + 0.01
    x = rng.integers(0, 9, (2, 4, *(8,) * axes)).astype(np.float32)
    geometry = ([stride] * axes, [pads] * 2 * axes, [dilation] * axes)
    expected = operators.packed_conv(
        torch.from_numpy(x),
        torch.from_numpy(packed),
        torch.from_numpy(scale),
        list(shape),
        *geometry,
        groups,
        layout,
        "",
    )
    attributes = {
        "weight_shape": shape, "scale_shape": [-1] + [1] * (axes + 1), "strides": geometry[0], "pads": geometry[1],
        "dilations": geometry[2], "group": groups,
    }  # fmt: skip
    model = model_of(
        functions.layer_operator("Conv", layout), {"x": x}, {"packed": packed, "scale": scale}, ["y"], **attributes
    )
    for (result,) in run_both(model, {"x": x}):
        assert np.array_equal(bits(result), bits(expected.numpy()))


def test_unknown_operator() -> None:
    with pytest.raises(ConfigError, match="LIF_odd"):
        functions.function_body("LIF_odd")
