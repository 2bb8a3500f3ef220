r"""What tokens go through between two products: chains of single operations, in pieces that stay in a cache.

One operation after the other over a whole text reads and writes memory each time, forward and backward, which takes as
long as the products. Here a piece of the tokens goes through a whole chain before the next one does. Every operation is
a single float32 one, in the order that the equations give, so the pieces make no difference to any bit. What a product
reads is put on its grid (:mod:`.exact`) and written in the type that it reads: under autocast that is bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from snn_extreme_quant.models.gpt.exact import PIECE, raised_sigmoid

__all__ = ["Grid", "added", "gated", "mixed", "squared"]


class Grid(NamedTuple):
    """What a product reads.

    Args:
        bits: places after the binary point.
        most: the bound.
        dtype: the type.
    """

    bits: int
    most: float
    dtype: torch.dtype = torch.float32

    def put(self, x: Tensor) -> Tensor:
        """Round in place to the nearest, ties to even, within the bound."""
        return x.mul_(2.0**self.bits).round_().mul_(2.0**-self.bits).clamp_(-self.most, self.most)

    def passed(self, gradient: Tensor, found: Tensor) -> Tensor:
        """Return the gradient where ``found`` is within the bound, else 0."""
        return _inside(gradient.float(), found.float(), self.most)


def _inside(gradient: Tensor, found: Tensor, most: float) -> Tensor:
    inside: Tensor = torch.ops.aten.hardtanh_backward(gradient, found, -most, most)
    return inside


def _type(grid: Grid | None) -> torch.dtype:
    return torch.float32 if grid is None else grid.dtype


def _passed(grid: Grid | None, gradient: Tensor, found: Tensor) -> Tensor:
    return gradient.float() if grid is None else grid.passed(gradient, found)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _pieces(rows: Tensor) -> Iterator[slice]:
    # Elsewhere each operation has to be started, and there is no cache to stay in.
    size = max(1, PIECE // rows.shape[1] if rows.device.type == "cpu" else len(rows))
    return (slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size))


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, first: Tensor, grids: Sequence[Grid | None], *shares: Tensor) -> Any:
        count = len(first)
        rows = _rows(torch.cat((first.unsqueeze(0), y)))
        now, before = rows[count:], rows[:-count]
        found = tuple(torch.empty(y.shape, dtype=_type(grid), device=y.device) for grid in grids)
        parts = [(s.flatten(), 1.0 - s.flatten(), _rows(f), g) for s, f, g in zip(shares, found, grids, strict=True)]
        for piece in _pieces(now):
            for share, rest, into, grid in parts:
                x = (now[piece] * share).add_(before[piece] * rest)
                into[piece] = x if grid is None else grid.put(x)
        ctx.grids, ctx.count = grids, count
        ctx.save_for_backward(rows, *shares, *found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, *saved = ctx.saved_tensors
        count, half = ctx.count, len(saved) // 2
        shares = saved[:half]
        now, before = rows[count:], rows[:-count]
        of_rows, of_shares = torch.zeros_like(rows), [torch.zeros_like(share).flatten() for share in shares]
        parts = [
            (share.flatten(), _rows(found), _rows(gradient), of_share, grid)
            for share, found, gradient, of_share, grid in zip(
                shares, saved[half:], gradients, of_shares, ctx.grids, strict=True
            )
        ]
        for piece in _pieces(now):
            change, total = now[piece] - before[piece], torch.zeros_like(now[piece])
            here = of_rows[count + piece.start : count + piece.stop]
            for share, found, gradient, of_share, grid in parts:
                given = _passed(grid, gradient[piece], found[piece])
                of_share.add_((given * change).sum(0))
                total += given
                here.addcmul_(given, share)
            # What is not this token's share is that of the token before.
            of_rows[piece] += total.sub_(here)
        of_y, of_first = of_rows[count:].view(gradients[0].shape), of_rows[:count]
        return of_y, of_first, None, *(o.view_as(s) for o, s in zip(of_shares, shares, strict=True))


def mixed(
    y: Tensor, first: Tensor, shares: Sequence[Tensor], grids: Sequence[Grid | None] | None = None
) -> tuple[Tensor, ...]:
    r"""Return :math:`y_t \mu + y_{t-1} (1 - \mu)` for some shares :math:`\mu`.

    Args:
        y: ``(T, B, d)``.
        first: what was before the first token, ``(B, d)``.
        shares: of d numbers each.
        grids: for each, what the result is put on; None: nothing.

    Returns:
        As many as shares, ``(T, B, d)``.

    Example:
        >>> y = torch.tensor([1.0, 2.0]).view(2, 1, 1)
        >>> mixed(y, torch.zeros(1, 1), [torch.tensor([0.75])])[0].flatten().tolist()
        [0.75, 1.75]
    """
    given = [None] * len(shares) if grids is None else grids
    return cast("tuple[Tensor, ...]", _Mixed.apply(y, first, given, *shares))  # type: ignore[no-untyped-call]


class _Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid | None) -> Tensor:
        found = torch.empty(x.shape, dtype=_type(grid), device=x.device)
        rows, into = _rows(x), _rows(found)
        for piece in _pieces(rows):
            part = rows[piece].float().clamp_min(0.0)
            part.mul_(part)
            into[piece] = part if grid is None else grid.put(part)
        ctx.grid = grid
        ctx.save_for_backward(x, found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, found = ctx.saved_tensors
        of_x = torch.empty_like(x)
        rows, results, given, into = (_rows(part) for part in (x, found, gradients[0], of_x))
        for piece in _pieces(rows):
            slope = rows[piece].float().clamp_min(0.0).mul_(2.0)
            into[piece] = slope.mul_(_passed(ctx.grid, given[piece], results[piece]))
        return of_x, None


def squared(x: Tensor, grid: Grid | None = None) -> Tensor:
    """Return the square of what is above 0, on a grid.

    Example:
        >>> squared(torch.tensor([[-1.0, 3.0]])).tolist()
        [[0.0, 9.0]]
    """
    found: Tensor = _Squared.apply(x, grid)  # type: ignore[no-untyped-call]
    return found


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, grid: Grid | None) -> Tensor:
        found = torch.empty(value.shape, dtype=_type(grid), device=value.device)
        gate = torch.empty(value.shape, device=value.device)
        rows = tuple(_rows(part) for part in (x, value, gate, found))
        for piece in _pieces(rows[0]):
            of, given, opened, into = (part[piece] for part in rows)
            raised_sigmoid(of.float(), opened)
            part = opened * given
            into.copy_(part if grid is None else grid.put(part))
        ctx.grid, ctx.dtype = grid, x.dtype
        ctx.save_for_backward(value, gate, found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        value, gate, found = ctx.saved_tensors
        of_x, of_value = torch.empty(value.shape, dtype=ctx.dtype, device=value.device), torch.empty_like(value)
        rows = tuple(_rows(part) for part in (value, gate, found, gradients[0], of_x, of_value))
        for piece in _pieces(rows[0]):
            given, opened, result, gradient, into_x, into_value = (part[piece] for part in rows)
            passed = _passed(ctx.grid, gradient, result)
            into_value.copy_(passed * opened)
            into_x.copy_((opened - opened * opened).mul_(passed).mul_(given))
        return of_x, of_value, None


def gated(x: Tensor, value: Tensor, grid: Grid | None = None) -> Tensor:
    """Return ``sigmoid(x) * value``, on a grid.

    Example:
        >>> gated(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])).tolist()
        [[1.5, 2.0]]
    """
    found: Tensor = _Gated.apply(x, value, grid)  # type: ignore[no-untyped-call]
    return found


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor, most: float) -> Tensor:
        found = (x + other).clamp_(-most, most)
        ctx.most = most
        ctx.save_for_backward(found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (found,) = ctx.saved_tensors
        passed = _inside(gradients[0], found, ctx.most)
        return passed, passed, None


def added(x: Tensor, other: Tensor, most: float) -> Tensor:
    """Return the sum of numbers that are on one grid, between -most and most: it is on the grid too.

    Example:
        >>> added(torch.tensor([1.5, 8.0]), torch.ones(2), 8.0).tolist()
        [2.5, 8.0]
    """
    found: Tensor = _Added.apply(x, other, most)  # type: ignore[no-untyped-call]
    return found
