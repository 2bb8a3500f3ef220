"""Modules whose calls can be given back: which there are, in which order they run, and what comes before each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

__all__ = ["Unit", "attached", "calls_of", "units_of"]


@dataclass(frozen=True)
class Unit:
    """A module that is computed as a whole.

    Args:
        name: in the model.
        before: the matrices that run before it, and its own.
    """

    name: str
    before: frozenset[str]


class _Listener(Protocol):
    def __call__(self, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


class _Forward:
    """Stands for a module's ``forward`` and tells a listener; copies of the module get its class's own."""

    def __init__(self, module: nn.Module, name: str, listener: _Listener) -> None:
        self.module, self.name, self.listener = module, name, listener
        self.function = module.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.listener(self.name, self.function, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copied module is in the memo before its attributes are.
        module = memo[id(self.module)]
        return partial(type(module).forward, module)


@contextmanager
def attached(model: nn.Module, names: Iterable[str], listener: _Listener) -> Iterator[None]:
    """Let calls of some modules go through a listener."""
    found = [(name, model.get_submodule(name)) for name in names]
    before = [(module, module.__dict__.get("forward")) for _, module in found]
    try:
        for name, module in found:
            module.__dict__["forward"] = _Forward(module, name, listener)
        yield
    finally:
        for module, own in before:
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


@contextmanager
def calls_of(model: nn.Module, matrices: Iterable[str]) -> Iterator[list[str]]:
    """Note the names of modules as they are called; modules inside of matrices are left out."""
    called: list[str] = []
    layers = tuple(f"{name}." for name in matrices)
    names = [
        name
        for name, module in model.named_modules()
        if name and not name.startswith(layers) and not isinstance(module, torch.jit.ScriptModule)
    ]

    def note(name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        called.append(name)
        return function(*args, **kwargs)

    with attached(model, names, note):
        yield called


def units_of(model: nn.Module, matrices: Iterable[str], blocks: Iterable[str], called: list[str]) -> list[Unit]:
    """Choose units, in the order in which they are called first.

    A block is one, outside of blocks a matrix, or what holds no matrix; of modules that are never called themselves,
    what is inside of them. Without matrices, what is called more often than what runs before it has no one place (an
    activation that all layers share), and is none.

    Args:
        model: of float.
        matrices: names of its layers.
        blocks: names of its blocks.
        called: names of modules as they were called in an evaluation.
    """
    layers, known = frozenset(matrices), frozenset(called)
    chosen = [*_chosen(model, "", layers, frozenset(blocks), known)]
    held = {name: frozenset(each for each in layers if each == name or each.startswith(f"{name}.")) for name in chosen}
    counts = Counter(name for name in called if name in held)
    found, before, usual = [], frozenset[str](), math.inf
    for name, count in counts.items():  # in the order of their first calls
        before |= held[name]
        if held[name] or count <= usual:
            found.append(Unit(name, before))
            usual = count
    return found


def _chosen(
    module: nn.Module, path: str, matrices: frozenset[str], blocks: frozenset[str], called: frozenset[str]
) -> Iterator[str]:
    inside = f"{path}." if path else ""
    whole = path in matrices or path in blocks or not any(name.startswith(inside) for name in matrices)
    if path in called and whole:
        yield path
    elif path not in matrices:
        for key, child in module.named_children():
            yield from _chosen(child, f"{inside}{key}", matrices, blocks, called)
