"""Runs the body of one operator in onnx's evaluator and in onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from snn_extreme_quant.deploy.lowering import functions
from snn_extreme_quant.deploy.lowering.body_facts import GENERAL, BodyFacts

Array = npt.NDArray[Any]


def model_of(
    operator: str,
    inputs: dict[str, Array],
    constants: dict[str, Array],
    ranks: list[int],
    output_type: int | list[int] = onnx.TensorProto.FLOAT,
    facts: BodyFacts = GENERAL,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node, with its body; the outputs are called as in the body, of one type or of one each."""
    types = output_type if isinstance(output_type, list) else [output_type] * len(ranks)
    body = functions.function_body(operator, facts)
    assert set(body.input) == {*inputs, *constants}
    node = helper.make_node(operator, list(body.input), list(body.output), domain=functions.DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), [None] * v.ndim)
            for k, v in inputs.items()
        ],
        [
            helper.make_tensor_value_info(k, kind, [None] * n)
            for k, kind, n in zip(body.output, types, ranks, strict=True)
        ],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    imports = [
        helper.make_opsetid("", functions.OPSET),
        helper.make_opsetid(functions.DOMAIN, functions.DOMAIN_VERSION),
    ]
    model = helper.make_model(graph, functions=[body], opset_imports=imports, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def assert_body(
    operator: str,
    inputs: dict[str, Array],
    constants: dict[str, Array],
    expected: list[Tensor],
    output_type: int = onnx.TensorProto.FLOAT,
    facts: BodyFacts = GENERAL,
    **attributes: Any,
) -> None:
    """The body gives the expected outputs, bit for bit, in both evaluators."""
    model = model_of(operator, inputs, constants, [value.dim() for value in expected], output_type, facts, **attributes)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    # The evaluator does not hand a function's attributes on to the body of a Scan in it.
    scanned = any(node.op_type == "Scan" for node in model.functions[0].node)
    plain = inliner.inline_local_functions(model) if scanned and attributes else model
    found = {"onnxruntime": session.run(None, inputs)}
    if "grouped_shape" not in attributes or attributes["group"] == 1:  # the evaluator fails on grouped ConvTranspose
        found["onnx.reference"] = ReferenceEvaluator(plain).run(None, inputs)
    for runtime, results in found.items():
        assert len(results) == len(expected)
        for name, result, wanted in zip(model.graph.output, results, expected, strict=True):
            assert result.shape == tuple(wanted.shape), f"{runtime}: {name.name}"
            assert np.array_equal(bits(result), bits(wanted)), f"{runtime}: {name.name} of {operator}"


def bits(value: Tensor | Array) -> Array:
    """The bits of float32 numbers; zeros of either sign are one number."""
    array = value.numpy() if isinstance(value, torch.Tensor) else value
    return np.ascontiguousarray(array + np.float32(0), np.float32).view(np.int32)
