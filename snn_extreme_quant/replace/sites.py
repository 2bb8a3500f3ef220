"""The modules of a model, each once, with all names that it has there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

__all__ = ["Site", "has_matrix", "inside", "sites_of"]


@dataclass(frozen=True)
class Site:
    """A module of the model, and all the names that it has there."""

    names: tuple[str, ...]
    module: nn.Module


def sites_of(model: nn.Module) -> list[Site]:
    """Return every module of ``model`` once."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return [Site(tuple(group), module) for module, group in names.items()]


def has_matrix(module: nn.Module) -> bool:
    """Whether the module itself (not its children) holds a weight of two or more axes."""
    parameters: list[Any] = list(module._parameters.values())
    if parametrize.is_parametrized(module):
        parameters += cast("nn.Module", module.parametrizations).parameters()
    return any(p is not None and (is_lazy(p) or p.dim() >= 2) for p in parameters)


def inside(name: str, outer: str) -> bool:
    """Whether the module called ``name`` lies within the one called ``outer``."""
    return name != outer and (outer == "" or name.startswith(f"{outer}."))
