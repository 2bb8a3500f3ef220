"""How the operators of SpikingBERT's integer files become nodes of the ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from snn_extreme_quant.deploy.synchronous.translations import emitted_node
from snn_extreme_quant.deploy.tokens import integer_operators as ours

__all__ = ["token_integer_translations"]

_INTEGER, _WIDE = "tensor(int32)", "tensor(int64)"
_ENDS = {"uint8": "", "int8": "Signed", "int32": "Wide"}


def _scaled(x: Any, gain: Any, offset: Any, low: Any, high: Any) -> dict[str, tuple[Any, str]]:
    return {
        "x": (x, _INTEGER), "gain": (gain, _WIDE), "offset": (offset, _WIDE), "low": (low, _INTEGER),
        "high": (high, _INTEGER),
    }  # fmt: skip


def token_integer_translations() -> dict[Any, Callable[..., Any]]:
    """Return what torch's exporter emits for each operator."""

    def counts(x: Any, gain: Any, offset: Any, low: Any, high: Any, shift: int, kind: str, layer: str) -> Any:
        given = _scaled(x, gain, offset, low, high)
        return emitted_node(f"IntCounts{_ENDS[kind]}", given, f"tensor({kind})", layer, shift=shift)

    def scale(x: Any, gain: Any, offset: Any, low: Any, high: Any, shift: int, layer: str) -> Any:
        return emitted_node("IntScale", _scaled(x, gain, offset, low, high), _INTEGER, layer, shift=shift)

    def spikes(x: Any, steps: int, signed: bool, layer: str) -> Any:
        name, kind = ("IntSpikesSigned", "tensor(int8)") if signed else ("IntSpikes", "tensor(uint8)")
        return emitted_node(name, {"x": (x, _INTEGER)}, kind, layer, steps=steps)

    def residual(x: Any, counts: Any, gain: Any, carried: Any, offset: Any, shift: int, layer: str) -> Any:
        given = {"x": (x, _INTEGER), "counts": (counts, _INTEGER), "gain": (gain, _WIDE), "carried": (carried, _WIDE)}
        given["offset"] = (offset, _WIDE)
        return emitted_node("IntResidual", given, _INTEGER, layer, shift=shift)

    def norm(x: Any, layer: str) -> Any:
        return emitted_node("IntShiftNorm", {"x": (x, _INTEGER)}, _INTEGER, layer)

    def softmax(x: Any, pads: Any, fraction: int, layer: str) -> Any:
        given = {"x": (x, _INTEGER), "pads": (pads, _INTEGER)}
        return emitted_node("IntShiftSoftmax", given, _INTEGER, layer, fraction=fraction)

    def product(a: Any, b: Any, zero_point: int) -> Any:
        kind = str(b.dtype.name).lower()
        given = {"a": (a, _INTEGER), "b": (b, f"tensor({kind})")}
        return emitted_node(f"IntProduct{_ENDS[kind]}", given, _INTEGER, "", zero_point=zero_point)

    return {
        ours.COUNTS: counts,
        ours.SCALE: scale,
        ours.SPIKES: spikes,
        ours.RESIDUAL: residual,
        ours.SHIFT_NORM: norm,
        ours.SHIFT_SOFTMAX: softmax,
        ours.PRODUCT: product,
    }
