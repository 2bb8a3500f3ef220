"""What an operation of a recorded graph is given, as its rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import fx

from snn_extreme_quant.deploy.integer.emission import NotIntegerError
from snn_extreme_quant.deploy.integer.values import Affine, Real, Size, Value

__all__ = ["Arguments", "mapped"]


@dataclass(frozen=True)
class Arguments:
    """What an operation is given.

    Args:
        values: its arguments, nodes replaced by values.
        kwargs: the same.
        nodes: those arguments that are nodes of the recorded graph.
        call: adds an operation to the integer graph.
        target: the operation.
    """

    values: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    nodes: tuple[fx.Node, ...]
    call: Callable[..., fx.Node]
    target: Any

    @property
    def known(self) -> tuple[Any, ...]:
        """The arguments with lengths as numbers, open axes being 1."""
        return cast("tuple[Any, ...]", mapped(self.values, lambda v: v.value if isinstance(v, Size) else v))

    @property
    def known_kwargs(self) -> dict[str, Any]:
        """The keyword arguments, likewise."""
        return {k: mapped(v, lambda w: w.value if isinstance(w, Size) else w) for k, v in self.kwargs.items()}

    def affine(self, index: int) -> Affine:
        """Return an argument that is known as integers.

        Raises:
            NotIntegerError: it is not.
        """
        value = self.values[index]
        if not isinstance(value, Affine):
            raise NotIntegerError("it is computed from real numbers" if isinstance(value, Real) else "it is a constant")
        return value

    def again(self, first: fx.Node) -> fx.Node:
        """Add the same operation with another first argument."""

        def emitted(value: Any) -> Any:
            return value.node if isinstance(value, Size) else value

        rest = mapped(self.values[1:], emitted)
        return self.call(self.target, first, *rest, **{k: mapped(v, emitted) for k, v in self.kwargs.items()})

    def replaced(self, index: int, value: Value) -> Arguments:
        """Return the arguments with another value in one place."""
        values = list(self.values)
        values[index] = value
        return replace(self, values=tuple(values))


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Change the leaves of lists and tuples; those of values are no leaves."""
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return (
            type(value)([mapped(v, change) for v in value])
            if type(value) in (list, tuple)
            else [mapped(v, change) for v in value]
        )
    return change(value)
