"""A case of one operator, and what runs it: its body in two evaluators, its native kernel, and the golden model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, inliner
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from snn_extreme_quant.deploy import native_status
from snn_extreme_quant.deploy.integer.golden import golden_run
from snn_extreme_quant.deploy.lowering.functions import (
    is_integer_layer,
    is_integer_neuron,
    is_language_integer,
    is_token_integer,
)
from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.deploy.runtime.native_steps import STEP_COUNTS, STEP_SUMS
from snn_extreme_quant.errors import ModelFileError
from tests.deploy.bodies import Array, bits, model_of

__all__ = ["RUNTIMES", "Array", "Case", "check", "kernels", "same"]


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
        types = [helper.np_dtype_to_tensor_dtype(value.numpy().dtype) for value in self.expected]
        model = model_of(self.operator, self.inputs, self.constants, ranks, types, **self.attributes)
        assert set(model.functions[0].attribute) == set(self.attributes)
        return model


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
    with np.errstate(all="ignore"):  # inputs at their limits overflow, as they should
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


def golden_model(case: Case) -> list[Array]:
    return list(golden_run(case.model(), case.inputs).outputs.values())


@cache
def kernels() -> frozenset[str]:
    """Operators that have a kernel here; none where the library cannot be had."""
    names = native_library().operators if native_status().available else frozenset()
    # Not operators: a second name for some nodes of one, and what sessions put in the place of several.
    made = frozenset(name for name in names if name.endswith("OfSpikes") or name.startswith("Fused"))
    return names - made - {STEP_SUMS, STEP_COUNTS}


RUNTIMES: dict[str, Callable[[Case], list[Array]]] = {
    "onnx.reference": body_in_reference,
    "onnxruntime": body_in_onnxruntime,
    "native kernel": kernel_in_onnxruntime,
    "golden model": golden_model,
}


def applies(runtime: str, case: Case) -> bool:
    """Whether a runtime takes a case: kernels where there is one, the golden model for operators of integers."""
    if runtime in case.skips:
        return False
    if runtime == "native kernel":
        return case.operator in kernels()
    integers = (is_integer_layer, is_integer_neuron, is_token_integer, is_language_integer)
    return runtime != "golden model" or any(found(case.operator) for found in integers)


def same(result: Array, wanted: Tensor) -> bool:
    """Whether shape, type and every bit are those that are wanted; zeros of either sign are one number."""
    expected = wanted.numpy()
    if result.shape != expected.shape or result.dtype != expected.dtype:
        return False
    return (
        np.array_equal(bits(result), bits(wanted)) if result.dtype == np.float32 else np.array_equal(result, expected)
    )


def wraps(case: Case, error: ModelFileError) -> bool:
    """Whether the golden model rightly refuses a case: beyond any proof 32 bits wrap around, which it does not."""
    return "leaves 32 bits" in str(error) and max(int(np.abs(v).max(initial=0)) for v in case.inputs.values()) > 2**28


def check(case: Case) -> list[str]:
    """Run a case everywhere; every runtime gives the expected bits. Returns which ran."""
    ran = []
    for runtime, run in RUNTIMES.items():
        if not applies(runtime, case):
            continue
        try:
            results = run(case)
        except ModelFileError as error:
            if runtime != "golden model" or not wraps(case, error):
                raise
            ran.append(runtime)
            continue
        assert len(results) == len(case.expected), f"{runtime}: {case}"
        for index, (result, wanted) in enumerate(zip(results, case.expected, strict=True)):
            assert same(result, wanted), f"{runtime}: output {index} of {case}"
        ran.append(runtime)
    return ran
