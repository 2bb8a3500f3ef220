"""Changes of shape of one time step, done to all steps of a tensor ``(T, B, ...)`` at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["moved"]


def _behind(axis: int) -> int:
    """Return where an axis of one step is, behind the axis of time; counted from the end it stays."""
    return axis + 1 if axis >= 0 else axis


def _all(values: Sequence[Any]) -> list[Any]:
    """Return the numbers given one by one or in one list."""
    return list(values[0]) if len(values) == 1 and isinstance(values[0], (list, tuple)) else list(values)


def _axes(value: Any) -> Any:
    return [_behind(a) for a in value] if isinstance(value, (list, tuple)) else _behind(value)


def _flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    # One step of no axes becomes one of one.
    return x.unsqueeze(-1) if x.dim() == 1 else x.flatten(_behind(start_dim), _behind(end_dim))


def _reshape(x: Tensor, *shape: Any) -> Tensor:
    return x.reshape(x.shape[0], *_all(shape))


def _permute(x: Tensor, *dims: Any) -> Tensor:
    rank = x.dim() - 1
    return x.permute(0, *(axis % rank + 1 for axis in _all(dims)))


def _transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    return x.transpose(_behind(dim0), _behind(dim1))


def _squeeze(x: Tensor, dim: Any = None) -> Tensor:
    if dim is None:
        dim = [axis for axis in range(x.dim() - 1) if x.shape[axis + 1] == 1]
    axes = dim if isinstance(dim, (list, tuple)) else [dim]
    return x.squeeze(tuple(_behind(a) for a in axes)) if axes else x.clone()


#: By the function's name: what it does to all steps. Lengths that torch calls ``shape`` come one by one or in a list.
_MOVES: dict[str, Callable[..., Any]] = {
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.contiguous(),
    "detach": lambda x: x.detach(),
    "flatten": _flatten,
    "reshape": _reshape,
    "view": _reshape,
    "unflatten": lambda x, dim, sizes: x.unflatten(_behind(dim), sizes),
    "permute": _permute,
    "transpose": _transpose,
    "swapaxes": _transpose,
    "swapdims": _transpose,
    "movedim": lambda x, source, destination: x.movedim(_axes(source), _axes(destination)),
    "unsqueeze": lambda x, dim: x.unsqueeze(_behind(dim)),
    "squeeze": _squeeze,
    "narrow": lambda x, dim, start, length: x.narrow(_behind(dim), start, length),
    "select": lambda x, dim, index: x.select(_behind(dim), index),
    "chunk": lambda x, chunks, dim=0: x.chunk(chunks, _behind(dim)),
    "split": lambda x, split_size, dim=0: x.split(split_size, _behind(dim)),
    "unbind": lambda x, dim=0: x.unbind(_behind(dim)),
    "cat": lambda values, dim=0: torch.cat(values, _behind(dim)),
    "concat": lambda values, dim=0: torch.cat(values, _behind(dim)),
    "concatenate": lambda values, dim=0: torch.cat(values, _behind(dim)),
    "stack": lambda values, dim=0: torch.stack(values, _behind(dim)),
}
_NUMBERS = (int, torch.SymInt, list, tuple)


def moved(name: str, x: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Do torch's function ``name`` to every step of ``x``, or to several such tensors to be joined.

    Returns:
        What it gives for all steps; None if the function does more than to change the shape.

    Example:
        >>> moved("flatten", torch.zeros(4, 2, 3, 5), [1], {}).shape
        torch.Size([4, 2, 15])
    """
    move = _MOVES.get(name)
    if move is None or not all(isinstance(a, _NUMBERS) for a in (*args, *kwargs.values())):
        return None
    return move(x, *args, **kwargs)
