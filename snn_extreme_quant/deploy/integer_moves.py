"""What integer graphs make of operations that move and join elements."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from .integer_emission import NotIntegerError
from .integer_values import Affine, Constant, Term, Value

if TYPE_CHECKING:
    from .integer_rewriting import Arguments, Rewriter

__all__ = ["IDENTITIES", "JOINS", "MOVES", "join", "move", "pad"]

aten = torch.ops.aten
_OURS = torch.ops.snn_xq

#: Give their first argument.
IDENTITIES = {
    aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default, aten.dropout.default,
    aten.feature_dropout.default, aten.lift_fresh_copy.default,
}  # fmt: skip
#: Each element of the result is one of the first argument's.
MOVES = {
    aten.flatten.using_ints, aten.unflatten.int, aten.view.default, aten.reshape.default, aten.permute.default,
    aten.transpose.int, aten.movedim.int, aten.squeeze.dim, aten.squeeze.default, aten.squeeze.dims,
    aten.unsqueeze.default, aten.expand.default, aten.repeat.default, aten.select.int, aten.slice.Tensor,
    aten.unbind.int, aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.narrow.default,
    aten.flip.default, aten.swapaxes.default, aten.mT.default, aten.numpy_T.default, aten.t.default,
    aten._unsafe_view.default, _OURS.transpose.default,
}  # fmt: skip
JOINS = {aten.cat.default, aten.concat.default, aten.stack.default}


def move(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """Move the integers of each term, and units, ranges and offset with them."""
    value = given.affine(0)
    rest, kwargs = given.known[1:], given.known_kwargs
    target: Any = node.target

    def moved(values: Tensor) -> Any:
        return target(values.expand(value.shape).contiguous(), *rest, **kwargs)

    offsets = moved(value.offset)
    moves = [(t, given.again(t.node), moved(t.unit), moved(t.low), moved(t.high)) for t in value.terms]
    if isinstance(offsets, Tensor):
        return Affine(tuple(offsets.shape), tuple(Term(n, u, a, b, t.dtype) for t, n, u, a, b in moves), offsets)
    call = rewriter.emitter.call
    return tuple(
        Affine(
            tuple(offset.shape),
            tuple(Term(call(operator.getitem, n, i), u[i], a[i], b[i], t.dtype) for t, n, u, a, b in moves),
            offset,
        )
        for i, offset in enumerate(offsets)
    )


def pad(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """Pad with zeros: integers with 0, which needs a value without offset; copies of elements are moves."""
    mode = given.known_kwargs.get(
        "mode", given.known[2] if node.target is aten.pad.default and len(given.known) > 2 else "constant"
    )
    filled = [v for v in (*given.known[2:], *given.known_kwargs.values()) if isinstance(v, (int, float))]
    if mode != "constant" or (not given.affine(0).has_offset and not any(filled)):
        return move(rewriter, node, given)
    if any(filled):
        raise NotIntegerError(f"it is padded with {filled[0]}")
    term = rewriter.emitter.single(given.affine(0))
    return move(rewriter, node, given.replaced(0, affine_of(term, given.affine(0).shape)))


def affine_of(term: Term, shape: Sequence[int]) -> Affine:
    """Return the value that is one term."""
    return Affine(tuple(shape), (term,), torch.zeros((), dtype=torch.float64).expand(tuple(shape)))


def join(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """Join term by term; units are those of the parts."""
    parts = given.known[0]
    if not all(isinstance(part, (Affine, Constant)) for part in parts):
        raise NotIntegerError("real numbers are among what it joins")
    if not all(isinstance(part, Affine) for part in parts):
        raise NotIntegerError("it joins computed values and constants")
    count = max(len(part.terms) for part in parts)
    target: Any = node.target
    rest = given.known[1:]

    def joined(values: Sequence[Tensor]) -> Tensor:
        return target([v.expand(p.shape) for v, p in zip(values, parts, strict=True)], *rest, **given.known_kwargs)  # type: ignore[no-any-return]

    if any(len(part.terms) != count for part in parts):
        parts = [affine_of(rewriter.emitter.single(part), part.shape) for part in parts]
        count = 1
    offset = joined([part.offset for part in parts])
    terms = []
    for index in range(count):
        group = [part.terms[index] for part in parts]
        kinds = {t.dtype for t in group}
        if len(kinds) > 1:
            group = [rewriter.emitter.typed(t, torch.int32) for t in group]
        new = rewriter.emitter.call(target, [t.node for t in group], *rest, **given.known_kwargs)
        unit, low, high = (joined([getattr(t, name) for t in group]) for name in ("unit", "low", "high"))
        terms.append(Term(new, unit, low, high, group[0].dtype))
    return Affine(tuple(offset.shape), tuple(terms), offset)
