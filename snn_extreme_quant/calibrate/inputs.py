"""What a layer multiplies with its weights: the rows X of its product X W^T, over a whole run of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from snn_extreme_quant.layers import Conv1d, Conv2d, Conv3d, IntegerFirst, Linear

__all__ = ["Gram", "recording", "rows_of"]


def _linear_rows(_layer: Any, input: Tensor) -> Tensor:
    return input.reshape(1, -1, input.shape[-1])


def _conv_rows(layer: Any, input: Tensor) -> Tensor:
    """Return the patches under the kernel, ``(groups, M, C / groups * kernel)``."""
    axes = layer.weight.dim() - 2
    input = input if input.dim() == axes + 2 else input.unsqueeze(0)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    patches = F.pad(input, layer._reversed_padding_repeated_twice, mode=mode)
    for axis, (size, step, gap) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        patches = patches.unfold(2 + axis, (size - 1) * gap + 1, step)[..., ::gap]
    # (B, C, positions..., kernel...) to (groups, B, positions..., C / groups, kernel...)
    grouped = patches.reshape(patches.shape[0], layer.groups, -1, *patches.shape[2:])
    return grouped.movedim(1, 0).movedim(2, 2 + axes).flatten(-1 - axes).flatten(1, -2)


_ROWS: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    Linear: _linear_rows,
    Conv1d: _conv_rows,
    Conv2d: _conv_rows,
    Conv3d: _conv_rows,
}


def rows_of(layer: IntegerFirst) -> Callable[[Any, Tensor], Tensor] | None:
    """Return the function that gives a layer's rows, ``(groups, M, K)``; None if its product has none."""
    return next((_ROWS[cls] for cls in type(layer).__mro__ if cls in _ROWS), None)


class Gram:
    """The sum of X^T X over all products of one layer."""

    def __init__(self) -> None:
        """Start without a sum."""
        self.total: Tensor | None = None
        self.rows = 0

    def add(self, rows: Tensor) -> None:
        """Add rows ``(groups, M, K)``."""
        rows = rows.double()
        product = rows.transpose(1, 2) @ rows
        self.total = product if self.total is None else self.total + product
        self.rows += rows.shape[1]


@contextmanager
def recording(layers: Iterable[IntegerFirst], see: Callable[[IntegerFirst, Tensor], None]) -> Iterator[None]:
    """Call ``see`` with the input of each product of the layers.

    The product is where a layer has its input in the shape that meets the codes, however a framework lays out time.
    """
    layers = list(layers)

    def wrapped(layer: IntegerFirst) -> Callable[[Tensor], Tensor]:
        def product(input: Tensor) -> Tensor:
            see(layer, input.detach())
            output: Tensor = type(layer).product(layer, input)
            return output

        return product

    for layer in layers:
        object.__setattr__(layer, "product", wrapped(layer))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "product")
