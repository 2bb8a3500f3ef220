"""Named things that anybody may add to, loaded when first asked for.

A :class:`Registry` maps a name to an object or to where the object is (``"package.module:attribute"``). A name that
is taken twice is an error that names both owners; a name that is not there is an error that suggests the nearest.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from snn_extreme_quant.errors import RegistryError

__all__ = ["Registry", "suggest"]

T = TypeVar("T")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a sentence for the end of an error message: the nearest known names, or all of them if few.

    Example:
        >>> suggest("ternry", ["binary", "ternary"])
        "Did you mean 'ternary'?"
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return "Did you mean " + " or ".join(repr(n) for n in near) + "?"
    if not known:
        return "Nothing is known."
    shown = ", ".join(known[:12]) + (f", ... ({len(known)} in all)" if len(known) > 12 else "")
    return f"Known: {shown}."


@dataclass(frozen=True)
class _Entry(Generic[T]):
    value: T | str
    origin: str
    lazy: bool


class Registry(Generic[T]):
    """A mapping from names to objects of one kind.

    Args:
        kind: what the entries are, in the singular, for error messages (``"quantiser"``).

    Example:
        >>> paths: Registry[object] = Registry("path type")
        >>> paths.register_lazy("posix", "pathlib:PurePosixPath", origin="standard library")
        >>> paths.get("posix").__name__
        'PurePosixPath'
    """

    def __init__(self, kind: str) -> None:
        """Create an empty registry of ``kind``."""
        self.kind = kind
        self._entries: dict[str, _Entry[T]] = {}

    def register(self, name: str, value: T, *, origin: str) -> None:
        """Add ``value`` under ``name``; ``origin`` says whose it is. A taken name raises :class:`RegistryError`."""
        self._add(name, _Entry(value, origin, lazy=False))

    def register_lazy(self, name: str, where: str, *, origin: str) -> None:
        """Add the object found at ``where`` (``"package.module:attribute"``), imported when first asked for."""
        if where.count(":") != 1:
            raise RegistryError(f"{self.kind} {name!r}: {where!r} is not of the form 'package.module:attribute'.")
        self._add(name, _Entry(where, origin, lazy=True))

    def _add(self, name: str, entry: _Entry[T]) -> None:
        taken = self._entries.get(name)
        if taken is not None:
            raise RegistryError(
                f"{self.kind} {name!r} is registered by {taken.origin} and again by {entry.origin}; rename one of them."
            )
        self._entries[name] = entry

    def get(self, name: str) -> T:
        """Return the object called ``name``; an unknown name raises :class:`RegistryError` with suggestions."""
        entry = self._entries.get(name)
        if entry is None:
            raise RegistryError(f"No {self.kind} is called {name!r}. {suggest(name, self._entries)}")
        if not entry.lazy:
            return cast("T", entry.value)
        module, _, attribute = cast("str", entry.value).partition(":")
        try:
            value = cast("T", getattr(importlib.import_module(module), attribute))
        except (ImportError, AttributeError) as error:
            raise RegistryError(f"{self.kind} {name!r} of {entry.origin} cannot be loaded: {error}.") from error
        self._entries[name] = _Entry(value, entry.origin, lazy=False)
        return value

    def origin(self, name: str) -> str:
        """Return who registered ``name``."""
        self.get(name)
        return self._entries[name].origin

    def __contains__(self, name: object) -> bool:
        """Whether ``name`` is registered; nothing is loaded."""
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in order of registration."""
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._entries)
