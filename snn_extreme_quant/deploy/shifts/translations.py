"""How norm, softmax and rounding by shifts become nodes of the ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import onnx
from onnxscript import opset18 as op18

from snn_extreme_quant.deploy.shifts.operators import GRID, NORM, SOFTMAX, UNITS
from snn_extreme_quant.deploy.synchronous.translations import emitted_node
from snn_extreme_quant.exported.shift_tables import NORM_FRACTION

__all__ = ["shift_translations"]


def _number(value: float) -> Any:
    return op18.Constant(value_float=value)


def shift_translations() -> dict[Any, Callable[..., Any]]:
    """Return what torch's exporter emits for each operator."""

    def units(x: Any, layer: str) -> Any:
        return emitted_node("ShiftNorm", {"x": (x, "tensor(float)")}, "tensor(int32)", layer)

    def norm(x: Any, layer: str) -> Any:
        whole = op18.Cast(units(x, layer), to=onnx.TensorProto.FLOAT)
        return op18.Mul(whole, cast("Any", _number(2.0**-NORM_FRACTION)))

    def softmax(x: Any, layer: str) -> Any:
        return emitted_node("ShiftSoftmax", {"x": (x, "tensor(float)")}, "tensor(float)", layer)

    def to_grid(x: Any, fraction: int, limit: float) -> Any:
        whole = op18.Floor(op18.Add(op18.Mul(x, _number(2.0**fraction)), _number(0.5)))
        return op18.Mul(op18.Clip(whole, _number(-limit), _number(limit)), _number(2.0**-fraction))

    return {UNITS: units, NORM: norm, SOFTMAX: softmax, GRID: to_grid}
