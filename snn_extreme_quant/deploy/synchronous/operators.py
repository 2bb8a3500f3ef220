"""The operators of the synchronous schedule, as torch custom operators of the namespace ``snn_xq``.

A recorded model calls :func:`synchronous_rates` or :func:`synchronous_spikes` in place of its neurons; the others are
what :mod:`~snn_extreme_quant.deploy.synchronous.count_graph` makes of a recorded graph. Counts are unsigned bytes that
hold the number of spikes, plus ``zero_point`` (T for signed neurons, else 0).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from snn_extreme_quant.deploy.lowering.operators import NAMESPACE
from snn_extreme_quant.neurons import spikes_first, synchronous_count
from snn_extreme_quant.quantizers.packing import unpack

__all__ = [
    "COUNTS",
    "RATES",
    "SPIKES_OF",
    "count_product",
    "count_rates",
    "folded_counts",
    "linear_counts",
    "linear_sums",
    "one_of",
    "rounded_counts",
    "synchronous_counts",
    "synchronous_rates",
    "synchronous_spikes",
]


@torch.library.custom_op(f"{NAMESPACE}::synchronous_rates", mutates_args=())
def synchronous_rates(x: Tensor, threshold: Tensor, steps: int, signed: bool, layer: str) -> Tensor:
    """Return the rates n/T of a layer of synchronous neurons, of ``x``'s shape."""
    return synchronous_count(x, threshold, steps, signed) / steps


@torch.library.custom_op(f"{NAMESPACE}::synchronous_spikes", mutates_args=())
def synchronous_spikes(x: Tensor, threshold: Tensor, steps: int, signed: bool, layer: str) -> Tensor:
    """Return the spikes of all steps, ``(T, *x.shape)``."""
    return spikes_first(synchronous_count(x, threshold, steps, signed), steps)


@torch.library.custom_op(f"{NAMESPACE}::synchronous_counts", mutates_args=())
def synchronous_counts(x: Tensor, threshold: Tensor, steps: int, signed: bool, layer: str) -> Tensor:
    """Return the counts as bytes, of ``x``'s shape."""
    zero_point = steps if signed else 0
    return (synchronous_count(x, threshold, steps, signed) + zero_point).to(torch.uint8)


@torch.library.custom_op(f"{NAMESPACE}::folded_counts", mutates_args=())
def folded_counts(sums: Tensor, gain: Tensor, offset: Tensor, top: int, layer: str) -> Tensor:
    """Return the counts, as bytes, that integer sums give: ``clip(trunc(sums * gain + offset), 0, top)``."""
    return (sums.to(torch.float32) * gain + offset).clamp(0.0, float(top)).to(torch.uint8)


@torch.library.custom_op(f"{NAMESPACE}::rounded_counts", mutates_args=())
def rounded_counts(x: Tensor, zero_point: int, top: int, layer: str) -> Tensor:
    """Return the counts, as bytes, of currents in units of a count: ``clip(round(x) + zero_point, 0, top)``."""
    return (x.round() + zero_point).clamp(0.0, float(top)).to(torch.uint8)


def _sums(counts: Tensor, packed: Tensor, zero_point: int, outputs: int, layout: str) -> Tensor:
    codes = torch.from_numpy(unpack(packed.numpy(), outputs, layout)).to(torch.float64)
    # Integers below 2**53 are exact in float64, whose product is fast.
    return F.linear(counts.to(torch.float64) - zero_point, codes.T)


@torch.library.custom_op(f"{NAMESPACE}::linear_counts", mutates_args=())
def linear_counts(counts: Tensor, packed: Tensor, scale: Tensor, zero_point: int, layout: str, layer: str) -> Tensor:
    """Sum counts ``(..., K)`` with packed codes and scale: floats ``(..., N)``."""
    return _sums(counts, packed, zero_point, scale.shape[0], layout).to(torch.float32) * scale


@torch.library.custom_op(f"{NAMESPACE}::linear_sums", mutates_args=())
def linear_sums(counts: Tensor, packed: Tensor, zero_point: int, outputs: int, layout: str, layer: str) -> Tensor:
    """Sum counts ``(..., K)`` with packed codes: integers ``(..., N)``."""
    return _sums(counts, packed, zero_point, outputs, layout).to(torch.int32)


@torch.library.custom_op(f"{NAMESPACE}::count_product", mutates_args=())
def count_product(a: Tensor, b: Tensor, zero_a: int, zero_b: int) -> Tensor:
    """Multiply matrices of counts: integers."""
    return ((a.to(torch.float64) - zero_a) @ (b.to(torch.float64) - zero_b)).to(torch.int32)


@torch.library.custom_op(f"{NAMESPACE}::count_rates", mutates_args=())
def count_rates(counts: Tensor, zero_point: int, steps: int) -> Tensor:
    """Return the rates n/T of counts: exact, as T is a power of two."""
    return (counts.to(torch.float32) - zero_point) * (1.0 / steps)


@torch.library.custom_op(f"{NAMESPACE}::one_of", mutates_args=())
def one_of(x: Tensor) -> Tensor:
    """Return a 1, if ``x`` has elements, which no runtime knows before it runs.

    onnxruntime scales integer sums while it adds them up if their scale is not a constant.
    """
    return x.new_tensor(float(x.numel() > 0), dtype=torch.float32)


@synchronous_rates.register_fake
def _(x: Tensor, threshold: Tensor, steps: int, signed: bool, layer: str) -> Tensor:
    return torch.empty_like(x)


@synchronous_spikes.register_fake
def _(x: Tensor, threshold: Tensor, steps: int, signed: bool, layer: str) -> Tensor:
    return x.new_empty((steps, *x.shape))


@synchronous_counts.register_fake
def _(x: Tensor, threshold: Tensor, steps: int, signed: bool, layer: str) -> Tensor:
    return torch.empty_like(x, dtype=torch.uint8)


@folded_counts.register_fake
def _(sums: Tensor, gain: Tensor, offset: Tensor, top: int, layer: str) -> Tensor:
    return torch.empty_like(sums, dtype=torch.uint8)


@rounded_counts.register_fake
def _(x: Tensor, zero_point: int, top: int, layer: str) -> Tensor:
    return torch.empty_like(x, dtype=torch.uint8)


@linear_counts.register_fake
def _(counts: Tensor, packed: Tensor, scale: Tensor, zero_point: int, layout: str, layer: str) -> Tensor:
    return scale.new_empty((*counts.shape[:-1], scale.shape[0]))


@linear_sums.register_fake
def _(counts: Tensor, packed: Tensor, zero_point: int, outputs: int, layout: str, layer: str) -> Tensor:
    return packed.new_empty((*counts.shape[:-1], outputs), dtype=torch.int32)


@count_product.register_fake
def _(a: Tensor, b: Tensor, zero_a: int, zero_b: int) -> Tensor:
    return torch.matmul(a.to(torch.int32), b.to(torch.int32))


@count_rates.register_fake
def _(counts: Tensor, zero_point: int, steps: int) -> Tensor:
    return torch.empty_like(counts, dtype=torch.float32)


@one_of.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((), dtype=torch.float32)


_OURS = torch.ops.snn_xq
#: What stands for a neuron in a recorded graph; the arguments are current, threshold, T, signed and the layer's name.
RATES, SPIKES_OF = _OURS.synchronous_rates.default, _OURS.synchronous_spikes.default
#: What gives counts in a graph over counts.
COUNTS = (_OURS.synchronous_counts.default, _OURS.folded_counts.default, _OURS.rounded_counts.default)
