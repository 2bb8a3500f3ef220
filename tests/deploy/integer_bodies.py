"""Runs the body of one integer operator in onnx's evaluator and in onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnxruntime
from onnx import helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator

from snn_extreme_quant.deploy.integer.golden import golden_run
from snn_extreme_quant.deploy.lowering import functions
from tests.deploy.integer_cases import Array, Case

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}


def data_types(nodes: Iterable[onnx.NodeProto]) -> Iterator[int]:
    """The types that casts, constants and subgraphs name."""
    for node in nodes:
        for attribute in node.attribute:
            if node.op_type == "Cast":
                yield attribute.i
            if attribute.HasField("t"):
                yield attribute.t.data_type
            if attribute.HasField("g"):
                yield from data_types(attribute.g.node)
                yield from (v.type.tensor_type.elem_type for v in (*attribute.g.input, *attribute.g.output))


def model_of(case: Case) -> onnx.ModelProto:
    """A model of one node, with its body; the outputs are called as in the body."""
    body = functions.function_body(case.node.operator)
    assert list(body.input) == list(case.inputs)
    assert set(body.attribute) == set(case.node.attributes)
    assert "float" not in str(body).lower()
    assert not FLOATS & set(data_types(body.node))
    node = helper.make_node(
        case.node.operator, list(body.input), list(body.output), domain=functions.DOMAIN, **case.node.attributes
    )
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), [None] * v.ndim)
            for k, v in case.inputs.items()
            if k not in case.constants
        ],
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), [None] * v.ndim)
            for k, v in zip(body.output, case.expected, strict=True)
        ],
        [numpy_helper.from_array(case.inputs[k], k) for k in case.constants],
    )
    imports = [
        helper.make_opsetid("", functions.OPSET),
        helper.make_opsetid(functions.DOMAIN, functions.DOMAIN_VERSION),
    ]
    return helper.make_model(graph, functions=[body], opset_imports=imports, ir_version=8)


def fed(case: Case) -> dict[str, Array]:
    """The inputs that are not constant."""
    return {name: value for name, value in case.inputs.items() if name not in case.constants}


def assert_equal(case: Case, runtime: str, results: list[Array]) -> None:
    """Values, shapes and types are the expected ones."""
    assert len(results) == len(case.expected)
    for index, (result, wanted) in enumerate(zip(results, case.expected, strict=True)):
        where = f"{runtime}: output {index} of {case}"
        assert result.dtype == wanted.dtype, where
        assert result.shape == wanted.shape, where
        assert np.array_equal(result, wanted), where


def run_onnxruntime(model: onnx.ModelProto, inputs: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def run_reference(model: onnx.ModelProto, inputs: dict[str, Array]) -> list[Array]:
    # The evaluator does not hand a function's attributes on to the body of a Scan in it.
    scanned = any(node.op_type == "Scan" for node in model.functions[0].node)
    return ReferenceEvaluator(inliner.inline_local_functions(model) if scanned else model).run(None, inputs)


def assert_bodies(case: Case) -> None:
    """The body gives what torch and the golden model compute, in both evaluators."""
    model = model_of(case)
    onnx.checker.check_model(model, full_check=True)
    assert_equal(case, "golden", run_golden(model, fed(case)))
    assert_equal(case, "onnxruntime", run_onnxruntime(model, fed(case)))
    assert_equal(case, "onnx.reference", run_reference(model, fed(case)))


def run_golden(model: onnx.ModelProto, inputs: dict[str, Array]) -> list[Array]:
    return list(golden_run(model, inputs).outputs.values())
