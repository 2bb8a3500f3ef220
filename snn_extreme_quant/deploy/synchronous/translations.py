"""How the operators of the synchronous schedule become nodes of the ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import defs
from onnxscript import opset18 as op18
from onnxscript.values import Op, Opset

from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION, layer_operator
from snn_extreme_quant.deploy.lowering.translations import LAYER_ATTRIBUTE

__all__ = ["emitted_node", "synchronous_translations"]

_OURS = torch.ops.snn_xq
_FLOAT, _BYTE, _INTEGER = "tensor(float)", "tensor(uint8)", "tensor(int32)"


def _operator(name: str, inputs: Sequence[tuple[str, str]], output: str, **attributes: Any) -> Any:
    types = defs.OpSchema.AttrType
    kinds = {float: types.FLOAT, int: types.INT, str: types.STRING, list: types.INTS}
    schema = defs.OpSchema(
        name,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[defs.OpSchema.FormalParameter(n, t) for n, t in inputs],
        outputs=[defs.OpSchema.FormalParameter("y", output)],
        attributes=[defs.OpSchema.Attribute(n, kinds[type(v)], "", required=True) for n, v in attributes.items()],
    )
    return Op(Opset(DOMAIN, DOMAIN_VERSION), name, schema)


def emitted_node(name: str, inputs: dict[str, tuple[Any, str]], output: str, layer: str, **attributes: Any) -> Any:
    """Emit an operator of our domain: inputs by name with their types, the output's type, the layer's name."""
    given = {**attributes, LAYER_ATTRIBUTE: layer}
    operator = _operator(name, [(n, kind) for n, (_, kind) in inputs.items()], output, **given)
    return operator(*(value for value, _ in inputs.values()), **given)


def synchronous_translations() -> dict[Any, Callable[..., Any]]:  # noqa: C901 - one function for each operator
    """Return what torch's exporter emits for each operator of the synchronous schedule."""

    def rates(x: Any, threshold: Any, steps: int, signed: bool, layer: str) -> Any:
        attributes = {"steps": float(steps), "lowest": -float(steps) if signed else 0.0, "inverse_steps": 1.0 / steps}
        return emitted_node("SynchronousRates", _current(x, threshold), _FLOAT, layer, **attributes)

    def spikes(x: Any, threshold: Any, steps: int, signed: bool, layer: str) -> Any:
        attributes = {"steps": float(steps), "lowest": -float(steps) if signed else 0.0}
        return emitted_node("SynchronousSpikes", _current(x, threshold), _FLOAT, layer, **attributes)

    def counts(x: Any, threshold: Any, steps: int, signed: bool, layer: str) -> Any:
        if not signed:
            return emitted_node("SynchronousCounts", _current(x, threshold), _BYTE, layer, steps=float(steps))
        attributes = {"steps": float(steps), "lowest": -float(steps)}
        return emitted_node("SynchronousCounts_signed", _current(x, threshold), _BYTE, layer, **attributes)

    def folded(sums: Any, gain: Any, offset: Any, top: int, layer: str) -> Any:
        inputs = {"x": (sums, _INTEGER), "gain": (gain, _FLOAT), "offset": (offset, _FLOAT)}
        return emitted_node("SynchronousFolded", inputs, _BYTE, layer, top=float(top))

    def rounded(x: Any, zero_point: int, top: int, layer: str) -> Any:
        return emitted_node("SynchronousRounded", {"x": (x, _FLOAT)}, _BYTE, layer, zero_point=zero_point, top=top)

    def linear_counts(x: Any, packed: Any, scale: Any, zero_point: int, layout: str, layer: str) -> Any:
        inputs = {"x": (x, _BYTE), "packed": (packed, _BYTE), "scale": (scale, _FLOAT)}
        return emitted_node(layer_operator("LinearCounts", layout), inputs, _FLOAT, layer, zero_point=zero_point)

    def linear_sums(x: Any, packed: Any, zero_point: int, outputs: int, layout: str, layer: str) -> Any:
        inputs = {"x": (x, _BYTE), "packed": (packed, _BYTE)}
        name = layer_operator("LinearSums", layout)
        return emitted_node(name, inputs, _INTEGER, layer, zero_point=zero_point, columns=[outputs])

    def count_product(a: Any, b: Any, zero_a: int, zero_b: int) -> Any:
        zeros = (
            op18.Constant(value=onnx.numpy_helper.from_array(np.array(zero, np.uint8))) for zero in (zero_a, zero_b)
        )
        return op18.MatMulInteger(a, b, *zeros)

    def rates_of(counts: Any, zero_point: int, steps: int) -> Any:
        unit, zero = np.array(1.0 / steps, np.float32), np.array(zero_point, np.uint8)
        constants: Any = [op18.Constant(value=onnx.numpy_helper.from_array(value)) for value in (unit, zero)]
        return op18.DequantizeLinear(counts, *constants)

    def one_of(x: Any) -> Any:
        return op18.Cast(op18.Sign(op18.Size(x)), to=onnx.TensorProto.FLOAT)

    def _current(x: Any, threshold: Any) -> dict[str, tuple[Any, str]]:
        return {"x": (x, _FLOAT), "threshold": (threshold, _FLOAT)}

    return {
        _OURS.synchronous_rates.default: rates,
        _OURS.synchronous_spikes.default: spikes,
        _OURS.synchronous_counts.default: counts,
        _OURS.folded_counts.default: folded,
        _OURS.rounded_counts.default: rounded,
        _OURS.linear_counts.default: linear_counts,
        _OURS.linear_sums.default: linear_sums,
        _OURS.count_product.default: count_product,
        _OURS.count_rates.default: rates_of,
        _OURS.one_of.default: one_of,
    }
