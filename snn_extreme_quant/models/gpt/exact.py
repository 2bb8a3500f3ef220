r"""Operations whose result depends on no order of addition, so that a text and its single tokens give the same bits.

Numbers that are summed are put on a grid of :math:`2^{-f}` on which their sum is exact; numbers that are not summed go
through single float32 operations, which IEEE 754 rounds in one way. ``docs/spike_gpt.md`` (What is guaranteed) has
the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from snn_extreme_quant.exported.exponentials import LEAST_EXPONENT, LN2_PARTS, LOG2E, MOST_EXPONENT, SERIES
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.layers.integer_first import state_of

__all__ = [
    "PIECE", "STREAM_BITS", "epsilon_of", "exponential", "is_packed", "norm", "on_grid", "product", "raised",
    "raised_sigmoid", "reach", "read_type", "rounded_weight", "sigmoid", "sum_of",
]  # fmt: skip

#: The stream between layers: multiples of 2^-10 up to +-2^10.
STREAM_BITS = 10
_FLOAT32_BITS, _WIDE_BITS, _WEIGHT_BITS = 24, 53, 22
#: Numbers that go through a chain of operations together: they stay in a processor's cache.
PIECE = 1 << 15
#: How far inputs of products reach, as a power of two: into packed codes, into other weights.
_REACH = {"norm": (4, 6), "square": (6, 10)}


class _OnGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int, most: float) -> Tensor:
        found = (x * 2.0**bits).round_().mul_(2.0**-bits).clamp_(-most, most)
        ctx.most = most
        ctx.save_for_backward(found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (found,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], found, -ctx.most, ctx.most), None, None


def on_grid(x: Tensor, bits: int, most: float) -> Tensor:
    r"""Round to multiples of :math:`2^{-bits}`, ties to even, between -most and most.

    The gradient passes straight through, and is 0 where ``most`` is reached.

    Args:
        x: any shape.
        bits: places after the binary point.
        most: the bound, a multiple of the grid.

    Example:
        >>> on_grid(torch.tensor([0.3, -9.0]), 2, 4.0).tolist()
        [0.25, -4.0]
    """
    found: Tensor = _OnGrid.apply(x.float(), bits, most)  # type: ignore[no-untyped-call]
    return found


# Products.


class _Wide(Tensor):
    """A tensor on a grid whose products with weights are summed exactly, in float64."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Carry out an operation on a plain tensor; sums of products are exact."""
        del types
        with torch._C.DisableTorchFunctionSubclass():
            if func is F.linear and args[2:] in ((), (None,)) and not kwargs:
                x, weight = args[:2]
                return F.linear(x.as_subclass(Tensor).double(), rounded_weight(weight)).float()
            found = func(*args, **(kwargs or {}))
            # The columns that share a scale of a group are summed exactly too.
            return found.as_subclass(cls) if func is Tensor.narrow else found


_rounded_weights: Any = WeakIdKeyDictionary()


def rounded_weight(weight: Tensor) -> Tensor:
    """Return a weight with 22 bits below its row's largest, in float64."""
    trained = torch.is_grad_enabled() and weight.requires_grad
    key = (state_of(weight), torch.is_inference_mode_enabled())
    if not trained and weight in _rounded_weights and _rounded_weights[weight][0] == key:
        return cast("Tensor", _rounded_weights[weight][1])
    with torch.no_grad():
        wide = weight.detach().double()
        _, exponent = torch.frexp(wide.abs().amax(1, keepdim=True))
        unit = torch.ldexp(torch.ones_like(wide[:, :1]), exponent - _WEIGHT_BITS)
        wide = torch.round(wide / unit) * unit
    if trained:
        latent = weight.double()
        return latent + (wide - latent).detach()
    _rounded_weights[weight] = (key, wide)
    return wide


def reach(layer: nn.Module, inputs: int, kind: str) -> tuple[int, float]:
    """Return the grid of a product's inputs: places after the binary point, and the bound.

    Args:
        layer: with the weights.
        inputs: how many are summed.
        kind: ``"norm"`` or ``"square"``.
    """
    packed = is_packed(layer)
    power = _REACH[kind][0 if packed else 1]
    total = _FLOAT32_BITS if packed else _WIDE_BITS - _WEIGHT_BITS
    return total - math.ceil(math.log2(inputs)) - power, 2.0**power


def is_packed(layer: nn.Module) -> bool:
    """Whether sums over the layer's codes are exact in float32."""
    return isinstance(layer, IntegerFirst) and layer.quantizer.largest == 1


def read_type(layer: nn.Module, device: str) -> torch.dtype:
    """Return the type in which a layer reads its inputs: float32, or autocast's where it computes in that."""
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return torch.float32
    wide = not is_packed(layer) and (isinstance(layer, IntegerFirst) or not layer.training)
    return torch.float32 if wide else torch.get_autocast_dtype(device)


