"""The matrix products and tables of a language model as nodes, at the precision that each has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from snn_extreme_quant.deploy.language.writer import Writer
from snn_extreme_quant.deploy.lowering.layer_functions import digit_base, layer_operator
from snn_extreme_quant.errors import ExportError
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.models.gpt.exact import reach, rounded_weight
from snn_extreme_quant.quantizers.packing import LAYOUTS, pack

__all__ = ["Products", "digits_for"]

Array = npt.NDArray[Any]
_SUMS = "its inputs are on a grid on which every sum is exact"
#: Products of spikes are products of bytes; wider codes than a byte's have none.
_OF_SPIKES = (1.0, 1.0)
_MOST_UNITS = 2.0**30


def digits_for(layout: str, most: float) -> list[float]:
    """Return the powers of the base of the digits that whole numbers up to ``most`` on either side are split into.

    Example:
        >>> digits_for("ternary4", 2.0**14), digits_for("int8", 2.0**21)
        ([1.0, 256.0], [1.0, 128.0, 16384.0, 2097152.0])
    """
    base = digit_base(layout)
    powers = [1.0]
    # Digits reach from -base/2 to base/2 - 1.
    while (base // 2 - 1) * sum(powers) < most:
        powers.append(powers[-1] * base)
    return powers


class Products:
    """Writes layers with weights.

    Args:
        writer: the graph.
        layouts: by packing layout, the one that the file has in its place.
    """

    def __init__(self, writer: Writer, layouts: Mapping[str, str]) -> None:
        self.writer, self.layouts = writer, layouts

    def product(self, name: str, layer: Any, x: str, kind: str | None) -> str:
        """Write :func:`snn_extreme_quant.models.gpt.exact.product`.

        Args:
            name: of the layer.
            layer: a linear layer without bias.
            x: what it reads.
            kind: as there; None: spikes.
        """
        grid, most = _OF_SPIKES
        if kind is not None:
            bits, bound = reach(layer, layer.in_features, kind)
            grid, most = 2.0**-bits, bound * 2.0**bits
        if not isinstance(layer, IntegerFirst):
            return self._float_product(name, layer, x, grid, most)
        codes, scale = (value.detach().numpy() for value in layer.integer_weight())
        layout = self.layouts.get(layer.quantizer.layout, layer.quantizer.layout)
        _check_sums(name, layout, codes.shape[1], most)
        attributes: dict[str, Any] = {"grid": grid, "inverse_grid": 1.0 / grid}
        if kind is not None or LAYOUTS[layout].wide:
            attributes |= {"most": most, "digits": digits_for(layout, most)}
        scales = scale.reshape(len(scale), -1).astype(np.float32)
        size = layer.quantizer.granularity.group_size or codes.shape[1]
        total = ""
        for group, start in enumerate(range(0, codes.shape[1], size)):
            stop = min(start + size, codes.shape[1])
            part = x if size >= codes.shape[1] else self._columns(x, start, stop)
            weights = self._weights(name, layout, codes[:, start:stop].T, scales[:, group], group)
            y = self._packed(f"{name}@{group}" if group else name, layout, [part, *weights], attributes)
            total = self.writer.op("Add", total, y) if total else y
        return total

    def _weights(self, name: str, layout: str, codes: Array, scale: Array, group: int) -> list[str]:
        """Return codes and scales of a group as constants, named after their layer."""
        number = f".{group}" if group else ""
        packed = pack(codes.astype(np.int16), layout)  # no wider than it need be: tables are large
        return [
            self.writer.constant(packed, f"{name}.packed{number}"),
            self.writer.constant(scale, f"{name}.scale{number}"),
        ]

    def _packed(self, node: str, layout: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        rounded = "most" in attributes
        operator = layer_operator("LinearRounded" if rounded else "Linear", layout, integer_input=not rounded)
        self.writer.layer(node.partition("@")[0], "layer", operator, _SUMS)
        return self.writer.ours(operator, inputs, name=node, **attributes)[0]

    def _float_product(self, name: str, layer: nn.Linear, x: str, grid: float, most: float) -> str:
        weight = rounded_weight(layer.weight.detach()).float().numpy().T
        self.writer.layer(name, "layer", "FloatLinearRounded", _SUMS)
        inputs = [x, self.writer.constant(weight, f"{name}.weight")]
        attributes: dict[str, Any] = {"grid": grid, "inverse_grid": 1.0 / grid, "most": most}
        return self.writer.ours("FloatLinearRounded", inputs, name=name, **attributes)[0]

    def embedding(self, name: str, layer: Any, ids: str) -> str:
        """Write the rows of a table that is not binarised."""
        if not isinstance(layer, IntegerFirst):
            zero, none = (self.writer.constant(np.int64(value)) for value in (0, 2**62))
            # ONNX counts negative places from the end.
            below = self.writer.op("Less", ids, zero)
            table = self.writer.constant(layer.weight.detach().numpy(), f"{name}.weight")
            return self.writer.op("Gather", table, self.writer.op("Where", below, none, ids), axis=0)
        codes, scale = (value.detach().numpy() for value in layer.integer_weight())
        layout = self.layouts.get(layer.quantizer.layout, layer.quantizer.layout)
        scales = scale.reshape(len(scale), -1).astype(np.float32)
        size = layer.quantizer.granularity.group_size or codes.shape[1]
        parts = [
            self.looked_up(name, layout, codes[:, start : start + size], scales[:, group], ids, group)
            for group, start in enumerate(range(0, codes.shape[1], size))
        ]
        return self.writer.op("Concat", *parts, axis=-1) if len(parts) > 1 else parts[0]

    def looked_up(self, name: str, layout: str, codes: Array, scale: Array, ids: str, group: int = 0) -> str:
        """Write rows of packed codes times their scales."""
        operator = layer_operator("Embedding", layout)
        weights = self._weights(name, layout, codes, scale, group)
        self.writer.layer(name, "layer", operator, "rows of codes times their scales")
        node = f"{name}@{group}" if group else name
        return self.writer.ours(operator, [ids, *weights], name=node, columns=[int(codes.shape[1])])[0]

    def _columns(self, x: str, start: int, stop: int) -> str:
        bounds = (self.writer.constant(np.array([place])) for place in (start, stop, -1))
        return self.writer.op("Slice", x, *bounds)


def _check_sums(name: str, layout: str, inputs: int, most: float) -> None:
    """Refuse inputs, and sums of digits, that would not fit 32 bits.

    Bodies multiply digits up to 255 with codes; kernels signed bytes with codes that an offset makes positive, the
    largest code of as many bits as kernels read: 2, 4 or 8.
    """
    if most > _MOST_UNITS:
        raise ExportError(f"Layer {name!r} reads one number at this precision; give it more, or 1.58 bit.")
    largest = LAYOUTS[layout].largest
    widest = next((code for code in (1, 7, 127) if code >= largest), None)
    if widest is not None and inputs > (fits := (2**31 - 1) // (256 * widest)):
        raise ExportError(f"Layer {name!r} sums {inputs} inputs; sums in files of codes so wide fit up to {fits}.")
