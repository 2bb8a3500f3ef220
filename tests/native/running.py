"""Runs one operator as its body and as a native kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from snn_extreme_quant.deploy import session
from tests.deploy.bodies import Array, bits, model_of


def both(
    operator: str, inputs: dict[str, Array], constants: dict[str, Array], ranks: list[int], **attributes: Any
) -> tuple[list[Array], list[Array]]:
    """The outputs of the body and those of the kernel, on onnxruntime."""
    model = model_of(operator, inputs, constants, ranks, **attributes)
    body = session(model, threads=1, native=False).run(None, inputs)
    return body, session(model, threads=1, native=True).run(None, inputs)


def assert_same(
    operator: str, inputs: dict[str, Array], constants: dict[str, Array], ranks: list[int], **attributes: Any
) -> list[Array]:
    """Both are the same bit for bit; returns them."""
    body, native = both(operator, inputs, constants, ranks, **attributes)
    for expected, found in zip(body, native, strict=True):
        assert found.shape == expected.shape, operator
        assert np.array_equal(bits(found), bits(expected)), operator
    return native
