"""What integer graphs make of sums, products, matrix products and pooling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.integer.emission import NotIntegerError
from snn_extreme_quant.deploy.integer.moves import affine_of
from snn_extreme_quant.deploy.integer.pooling import comparable, oriented
from snn_extreme_quant.deploy.integer.values import (
    Affine,
    Constant,
    Size,
    Term,
    Value,
    broadcast,
    rational_multiples,
    uniform,
)

if TYPE_CHECKING:
    from snn_extreme_quant.deploy.integer.rewriting import Arguments, Rewriter

__all__ = ["ARITHMETIC"]

aten = torch.ops.aten
_OURS = torch.ops.snn_xq


def _number(value: Any) -> Tensor | None:
    """Return a constant as float64, None if it is none (an open length is none)."""
    if isinstance(value, Size):
        value = None if isinstance(value.node, fx.Node) else value.value
    if isinstance(value, Constant):
        return value.value.double()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return torch.tensor(float(value), dtype=torch.float64)
    return None


def _spread(rewriter: Rewriter, value: Affine, shape: tuple[int, ...], like: fx.Node | None) -> Affine:
    """Return a value broadcast to ``shape``, its integers too.

    Args:
        rewriter: the graph.
        value: what to broadcast.
        shape: the result's, open axes being 1.
        like: an integer tensor of the result's shape, for open axes; None if those are the value's.
    """
    if like is None and shape == value.shape:
        return value
    call = rewriter.emitter.call
    new = len(shape) - len(value.shape)
    sizes = [*shape[:new], *(-1 if a == b else b for a, b in zip(value.shape, shape[new:], strict=True))]
    terms = []
    for term in value.terms:
        node = (
            call(aten.expand.default, term.node, sizes)
            if like is None
            else call(aten.expand_as.default, term.node, like)
        )
        terms.append(Term(node, term.unit.expand(shape), term.low.expand(shape), term.high.expand(shape), term.dtype))
    return Affine(shape, tuple(terms), value.offset.expand(shape))


def _same_shape(rewriter: Rewriter, node: fx.Node, a: Affine, b: Affine) -> tuple[Affine, Affine]:
    """Broadcast two values to the shape of what a node makes of them."""
    shape = broadcast(a.shape, b.shape)
    sources = [n for n in node.args[:2] if isinstance(n, fx.Node)]
    whole = rewriter.shape_of(node)
    fits = [rewriter.shape_of(source) == whole for source in sources]
    if all(fits):
        return a, b
    if not any(fits):
        raise NotIntegerError("both of its values are broadcast")
    if fits[0]:
        return a, _spread(rewriter, b, shape, _any_node(a))
    return _spread(rewriter, a, shape, _any_node(b)), b


def _any_node(value: Affine) -> fx.Node:
    if not value.terms:
        raise NotIntegerError("a constant is broadcast")
    return value.terms[0].node


def _added(a: Affine, b: Affine) -> Affine:
    """Return a sum; terms of the same integers become one."""
    terms = list(a.terms)
    for term in b.terms:
        for index, known in enumerate(terms):
            if known.node is term.node:
                terms[index] = replace(known, unit=known.unit + term.unit)
                break
        else:
            terms.append(term)
    return Affine(a.shape, tuple(terms), a.offset + b.offset)


def _add(rewriter: Rewriter, node: fx.Node, given: Arguments, sign: float = 1.0) -> Value:
    """``a + alpha b``, also ``a - b``."""
    a, b = given.values[0], given.values[1]
    sign *= float(given.known_kwargs.get("alpha", 1))
    if isinstance(a, Affine) and isinstance(b, Affine):
        return _added(*_same_shape(rewriter, node, a, b.scaled(sign)))
    value, other, factor = (a, _number(b), sign) if isinstance(a, Affine) else (b, _number(a), 1.0)
    if not isinstance(value, Affine) or other is None:
        raise NotIntegerError("real numbers are added")
    value = value.scaled(1.0 if value is a else sign)
    shape = broadcast(value.shape, other.shape)
    value = _spread(rewriter, value, shape, None)
    return replace(value, offset=value.offset + factor * other)


def _subtract(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    return _add(rewriter, node, given, -1.0)


def _subtract_from(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """``rsub``: ``b - a``."""
    value, other = given.affine(0).scaled(-float(given.known_kwargs.get("alpha", 1))), _number(given.values[1])
    if other is None:
        raise NotIntegerError("it is subtracted from real numbers")
    return replace(value, offset=value.offset + other)


def _scaled(rewriter: Rewriter, value: Affine, factor: Tensor) -> Affine:
    shape = broadcast(value.shape, factor.shape)
    return _spread(rewriter, value, shape, None).scaled(factor)


def _multiply(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    a, b = given.values[0], given.values[1]
    if isinstance(a, Affine) and isinstance(b, Affine):
        return _product(rewriter, node, a, b)
    value, other = (a, _number(b)) if isinstance(a, Affine) else (b, _number(a))
    if not isinstance(value, Affine) or other is None:
        raise NotIntegerError("it is multiplied by real numbers")
    return _scaled(rewriter, value, other)


def _product(rewriter: Rewriter, node: fx.Node, a: Affine, b: Affine) -> Affine:
    """The product of two computed values: of all pairs of terms, and of terms and offsets."""
    if a.has_offset or b.has_offset:
        a, b = _same_shape(rewriter, node, a, b)
    shape = broadcast(a.shape, b.shape)
    terms = []
    for s, t in itertools.product(a.terms, b.terms):
        ends = [x * y for x in (s.low, s.high) for y in (t.low, t.high)]
        low, high = torch.stack([e.expand(shape) for e in ends]).aminmax(dim=0)
        whole = [rewriter.emitter.typed(x, torch.int32).node for x in (s, t)]
        new = rewriter.emitter.call(aten.mul.Tensor, *whole)
        term = Term(new, (s.unit * t.unit).expand(shape), low, high, torch.int32)
        terms.append(rewriter.emitter.checked(term, "its products"))
    for value, offset in ((a, b.offset), (b, a.offset)):
        if bool((offset != 0).any()):
            terms += value.scaled(offset).terms
    result = Affine(shape, (), (a.offset * b.offset).expand(shape))
    return _added(result, Affine(shape, tuple(terms), torch.zeros((), dtype=torch.float64).expand(shape)))


def _divide(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    divisor = _number(given.values[1])
    if divisor is None or not bool((divisor != 0).all()) or given.known_kwargs:
        what = "the number of steps or samples" if isinstance(given.values[1], Size) else "what is computed"
        raise NotIntegerError(f"it is divided by {what}")
    return _scaled(rewriter, given.affine(0), 1 / divisor)


def _negate(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    return given.affine(0).scaled(-1.0)


def _largest(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """``amax``."""
    value = given.affine(0)
    axes = [a % len(value.shape) for a in (given.known[1] if len(given.known) > 1 else range(len(value.shape)))]
    open_axes = rewriter.open_axes(given.nodes[0])
    if not axes or set(axes) & set(open_axes):
        raise NotIntegerError("it is the largest over steps or samples")
    keep = bool(given.known[2]) if len(given.known) > 2 else bool(given.known_kwargs.get("keepdim", False))
    term, offset = comparable(rewriter, value, axes)
    node = rewriter.emitter.call(aten.amax.default, rewriter.emitter.typed(term, torch.int32).node, axes, keep)
    unit, low, high, rest = (v.expand(value.shape).amax(axes, keep) for v in (term.unit, term.low, term.high, offset))
    return Affine(tuple(unit.shape), (Term(node, unit, low, high, torch.int32),), rest)


def _compared(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """``maximum`` and ``minimum`` of two computed values."""
    a, b = _same_shape(rewriter, node, given.affine(0), given.affine(1))
    s, t = rewriter.emitter.single(a), rewriter.emitter.single(b)
    if not torch.equal(s.unit.expand(a.shape), t.unit.expand(a.shape)):
        found = rational_multiples(torch.stack([s.unit.expand(a.shape), t.unit.expand(a.shape)]))
        if found is None:
            raise NotIntegerError("it compares numbers that are not multiples of one unit")
        unit = torch.tensor(found[0], dtype=torch.float64).expand(a.shape)
        zero = torch.zeros_like(unit)
        s, t = (
            rewriter.emitter._merged(Affine(a.shape, (x,), zero), unit, torch.stack([m, zero]))
            for x, m in zip((s, t), found[1], strict=True)
        )
    if bool((s.unit < 0).any()):
        raise NotIntegerError("it compares values of negative units")
    choose = torch.maximum if node.target is aten.maximum.default else torch.minimum
    nodes = [rewriter.emitter.typed(x, torch.int32).node for x in (s, t)]
    term = Term(
        rewriter.emitter.call(node.target, *nodes), s.unit, choose(s.low, t.low), choose(s.high, t.high), torch.int32
    )
    return affine_of(rewriter.emitter.fitting(term), a.shape)


def _rectified(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """``relu`` of a value without offset."""
    value = given.affine(0)
    term = oriented(rewriter, rewriter.emitter.single(value))
    zero = rewriter.emitter.constant(torch.zeros((), dtype=torch.int32))
    node = rewriter.emitter.call(aten.maximum.default, rewriter.emitter.typed(term, torch.int32).node, zero)
    return affine_of(Term(node, term.unit, term.low.clamp_min(0), term.high.clamp_min(0), torch.int32), value.shape)


def _magnitude(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """``abs`` of a value without offset."""
    value = given.affine(0)
    term = rewriter.emitter.single(value)
    node = rewriter.emitter.call(aten.abs.default, rewriter.emitter.typed(term, torch.int32).node)
    high = torch.maximum(term.low.abs(), term.high.abs())
    return affine_of(Term(node, term.unit.abs(), torch.zeros_like(high), high, torch.int32), value.shape)


def _over_steps(rewriter: Rewriter, node: fx.Node, low: Tensor, high: Tensor, times: int) -> tuple[Tensor, Tensor]:
    """Return the range of sums of so many times as many numbers; beyond those steps they may be larger still."""
    if times == 1:
        return low, high
    rewriter.over_steps.add(node)
    # Beyond max_steps a sum may leave a byte, to which nothing must cut it then.
    low = torch.where(low < 0, low.clamp_max(-256 / times), low)
    high = torch.where(high > 0, high.clamp_min(256 / times), high)
    return torch.minimum(low, low * times), torch.maximum(high, high * times)


def _sum(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """A sum over some axes; one over all steps is bounded by the most steps that a file is proved for."""
    value = given.affine(0)
    rank = len(value.shape)
    axes = [a % rank for a in (given.known[1] or range(rank))]
    keep = bool(given.known[2]) if len(given.known) > 2 else bool(given.known_kwargs.get("keepdim", False))
    times = math.prod(rewriter.times_longer(given.nodes[0], axis) for axis in axes)
    if times > 1 and value.has_offset:
        raise NotIntegerError("it sums a constant over all steps")

    def summed(values: Tensor) -> Tensor:
        return values.expand(value.shape).sum(axes, keepdim=keep)

    parts = value.terms if all(uniform(t.unit, axes) for t in value.terms) else (rewriter.emitter.single(value, axes),)
    offset = value.offset if parts is value.terms else torch.zeros_like(value.offset)
    terms = []
    for term in parts:
        whole = rewriter.emitter.typed(term, torch.int32).node
        new = rewriter.emitter.call(aten.sum.dim_IntList, whole, axes, keep, dtype=torch.int32)
        unit = term.unit.expand(value.shape).amax(axes, keepdim=keep)
        low, high = _over_steps(rewriter, node, summed(term.low), summed(term.high), times)
        terms.append(rewriter.emitter.checked(Term(new, unit, low, high, torch.int32), "its sums"))
    result = summed(offset)
    return Affine(tuple(result.shape), tuple(terms), result)


def _matrix_product(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """Of two computed matrices, as in spiking attention."""
    if not all(isinstance(v, Affine) for v in given.known[:2]):
        raise NotIntegerError("it is multiplied by a float matrix")
    values = given.affine(0), given.affine(1)
    if any(len(v.shape) < 2 for v in values):
        raise NotIntegerError("it is a product with a vector")
    a, b = (rewriter.emitter.single(v, [axis]) for v, axis in zip(values, (-1, -2), strict=True))
    units = a.unit.expand(values[0].shape).amax(-1, keepdim=True), b.unit.expand(values[1].shape).amax(-2, keepdim=True)
    most = [torch.maximum(t.low.abs(), t.high.abs()).expand(v.shape) for t, v in zip((a, b), values, strict=True)]
    high = torch.matmul(*most)
    low = torch.zeros_like(high) if min(a.bounds[0], b.bounds[0]) >= 0 else -high
    # The numbers that are summed lie along the last axis of one and the last but one of the other.
    left, right = given.nodes[:2]
    times = rewriter.times_longer(left, len(values[0].shape) - 1)
    if rewriter.times_longer(right, len(values[1].shape) - 2) != times:
        raise NotIntegerError("it multiplies matrices whose lengths agree for some numbers of steps only")
    low, high = _over_steps(rewriter, node, low, high, times)
    a, b = rewriter.emitter.fitting(a), rewriter.emitter.fitting(b)
    if not a.dtype is b.dtype is torch.uint8:
        a, b = rewriter.emitter.typed(a, torch.int32), rewriter.emitter.typed(b, torch.int32)
    node = rewriter.emitter.call(_OURS.matmul_int.default, a.node, b.node)
    unit = (units[0] * units[1]).expand(high.shape)
    term = rewriter.emitter.checked(Term(node, unit, low, high, torch.int32), "its sums")
    return affine_of(term, high.shape)


Rule = Callable[["Rewriter", fx.Node, "Arguments"], Value]
#: By torch's operation, what it is in integers.
ARITHMETIC: dict[Any, Rule] = {
    aten.add.Tensor: _add,
    aten.add.Scalar: _add,
    aten.sub.Tensor: _subtract,
    aten.sub.Scalar: _subtract,
    aten.rsub.Scalar: _subtract_from,
    aten.mul.Tensor: _multiply,
    aten.mul.Scalar: _multiply,
    aten.div.Tensor: _divide,
    aten.div.Scalar: _divide,
    aten.neg.default: _negate,
    aten.abs.default: _magnitude,
    aten.relu.default: _rectified,
    aten.maximum.default: _compared,
    aten.minimum.default: _compared,
    aten.amax.default: _largest,
    aten.sum.dim_IntList: _sum,
    aten.matmul.default: _matrix_product,
    aten.bmm.default: _matrix_product,
    aten.mm.default: _matrix_product,
}
