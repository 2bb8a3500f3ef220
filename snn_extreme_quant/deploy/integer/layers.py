"""What integer graphs make of quantised layers, and of the input's encoding."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.integer.emission import NotIntegerError
from snn_extreme_quant.deploy.integer.moves import affine_of
from snn_extreme_quant.deploy.integer.values import Affine, Real, Term, Value, rational_multiples, uniform
from snn_extreme_quant.deploy.lowering.operators import _convolve, _deconvolve
from snn_extreme_quant.errors import UnsupportedModelError
from snn_extreme_quant.quantizers.packing import unpack

if TYPE_CHECKING:
    from snn_extreme_quant.deploy.integer.rewriting import Arguments, Rewriter

__all__ = ["LAYERS", "encode"]

_OURS = torch.ops.snn_xq
#: An embedding's rows stay below this, so that a neuron that reads them has as much room again.
_ROW_LIMIT = 2**24
#: Rows of less than this part of the largest scale are rounded by more than 2^-4 of themselves, and refused.
_LEAST_FACTOR = 8
#: Factors of the largest row have at least this many values, so that none is rounded by more than 2^-14 of it.
_FEWEST_FACTORS = 2**13


@dataclass(frozen=True)
class _Codes:
    """The codes of a layer as float64, outputs first, in parts of one sign."""

    positive: Tensor
    negative: Tensor


@functools.lru_cache(maxsize=16)
def _unpacked(packed: bytes, rows: int, outputs: int, layout: str, shape: tuple[int, ...]) -> _Codes:
    import numpy as np

    matrix = np.frombuffer(packed, np.uint8).reshape(rows, -1)
    codes = torch.from_numpy(unpack(matrix, outputs, layout)).double().T.reshape(shape)
    return _Codes(codes.clamp_min(0), codes.clamp_max(0))


def _range(term: Term, shape: tuple[int, ...], codes: _Codes, sums: Any) -> tuple[Tensor, Tensor]:
    """Return the least and the largest sum of each output."""
    low, high = term.low.expand(shape), term.high.expand(shape)
    least = sums(low, codes.positive) + sums(high, codes.negative)
    return least, sums(high, codes.positive) + sums(low, codes.negative)


def linear(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """Sums over the last axis."""
    value = rewriter.layer_input(given)
    _, packed, scale, outputs, layout, layer = given.known
    term = rewriter.emitter.fitting(rewriter.emitter.single(value, [-1]))
    codes = _unpacked(*_key(packed.value), outputs, layout, (outputs, packed.value.shape[0]))
    low, high = _range(term, value.shape, codes, torch.nn.functional.linear)
    node = rewriter.emitter.call(
        _OURS.packed_linear_sum.default,
        term.node,
        rewriter.emitter.constant(packed.value, layer),
        outputs,
        layout,
        layer,
    )
    rewriter.read(layer, term)
    unit = term.unit.expand(value.shape)[..., :1] * scale.value.double()
    return _summed(rewriter, node, unit.expand(low.shape), low, high)


def _key(packed: Tensor) -> tuple[bytes, int]:
    return packed.numpy().tobytes(), packed.shape[0]


def _summed(rewriter: Rewriter, node: fx.Node, unit: Tensor, low: Tensor, high: Tensor) -> Affine:
    term = rewriter.emitter.checked(Term(node, unit, low, high, torch.int32), "its sums")
    return affine_of(term, low.shape)


def _convolution(rewriter: Rewriter, node: fx.Node, given: Arguments, operator: Any, sums: Any) -> Value:
    value = rewriter.layer_input(given)
    _, packed, scale, weight_shape, *geometry, layout, layer = given.known
    groups, axes = geometry[-1], range(2, len(value.shape))
    if set(axes) & set(rewriter.open_axes(given.nodes[0])):
        raise UnsupportedModelError(
            f"Layer {layer!r} slides over steps or samples, whose number is known only when the file runs: integer"
            " files prove the range of sums over a fixed one. Convolve over other axes, or export without integer=True."
        )
    term = _grouped(rewriter, value, groups)
    codes = _unpacked(*_key(packed.value), weight_shape[0], layout, tuple(weight_shape))
    low, high = _range(term, value.shape, codes, lambda x, c: sums(x, c, *geometry))
    new = rewriter.emitter.call(
        operator,
        term.node,
        rewriter.emitter.constant(packed.value, layer),
        list(weight_shape),
        *geometry,
        layout,
        layer,
    )
    rewriter.read(layer, term)
    by_group = term.unit.expand(value.shape).amax(tuple(axes))[:, :: value.shape[1] // groups]
    outputs = by_group.repeat_interleave(weight_shape[0] // groups, 1) * scale.value.double()
    return _summed(rewriter, new, outputs.view(*outputs.shape, *(1 for _ in axes)).expand(low.shape), low, high)


def _grouped(rewriter: Rewriter, value: Affine, groups: int) -> Term:
    """Return a term of one unit within each group of channels."""
    if len(value.terms) == 1 and not value.has_offset:
        channels = value.shape[1]
        split = (
            value.terms[0]
            .unit.expand(value.shape)
            .reshape(value.shape[0], groups, channels // groups, *value.shape[2:])
        )
        if uniform(split, range(2, split.dim())):
            return rewriter.emitter.fitting(value.terms[0])
    return rewriter.emitter.fitting(rewriter.emitter.single(value, range(1, len(value.shape))))


def convolution(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """Sums over windows."""
    return _convolution(rewriter, node, given, _OURS.packed_conv_sum.default, _convolve)


def transposed_convolution(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """Sums of what inputs spread over windows."""

    def sums(x: Tensor, codes: Tensor, stride: Any, padding: Any, extra: Any, dilation: Any, groups: int) -> Tensor:
        return _deconvolve(x, codes, stride, padding, extra, dilation, groups)

    return _convolution(rewriter, node, given, _OURS.packed_conv_transpose_sum.default, sums)


def _row_factors(scales: Tensor, largest: float, layer: str) -> tuple[float, Tensor, float]:
    """Return a unit, whole factors that bring the rows' scales to it, and the rounding relative to the largest scale.

    Factors are as fine as their range allows.

    Raises:
        UnsupportedModelError: rows differ so much that a small one would be rounded away, or codes are so wide that
            they leave no room for factors.
    """
    most = _ROW_LIMIT // max(int(largest), 1)
    found = rational_multiples(scales)
    if found is not None and float(found[1].abs().max()) <= most:
        return *found, 0.0
    if most < _FEWEST_FACTORS:
        raise UnsupportedModelError(
            f"Embedding {layer!r}: codes up to {int(largest)} leave too little of 32 bits for rows of different scales."
            " Quantise the embedding with one scale for the whole tensor, or to 12 bit at most, or export without"
            " integer=True."
        )
    unit = float(scales.abs().max()) / most
    factors = (scales / unit).round()
    small = (scales != 0) & (factors.abs() < _LEAST_FACTOR)
    if bool(small.any()):
        row = int(small.nonzero()[0])
        raise UnsupportedModelError(
            f"Embedding {layer!r}: the scale of row {row}, {float(scales[row]):.3g}, is too small beside the largest,"
            f" {float(scales.abs().max()):.3g}, for both to be multiples of one unit in 32 bits. Quantise the embedding"
            " with one scale for the whole tensor, raise or zero the small rows, or export without integer=True."
        )
    return unit, factors, 0.5 / most


def embedding(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """Rows of codes, each times a factor that brings its scale to one unit."""
    ids, packed, scale, columns, layout, layer = given.known
    if not isinstance(ids, Real):
        raise NotIntegerError("numbers of rows are not computed")
    scales = scale.value.double()
    plain = torch.from_numpy(unpack(packed.value.numpy(), columns, layout)).double()
    unit, factors, rounding = _row_factors(scales, float(plain.abs().max()) if plain.numel() else 1.0, layer)
    rewriter.rounding = max(rewriter.rounding, rounding)
    codes = plain * factors.unsqueeze(1)
    node = rewriter.emitter.call(
        _OURS.packed_embedding_sum.default,
        ids.node,
        rewriter.emitter.constant(packed.value, layer),
        rewriter.emitter.constant(factors.to(torch.int32), f"{layer} rows"),
        columns,
        layout,
        layer,
    )
    shape = (*rewriter.closed_shape(given.nodes[0]), columns)
    low, high = codes.amin(0).expand(shape), codes.amax(0).expand(shape)
    result = _summed(rewriter, node, torch.tensor(unit, dtype=torch.float64).expand(shape), low, high)
    rewriter.read(layer, result.terms[0])
    return result


def encode(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """``FixedPointInput``: the one rounding of the input."""
    x, bits, fraction = given.known
    if not isinstance(x, Real) or not x.encoding:
        raise NotIntegerError("FixedPointInput encodes the model's input, not what is computed in it")
    node = rewriter.emitter.call(_OURS.encode_fixed_point.default, x.node, bits, fraction)
    shape = rewriter.closed_shape(given.nodes[0])
    unit, low, high = (torch.tensor(v, dtype=torch.float64).expand(shape) for v in (2.0**-fraction, 0.0, 2.0**bits - 1))
    return affine_of(Term(node, unit, low, high, torch.uint8 if bits <= 8 else torch.int32), shape)


LAYERS = {
    _OURS.packed_linear.default: linear,
    _OURS.packed_conv.default: convolution,
    _OURS.packed_conv_transpose.default: transposed_convolution,
    _OURS.packed_embedding.default: embedding,
}
