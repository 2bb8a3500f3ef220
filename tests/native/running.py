"""Runs one operator as its body and as a native kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime

from snn_extreme_quant.deploy import session
from snn_extreme_quant.deploy.lowering.layer_functions import KINDS
from snn_extreme_quant.deploy.runtime.native import native_library
from tests.deploy.bodies import Array, bits, model_of

#: Packing layouts that the library has kernels for: all, but not for every operator.
KERNEL_LAYOUTS = tuple(KINDS)


def both(
    operator: str, inputs: dict[str, Array], constants: dict[str, Array], ranks: list[int], **attributes: Any
) -> tuple[list[Array], list[Array]]:
    """The outputs of the body and those of the kernel, on onnxruntime."""
    model = model_of(operator, inputs, constants, ranks, **attributes)
    body = session(model, threads=1, native=False).run(None, inputs)
    return body, native_session(model, operator).run(None, inputs)


def native_session(model: onnx.ModelProto, operator: str, threads: int = 1) -> Any:
    """A session that runs an operator natively, also where its body is faster."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    assert native_library().register(options, [operator]) == [operator]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def assert_same(
    operator: str, inputs: dict[str, Array], constants: dict[str, Array], ranks: list[int], **attributes: Any
) -> list[Array]:
    """Both are the same bit for bit; returns them."""
    body, native = both(operator, inputs, constants, ranks, **attributes)
    for expected, found in zip(body, native, strict=True):
        assert found.shape == expected.shape, operator
        assert np.array_equal(bits(found), bits(expected)), operator
    return native
