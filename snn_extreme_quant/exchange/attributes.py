"""Whether a model's forward() writes into its modules, which no graph of layers and neurons carries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["Attributes"]

_ABSENT = object()


def _slots(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the dictionaries and lists that hold a module's attributes: its own, and those one level down by name."""
    own = vars(module)
    yield "", own
    yield from ((name, value) for name, value in own.items() if isinstance(value, (dict, list)))


def _items(slot: Any) -> dict[Any, Any]:
    return dict(slot) if isinstance(slot, dict) else dict(enumerate(slot))


def _same(tensor: Tensor, copy: Tensor) -> bool:
    if tensor.is_meta or tensor.shape != copy.shape:
        return tensor.shape == copy.shape
    return bool(((tensor == copy) | (tensor.isnan() & copy.isnan())).all())


class Attributes:
    """The attributes of a model's modules at one moment: parameters, buffers, memories of neurons, and all else.

    Attributes are compared as objects: a state that is written may well be equal to the one before (0.9 times 0).

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1))
        >>> before = Attributes(net)
        >>> net[0].calls = 1
        >>> before.changed()
        ['0.calls']
        >>> before.restore()
        >>> hasattr(net[0], "calls")
        False
    """

    def __init__(self, model: nn.Module) -> None:
        """Remember what the modules hold."""
        self._slots: list[tuple[str, str, Any, dict[Any, Any]]] = []
        self._marks: list[tuple[Any, Any, float]] = []
        self._tensors: dict[int, tuple[Tensor, int, Tensor]] = {}
        for name, module in model.named_modules():
            for attribute, slot in _slots(module):
                self._mark(slot)
                items = _items(slot)
                self._slots.append((name, attribute, slot, items))
                for value in items.values():
                    if isinstance(value, Tensor) and not is_lazy(value):
                        self._tensors[id(value)] = (value, self._version(value), value.detach().clone())

    def _mark(self, slot: Any) -> None:
        """Make each number an object of its own.

        SpikingJelly resets a memory to the very object that it had at first, which would not show.
        """
        for key, value in _items(slot).items():
            if type(value) is float:
                slot[key] = value * 1.0
                self._marks.append((slot, key, value))

    @staticmethod
    def _version(tensor: Tensor) -> int:
        return -1 if tensor.is_inference() else tensor._version

    def _rewritten(self, value: Any) -> bool:
        known = self._tensors.get(id(value))
        # The version misses writes through .data; the values miss a state that stays equal.
        return known is not None and (self._version(value) != known[1] or not _same(value, known[2]))

    def changed(self) -> list[str]:
        """Return the names of the attributes that were set, deleted, or written into since."""
        found: dict[str, None] = {}
        for name, attribute, slot, before in self._slots:
            now = _items(slot)
            for key in {**before, **now}:
                value = now.get(key, _ABSENT)
                if value is not before.get(key, _ABSENT) or self._rewritten(value):
                    label = key if isinstance(key, str) else f"{attribute}[{key}]"
                    found[f"{name}.{label}".removeprefix(".")] = None
        return list(found)

    def restore(self) -> None:
        """Put everything back."""
        with torch.no_grad():
            for tensor, version, copy in self._tensors.values():
                if self._version(tensor) != version or not _same(tensor, copy):
                    tensor.copy_(copy)
        for _, _, slot, before in self._slots:
            if isinstance(slot, dict):
                slot.clear()
                slot.update(before)
            else:
                slot[:] = before.values()
        for slot, key, value in self._marks:
            slot[key] = value
