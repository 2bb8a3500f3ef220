"""What integer graphs make of pooling, and how the larger of two values is the larger of two integers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from snn_extreme_quant.deploy.integer.emission import NotIntegerError
from snn_extreme_quant.deploy.integer.values import Affine, Term, Value, uniform
from snn_extreme_quant.deploy.recording.averages import each_axis

if TYPE_CHECKING:
    from snn_extreme_quant.deploy.integer.rewriting import Arguments, Rewriter

__all__ = ["POOLING", "comparable", "oriented"]

aten = torch.ops.aten
_OURS = torch.ops.snn_xq
_POOLS = {
    aten.max_pool1d.default: 1,
    aten.max_pool2d.default: 2,
    aten.max_pool3d.default: 3,
    aten.max_pool2d_with_indices.default: 2,
}
_WINDOWS = {3: (F.conv1d, 1), 4: (F.conv2d, 2), 5: (F.conv3d, 3)}
_ADAPTIVE = {
    aten.adaptive_max_pool1d.default: 1,
    aten.adaptive_max_pool2d.default: 2,
    aten.adaptive_max_pool3d.default: 3,
}
_POOL_FUNCTIONS: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def oriented(rewriter: Rewriter, term: Term) -> Term:
    """Return a term of units that are not negative, so that larger integers are larger values."""
    if bool((term.unit >= 0).all()):
        return term
    sign = torch.where(term.unit < 0, -1.0, 1.0).double()
    whole = rewriter.emitter.typed(term, torch.int32)
    node = rewriter.emitter.call(aten.mul.Tensor, whole.node, rewriter.emitter.whole(sign))
    low, high = torch.minimum(term.low * sign, term.high * sign), torch.maximum(term.low * sign, term.high * sign)
    return Term(node, term.unit.abs(), low, high, torch.int32)


def comparable(rewriter: Rewriter, value: Affine, axes: Sequence[int]) -> tuple[Term, Tensor]:
    """Return a term and an offset of a value whose order along axes is that of the integers."""
    if len(value.terms) == 1 and uniform(value.terms[0].unit, axes) and uniform(value.offset, axes):
        return oriented(rewriter, value.terms[0]), value.offset
    return oriented(rewriter, rewriter.emitter.single(value, axes)), torch.zeros_like(value.offset)


def _check_windows(rewriter: Rewriter, given: Arguments, axes: int) -> None:
    """Refuse windows over steps or samples: how many there are is known only when the file runs."""
    rank = len(given.affine(0).shape)
    if set(range(rank - axes, rank)) & set(rewriter.open_axes(given.nodes[0])):
        raise NotIntegerError("its windows are of steps or samples")


def _max_pool(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    axes = _POOLS[cast("Any", node.target)]
    _check_windows(rewriter, given, axes)
    _, kernel, *rest = given.known
    value = given.affine(0)
    names: tuple[tuple[str, Any], ...] = (("stride", []), ("padding", 0), ("dilation", 1), ("ceil_mode", False))
    stride, padding, dilation, ceil = (
        given.known_kwargs.get(name, rest[i] if i < len(rest) else default) for i, (name, default) in enumerate(names)
    )
    window = each_axis(kernel, axes)
    steps = each_axis(stride, axes) if stride else window
    pooled = _pooled(
        rewriter, value, window, steps, each_axis(padding, axes), each_axis(dilation, axes), ceil=bool(ceil)
    )
    return (pooled, None) if node.target is aten.max_pool2d_with_indices.default else pooled


def _adaptive_max_pool(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    axes = _ADAPTIVE[cast("Any", node.target)]
    _check_windows(rewriter, given, axes)
    value, size = given.affine(0), each_axis(given.known[1], axes)
    inner = value.shape[-axes:]
    if any(i % o for i, o in zip(inner, size, strict=True)):
        raise NotIntegerError("its windows are of different sizes")
    window = [i // o for i, o in zip(inner, size, strict=True)]
    return _pooled(rewriter, value, window, window, [0] * axes, [1] * axes, ceil=False), None


def _pooled(
    rewriter: Rewriter,
    value: Affine,
    window: Sequence[int],
    steps: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    *,
    ceil: bool,
) -> Affine:
    axes = len(window)
    if len(value.shape) != axes + 2:
        raise NotIntegerError("max pooling without an axis of samples")
    term, offset = comparable(rewriter, value, range(2, axes + 2))
    pool = _POOL_FUNCTIONS[axes]

    def largest(values: Tensor) -> Tensor:
        result: Tensor = pool(values.expand(value.shape).contiguous(), window, steps, pads, dilation, ceil)
        return result

    unit, low, high = largest(term.unit), largest(term.low), largest(term.high)
    ends = [
        max(p, (out - 1) * s + d * (k - 1) + 1 - p - size)
        for out, s, d, k, p, size in zip(unit.shape[2:], steps, dilation, window, pads, value.shape[2:], strict=True)
    ]
    small = rewriter.emitter.fitting(term)
    if small.dtype is torch.int32:
        new = _slices(rewriter, small, window, steps, [*pads, *ends], dilation, unit.shape[2:])
    else:
        new = rewriter.emitter.call(
            _OURS.max_pool_int.default, small.node, list(window), list(steps), [*pads, *ends], list(dilation)
        )
    pooled = Term(new, unit, low, high, small.dtype)
    return Affine(tuple(unit.shape), (pooled,), largest(offset))


def _slices(
    rewriter: Rewriter,
    term: Term,
    window: Sequence[int],
    steps: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    sizes: Sequence[int],
) -> fx.Node:
    """The largest of each window of int32, which onnxruntime's MaxPool does not take: of one slice a place."""
    call, axes = rewriter.emitter.call, len(window)
    pairs = [p for i in reversed(range(axes)) for p in (pads[i], pads[axes + i])]
    node = call(aten.constant_pad_nd.default, term.node, pairs, int(term.bounds[0])) if any(pads) else term.node
    total: fx.Node | None = None
    for place in itertools.product(*(range(k) for k in window)):
        part = node
        for axis, (i, s, d, size) in enumerate(zip(place, steps, dilation, sizes, strict=True)):
            part = call(aten.slice.Tensor, part, axis + 2, i * d, i * d + (size - 1) * s + 1, s)
        total = part if total is None else call(aten.maximum.default, total, part)
    return cast("fx.Node", total)


