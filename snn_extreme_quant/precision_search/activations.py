"""What modules of a model were given and gave, kept within a number of bytes."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["Call", "Calls", "Store", "UnfitError"]

#: What is compared with ==; of anything else nobody can say whether it is what it was.
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class UnfitError(Exception):
    """A module's calls cannot be given back; says why."""


@dataclass(frozen=True)
class _Kept:
    """A tensor as it was: nobody has written to it while its version is the same."""

    tensor: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> _Kept:
        if tensor.is_inference():
            raise UnfitError("evaluate() runs in inference mode, where nobody can tell whether a tensor changed")
        if tensor.requires_grad and not tensor.is_leaf:
            raise UnfitError("evaluate() computes gradients")
        return cls(tensor, tensor._version)

    @property
    def intact(self) -> bool:
        return self.tensor._version == self.version


def _kept(leaves: Sequence[Any]) -> list[Any]:
    for leaf in leaves:
        if not isinstance(leaf, (Tensor, *_PLAIN)):
            raise UnfitError(f"a {type(leaf).__name__} goes in or out, which cannot be compared")
    return [_Kept.of(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same, NaN and the sign of 0 included.

    Example:
        >>> same_bits(torch.tensor([0.0]), torch.tensor([-0.0])), same_bits(torch.tensor([3]), torch.tensor([3]))
        (False, True)
    """
    if one is other:
        return True
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    if one.layout != torch.strided or other.layout != torch.strided:
        return False
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True  # both are alive: it is the same memory
    one, other = (part.detach().as_subclass(Tensor) for part in (one, other))
    if one.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
    kind = _BITS[one.element_size()]
    return torch.equal(one.view(kind), other.view(kind))


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, _Kept):
        return isinstance(new, Tensor) and old.intact and same_bits(old.tensor, new)
    return type(old) is type(new) and bool(old == new)


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Args:
        given: what it was given, flat.
        form: of that.
        result: what it gave, flat.
        result_form: of that.
        changed: what dictionaries that it was given held afterwards, by their place among the arguments.
    """

    given: Sequence[Any]
    form: pytree.TreeSpec
    result: Sequence[Any]
    result_form: pytree.TreeSpec
    changed: Mapping[int | str, Mapping[Any, Any]]

    @classmethod
    def made(cls, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call | None, Any, str]:
        """Call a function; returns the call, or None and the reason why it cannot be given back, and the result."""
        try:
            leaves, form = pytree.tree_flatten((args, kwargs))
            given = _kept(leaves)
            held = {place: dict(value) for place, value in _dictionaries(args, kwargs)}
        except UnfitError as error:
            return None, function(*args, **kwargs), str(error)
        found = function(*args, **kwargs)
        try:
            result, result_form = pytree.tree_flatten(found)
            changed = {
                place: dict(zip(value, _kept([*value.values()]), strict=True))
                for place, value in _dictionaries(args, kwargs)
                if list(value) != list(held[place]) or any(value[key] is not held[place][key] for key in value)
            }
            _check_untouched(leaves, given, args, kwargs, changed)
            return cls(given, form, _kept(result), result_form, changed), found, ""
        except UnfitError as error:
            return None, found, str(error)

    def fits(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a module is given what it was given then."""
        leaves, form = pytree.tree_flatten((args, kwargs))
        return form == self.form and all(map(_same, self.given, leaves))

    def again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what the module gave then, and change dictionaries as it did."""
        for place, after in self.changed.items():
            held = args[place] if isinstance(place, int) else kwargs[place]
            held.clear()
            held.update(zip(after, map(_bare, after.values()), strict=True))
        return pytree.tree_unflatten([*map(_bare, self.result)], self.result_form)

    def was_given(self, other: Call) -> bool:
        """Whether another call was given the same."""
        return self.form == other.form and all(map(_same, self.given, map(_bare, other.given)))

    def gave(self, other: Call) -> bool:
        """Whether another call gave the same."""
        if self.result_form != other.result_form or list(self.changed) != list(other.changed):
            return False
        ours, theirs = ([*call.result, *call._after()] for call in (self, other))
        return len(ours) == len(theirs) and all(map(_same, ours, map(_bare, theirs)))

    @property
    def intact(self) -> bool:
        """Whether nobody has written to what is kept."""
        return all(leaf.intact for leaf in self._leaves() if isinstance(leaf, _Kept))

    def tensors(self) -> Iterator[Tensor]:
        """Yield all that is kept."""
        return (leaf.tensor for leaf in self._leaves() if isinstance(leaf, _Kept))

    def storages(self) -> dict[int, int]:
        """Return the bytes of all memory that is held, by its address."""
        held = [tensor.untyped_storage() for tensor in self.tensors()]
        return {storage.data_ptr(): storage.nbytes() for storage in held}

    def _after(self) -> Iterator[Any]:
        return (leaf for value in self.changed.values() for leaf in value.values())

    def _leaves(self) -> Iterator[Any]:
        return itertools.chain(self.given, self.result, self._after())


def _bare(leaf: Any) -> Any:
    return leaf.tensor if isinstance(leaf, _Kept) else leaf


def _dictionaries(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[int | str, dict[Any, Any]]]:
    places: Iterator[tuple[int | str, Any]] = iter([*enumerate(args), *kwargs.items()])
    return ((place, value) for place, value in places if isinstance(value, dict))


def _check_untouched(
    before: Sequence[Any],
    given: Sequence[Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    changed: Mapping[int | str, Any],
) -> None:
    """Raise if a call changed what it was given, but for dictionaries that are arguments themselves."""
    if not all(leaf.intact for leaf in given if isinstance(leaf, _Kept)):
        raise UnfitError("it writes to its inputs")
    others = [value for place, value in enumerate(args) if place not in changed]
    others += [value for place, value in kwargs.items() if place not in changed]
    known = {id(leaf) for leaf in before}
    if any(id(leaf) not in known for leaf in pytree.tree_leaves(others) if isinstance(leaf, Tensor)):
        raise UnfitError("it changes lists that it is given")


@dataclass
class Calls:
    """The calls of a module in one round.

    Args:
        precisions: of all matrices at that time.
        calls: in their order.
    """

    precisions: tuple[int, ...]
    calls: list[Call] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Whether nobody has written to what is kept."""
        return all(call.intact for call in self.calls)

    def storages(self) -> dict[int, int]:
        """Return the bytes of all memory that is held, by its address."""
        return {address: size for call in self.calls for address, size in call.storages().items()}


class Store:
    """Calls by key; those that were not used for the longest time make room for others.

    Args:
        room: bytes.

    Example:
        >>> store, x = Store(24), torch.ones(2)
        >>> for key in "abc":  # 8 bytes each, and those of x
        ...     call, _, _ = Call.made(lambda x: x + 1, (x,), {})
        ...     store.put(key, Calls((), [call]))
        >>> store.get("a") is None, store.get("c") is None, store.used
        (True, False, 24)
    """

    def __init__(self, room: float) -> None:
        """Begin empty."""
        self.room, self.used = room, 0
        self._held: OrderedDict[Hashable, tuple[Calls, dict[int, int]]] = OrderedDict()
        self._counts: dict[int, int] = {}

    def get(self, key: Hashable) -> Calls | None:
        """Return calls; they are the last to go from now on."""
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: Hashable, calls: Calls) -> None:
        """Keep calls; memory that several of them hold counts once."""
        self.drop(key)
        storages = calls.storages()
        self._held[key] = (calls, storages)
        for address, size in storages.items():
            if address not in self._counts:
                self.used += size
            self._counts[address] = self._counts.get(address, 0) + 1
        while self.used > self.room and self._held:
            self.drop(next(iter(self._held)))

    def drop(self, key: Hashable) -> None:
        """Forget calls."""
        _, storages = self._held.pop(key, (None, {}))
        for address, size in storages.items():
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]
                self.used -= size

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()
        self._counts.clear()
        self.used = 0
