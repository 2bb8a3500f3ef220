"""What integer graphs make of operations that move and join elements."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.integer.emission import NotIntegerError
from snn_extreme_quant.deploy.integer.values import Affine, Constant, Term, Value, uniform

if TYPE_CHECKING:
    from snn_extreme_quant.deploy.integer.rewriting import Arguments, Rewriter

__all__ = ["IDENTITIES", "JOINS", "MOVES", "join", "move", "pad", "settled"]

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
#: Give parts of their first argument along the axis that is their last.
_PARTS = {
    aten.unbind.int: 1, aten.split.Tensor: 2, aten.split_with_sizes.default: 2, aten.chunk.default: 2,
}  # fmt: skip


def settled(rewriter: Rewriter, node: fx.Node, value: Affine, *, always: bool = False) -> Affine:
    """Return a value whose units, ranges and offset hold for any number of steps and samples.

    An open axis of length 1 stands for all steps or samples. Where a move joins one with another axis, or takes a part
    of it, what is known of its elements is known of no others: along that axis all must be of one unit, and have the
    range of all.

    Args:
        rewriter: the graph.
        node: the value in the recorded graph.
        value: what was found of it.
        always: also if only moves read it, which may take the axis apart again.

    Raises:
        NotIntegerError: they are not of one unit.
    """
    axes = [axis for axis in rewriter.open_axes(node) if value.shape[axis] != 1]
    if any(value.shape[axis] == 0 for axis in axes):
        if node.target is aten.slice.Tensor and node.args[1:] == (0, 0, -1):  # of a folded loop
            raise NotIntegerError("it takes values of the step before; in the first step zeros must stand for them")
        raise NotIntegerError("it takes some of the steps or samples only")
    readers = {user.target for user in node.users}
    if not axes or (not always and readers <= MOVES | IDENTITIES | {aten.sym_size.int}):
        return value
    if not all(
        uniform(v.expand(value.shape), [a]) for v in (value.offset, *(t.unit for t in value.terms)) for a in axes
    ):
        raise NotIntegerError(
            "steps or samples share an axis with values of different scales or biases; leave them an axis of their own"
        )
    terms = [
        replace(
            t,
            low=t.low.expand(value.shape).amin(axes, keepdim=True).expand(value.shape),
            high=t.high.expand(value.shape).amax(axes, keepdim=True).expand(value.shape),
        )
        for t in value.terms
    ]
    return replace(value, terms=tuple(terms))


def _within_steps(rewriter: Rewriter, node: fx.Node, given: Arguments) -> None:
    """Refuse to take parts along an axis of which only one element is known."""
    index = _PARTS.get(cast("Any", node.target))
    if index is None:
        return
    axis = given.known[index] if len(given.known) > index else given.known_kwargs.get("dim", 0)
    if axis % len(given.affine(0).shape) in rewriter.open_axes(given.nodes[0]):
        raise NotIntegerError("it takes steps or samples apart")
    settled(rewriter, given.nodes[0], given.affine(0), always=True)


def move(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """Move the integers of each term, and units, ranges and offset with them."""
    value = given.affine(0)
    rest, kwargs = given.known[1:], given.known_kwargs
    target: Any = node.target
    _within_steps(rewriter, node, given)

    def moved(values: Tensor) -> Any:
        return target(values.expand(value.shape).contiguous(), *rest, **kwargs)

    try:
        offsets = moved(value.offset)
    except (IndexError, RuntimeError) as error:
        if not rewriter.open_axes(given.nodes[0]):
            raise
        # What moves elements of several steps or samples need not have a meaning for one.
        raise NotIntegerError("where its elements go depends on the number of steps or samples") from error
    moves = [(t, given.again(t.node), moved(t.unit), moved(t.low), moved(t.high)) for t in value.terms]
    if isinstance(offsets, Tensor):
        terms = tuple(Term(n, u, a, b, t.dtype) for t, n, u, a, b in moves)
        return settled(rewriter, node, Affine(tuple(offsets.shape), terms, offsets))
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
    rank, padded = len(given.affine(0).shape), range(len(given.known[1]) // 2)
    if any(
        rank - 1 - i in rewriter.open_axes(given.nodes[0]) and any(given.known[1][2 * i : 2 * i + 2]) for i in padded
    ):
        raise NotIntegerError("it adds steps or samples")
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


def _a_step_later(rewriter: Rewriter, node: fx.Node, parts: Sequence[Value]) -> Affine | None:
    """A value of all steps, one step later behind zeros: what a folded loop has for values of the step before.

    It is one of the steps of that value in each step, or 0; so its units are that value's.
    """
    behind = cast("Sequence[fx.Node]", node.args[0])[-1]
    if node.target is not aten.cat.default or len(parts) != 2 or behind.target is not aten.slice.Tensor:
        return None
    source = cast("fx.Node", behind.args[0])
    value, first, axes = rewriter.values[source], parts[0], rewriter.open_axes(source)
    zeros = isinstance(first, Constant) and first.value.shape[0] == 1 and not bool(first.value.any())
    if behind.args[1:] != (0, 0, -1) or (*node.args, 0)[1] != 0 or axes.get(0) != "T" or not zeros:
        return None
    if not isinstance(value, Affine) or value.shape[0] != 1 or value.has_offset:
        return None
    call, terms = rewriter.emitter.call, []
    for term in value.terms:
        begin = rewriter.emitter.constant(torch.zeros(value.shape, dtype=term.dtype))
        sizes = [
            call(aten.sym_size.int, term.node, axis) if axis in axes and axis else -1
            for axis in range(len(value.shape))
        ]
        whole = call(
            aten.cat.default, [call(aten.expand.default, begin, sizes), call(aten.slice.Tensor, term.node, 0, 0, -1)], 0
        )
        terms.append(replace(term, node=whole, low=term.low.clamp(max=0), high=term.high.clamp(min=0)))
    return replace(value, terms=tuple(terms))


def join(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """Join term by term; units are those of the parts."""
    parts = given.known[0]
    later = _a_step_later(rewriter, node, parts)
    if later is not None:
        return later
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
    return settled(rewriter, node, Affine(tuple(offset.shape), tuple(terms), offset), always=True)