def product(layer: nn.Module, x: Tensor, kind: str | None = None, raw: bool = False) -> Tensor:
    """Multiply by a layer's weights, with sums that are exact.

    In training mode weights of float are multiplied as torch does.

    Args:
        layer: a linear layer without bias.
        x: ``(..., K)``, real numbers of a kind, or spikes.
        kind: as for :func:`reach`, whose grid the inputs are put on; None: they are on it, as spikes on any grid are.
        raw: leave the result in the type that the layer gives under autocast.

    Returns:
        ``(..., N)``, float32.
    """
    if kind is not None:
        x = on_grid(x, *reach(layer, x.shape[-1], kind))
    if not (is_packed(layer) or layer.training):
        x = x.as_subclass(_Wide)
    found: Tensor = layer(x)
    return found if raw else found.float()


def sum_of(x: Tensor, axis: int) -> Tensor:
    """Return the sum of numbers on a grid, which is exact in float64, rounded once to float32."""
    return x.sum(axis, dtype=torch.float64).float()


# Norm.


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, rows = torch.empty_like(x), x.view(-1, x.shape[-1])
        centre, inverse = (x.new_empty(len(rows), 1) for _ in range(2))
        size = max(1, PIECE // x.shape[-1])
        for row, mean, scale, into in zip(
            *(torch.split(part, size) for part in (rows, centre, inverse, y.view_as(rows))), strict=True
        ):
            wide = row.double()
            middle = wide.mean(-1, keepdim=True)
            # Both sums are exact: x is on the stream's grid.
            variance = wide.square_().sum(-1, keepdim=True) / x.shape[-1] - middle.square()
            mean.copy_(middle)
            scale.copy_(1.0 / torch.sqrt(variance.clamp_min(0.0) + eps))
            torch.sub(row, mean, out=into).mul_(scale).mul_(weight).add_(bias)
        shape = (*x.shape[:-1], 1)
        ctx.save_for_backward(x, centre.view(shape), inverse.view(shape), weight, bias)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, weight, bias = ctx.saved_tensors
        found = torch.ops.aten.native_layer_norm_backward(
            gradients[0].contiguous(), x, [x.shape[-1]], mean, inverse, weight, bias, list(ctx.needs_input_grad[:3])
        )
        return (*found, None)


def epsilon_of(layer: nn.LayerNorm) -> float:
    """Return what is added to the variance: the layer's number as files hold it, rounded to float32."""
    return float(np.float32(layer.eps))


def norm(layer: nn.LayerNorm, stream: Tensor) -> Tensor:
    """Normalise a stream on its grid with the parameters of a ``LayerNorm``.

    Example:
        >>> layer, x = nn.LayerNorm(8), on_grid(torch.randn(3, 8), 10, 1024.0)
        >>> torch.allclose(norm(layer, x), layer(x), atol=1e-5)
        True
    """
    found: Tensor = _Norm.apply(  # type: ignore[no-untyped-call]
        stream.contiguous(), layer.weight.float(), layer.bias.float(), epsilon_of(layer)
    )
    return found


# Exponentials.


def raised(x: Tensor, out: Tensor) -> None:
    """Write :func:`exponential` of numbers within its bounds to ``out``, without a gradient."""
    whole = (x * LOG2E).round_()
    rest = (x - whole * LN2_PARTS[0]).sub_(whole * LN2_PARTS[1])
    series = torch.full_like(rest, SERIES[0])
    for term in SERIES[1:]:
        series.mul_(rest).add_(term)
    series.mul_(rest).mul_(rest).add_(rest).add_(1.0)
    # 2^n by its bits: the exponent n + 127 above 23 bits of 0; as a float32 that number is exact.
    power = whole.add_(127.0).mul_(2.0**23).to(torch.int32).view(torch.float32)
    torch.mul(series, power, out=out)


def raised_sigmoid(x: Tensor, out: Tensor) -> None:
    """Write :func:`sigmoid` to ``out``, without a gradient."""
    raised((-x).clamp_(LEAST_EXPONENT, MOST_EXPONENT), out)
    out.add_(1.0).reciprocal_()


def _exp(x: Tensor) -> Tensor:
    """Return the exponential of any numbers, a piece after the other."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    for part, into in zip(torch.split(x.reshape(-1), PIECE), torch.split(y.view(-1), PIECE), strict=True):
        raised(part.clamp(LEAST_EXPONENT, MOST_EXPONENT), into)
    return y


class _Exponential(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = _exp(x)
        ctx.save_for_backward(y, (x >= LEAST_EXPONENT) & (x <= MOST_EXPONENT))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        y, inside = ctx.saved_tensors
        found: Tensor = gradients[0] * (y * inside)
        return found


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = _exp(-x).add_(1.0).reciprocal_()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        found: Tensor = gradients[0] * (y - y * y)
        return found


def exponential(x: Tensor) -> Tensor:
    r"""Return :math:`e^x` for x from -87 to 88, to a few units in the last place; beyond, what it is at the ends.

    Example:
        >>> torch.allclose(exponential(torch.tensor([0.0, 1.0, -20.0])), torch.tensor([0.0, 1.0, -20.0]).exp())
        True
    """
    found: Tensor = _Exponential.apply(x.float())  # type: ignore[no-untyped-call]
    return found


def sigmoid(x: Tensor) -> Tensor:
    r"""Return :math:`1 / (1 + e^{-x})`.

    Example:
        >>> sigmoid(torch.tensor([0.0, 1e9])).tolist()
        [0.5, 1.0]
    """
    found: Tensor = _Sigmoid.apply(x.float())  # type: ignore[no-untyped-call]
    return found