def _sum_pool(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """Average pooling before its division."""
    _, kernel, stride, padding, channels = given.known
    value = given.affine(0)
    convolve, axes = _WINDOWS[len(value.shape)]
    _check_windows(rewriter, given, axes)
    ones = torch.ones((channels, 1, *kernel), dtype=torch.float64)

    def pooled(values: Tensor) -> Tensor:
        result: Tensor = convolve(values.expand(value.shape), ones, None, stride, padding, 1, channels)
        return result

    spatial = range(2, axes + 2)
    parts, offset = value.terms, value.offset
    if not all(uniform(t.unit, spatial) for t in parts):
        parts, offset = (rewriter.emitter.single(value, spatial),), torch.zeros_like(value.offset)
    terms = []
    for term in parts:
        small = rewriter.emitter.fitting(term)
        rewriter.read("", small)
        new = rewriter.emitter.call(
            _OURS.sum_pool_int.default, small.node, list(kernel), list(stride), list(padding), channels
        )
        low = pooled(term.low)
        unit = term.unit.expand(value.shape).amax(tuple(spatial), keepdim=True).expand(low.shape)
        terms.append(rewriter.emitter.checked(Term(new, unit, low, pooled(term.high), torch.int32), "its sums"))
    result = pooled(offset)
    return Affine(tuple(result.shape), tuple(terms), result)


#: By torch's operation, what it is in integers.
POOLING: dict[Any, Callable[[Rewriter, fx.Node, Arguments], Value]] = {
    _OURS.sum_pool.default: _sum_pool,
    **dict.fromkeys(_POOLS, _max_pool),
    **dict.fromkeys(_ADAPTIVE, _adaptive_max_pool),
}
