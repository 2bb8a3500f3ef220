"""A case of one operator, and what runs it: its body in onnx's evaluator and in onnxruntime, and its native kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from snn_extreme_quant.deploy import functions, native_status
from snn_extreme_quant.deploy.native import native_library

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One node with its inputs, and what it must give, bit for bit.

    Args:
        operator: its name.
        what: what is particular of the inputs.
        inputs: by the names of the body's inputs.
        constants: the rest of the body's inputs, known when a file is loaded.
        expected: the outputs in order, from torch.
        attributes: of the node.
        skips: by runtime, why it cannot run this case.
    """

    operator: str
    what: str
    inputs: dict[str, Array]
    constants: dict[str, Array]
    expected: list[Tensor]
    attributes: dict[str, Any] = field(default_factory=dict)
    skips: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.operator} ({self.what})"

    def model(self) -> onnx.ModelProto:
        """A model of the node with its body."""
        ranks = [value.dim() for value in self.expected]
        return model_of(self.operator, self.inputs, self.constants, ranks, **self.attributes)


def model_of(
    operator: str, inputs: dict[str, Array], constants: dict[str, Array], ranks: list[int], **attributes: Any
) -> onnx.ModelProto:
    """A model of one node, with its body; the outputs are called as in the body."""
    body = functions.function_body(operator)
    assert set(body.input) == {*inputs, *constants}
    assert set(body.attribute) == set(attributes)
    node = helper.make_node(operator, list(body.input), list(body.output), domain=functions.DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), [None] * v.ndim)
            for k, v in inputs.items()
        ],
        [
            helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, [None] * n)
            for k, n in zip(body.output, ranks, strict=True)
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


def bits(value: Tensor | Array) -> Array:
    """The bits of float32 numbers; zeros of either sign are one number."""
    array = value.numpy() if isinstance(value, torch.Tensor) else value
    return np.ascontiguousarray(array + np.float32(0), np.float32).view(np.int32)


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return options


def _session(model: onnx.ModelProto, options: Any) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def body_in_reference(case: Case) -> list[Array]:
    model = case.model()
    # The evaluator does not hand a function's attributes on to the body of a Scan in it.
    scanned = any(node.op_type == "Scan" for node in model.functions[0].node)
    plain = inliner.inline_local_functions(model) if scanned and case.attributes else model
    results: list[Array] = ReferenceEvaluator(plain).run(None, case.inputs)
    return results


def body_in_onnxruntime(case: Case) -> list[Array]:
    results: list[Array] = _session(case.model(), _options()).run(None, case.inputs)
    return results


def kernel_in_onnxruntime(case: Case) -> list[Array]:
    options = _options()
    assert native_library().register(options, [case.operator]) == [case.operator]
    results: list[Array] = _session(case.model(), options).run(None, case.inputs)
    return results


@cache
def kernels() -> frozenset[str]:
    """Operators that have a kernel here; none where the library cannot be had."""
    return native_library().operators if native_status().available else frozenset()


RUNTIMES: dict[str, Callable[[Case], list[Array]]] = {
    "onnx.reference": body_in_reference,
    "onnxruntime": body_in_onnxruntime,
    "native kernel": kernel_in_onnxruntime,
}


def check(case: Case) -> list[str]:
    """Run a case everywhere; every runtime gives the expected bits. Returns which ran."""
    ran = []
    for runtime, run in RUNTIMES.items():
        if runtime in case.skips or (runtime == "native kernel" and case.operator not in kernels()):
            continue
        results = run(case)
        assert len(results) == len(case.expected), f"{runtime}: {case}"
        for index, (result, wanted) in enumerate(zip(results, case.expected, strict=True)):
            assert result.shape == tuple(wanted.shape), f"{runtime}: output {index} of {case}"
            assert np.array_equal(bits(result), bits(wanted)), f"{runtime}: output {index} of {case}"
        ran.append(runtime)
    return ran
