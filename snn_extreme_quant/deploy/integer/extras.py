"""Torch operators of integer graphs that stand for standard ONNX operators: encoding, matrix products, max pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from snn_extreme_quant.deploy.lowering.operators import NAMESPACE

__all__ = ["encode_fixed_point", "matmul_int", "max_pool_int"]

_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@torch.library.custom_op(f"{NAMESPACE}::encode_fixed_point", mutates_args=())
def encode_fixed_point(x: Tensor, bits: int, fraction: int) -> Tensor:
    """:class:`~snn_extreme_quant.layers.FixedPointInput` in multiples of its grid: uint8, beyond 8 bits int32."""
    scale = 2.0**fraction
    rounded = (x.clamp(0.0, (2**bits - 1) / scale) * scale).round()
    return rounded.to(torch.uint8 if bits <= 8 else torch.int32)


@encode_fixed_point.register_fake
def _(x: Tensor, bits: int, fraction: int) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.uint8 if bits <= 8 else torch.int32)


@torch.library.custom_op(f"{NAMESPACE}::matmul_int", mutates_args=())
def matmul_int(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product of two computed tensors (both uint8, or both int32) in int32."""
    return torch.matmul(a.double(), b.double()).to(torch.int32)


@matmul_int.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    shape = torch.matmul(a.new_empty(a.shape, dtype=torch.float64), b.new_empty(b.shape, dtype=torch.float64)).shape
    return a.new_empty(shape, dtype=torch.int32)


@torch.library.custom_op(f"{NAMESPACE}::max_pool_int", mutates_args=())
def max_pool_int(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """The largest of each window of bytes; ``padding`` is that of ONNX: begins of all axes, then ends."""
    axes = len(kernel)
    pairs = [(padding[i], padding[axes + i]) for i in reversed(range(axes))]
    padded = F.pad(x.double(), [p for pair in pairs for p in pair], value=float("-inf"))
    return _POOLS[axes](padded, list(kernel), list(stride), 0, list(dilation)).to(x.dtype)


@max_pool_int.register_fake
def _(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    axes = len(kernel)
    sizes = [
        (size + padding[i] + padding[axes + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i, size in enumerate(x.shape[2:])
    ]
    return x.new_empty((*x.shape[:2], *sizes))
