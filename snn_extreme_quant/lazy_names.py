"""Public names of a package that are loaded when they are first used, so that importing the package costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping

__all__ = ["lazily"]


def lazily(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__``.

    A name must not be that of a module of the package: importing a module binds its name in the package, which would
    then stand for the module.

    Args:
        package: the package's name.
        home: by public name the module of the package that has it.

    Example:
        >>> load, names = lazily("snn_extreme_quant", {"SxqError": "errors"})
        >>> load("SxqError").__name__, load("config").__name__, "SxqError" in names()
        ('SxqError', 'snn_extreme_quant.config', True)
    """

    def load(name: str) -> object:
        """Load a public name, or one of the package's modules, on first use."""
        if name in home:
            value = getattr(importlib.import_module(f"{package}.{home[name]}"), name)
            setattr(sys.modules[package], name, value)
            return value
        if not name.startswith("_"):
            try:
                return importlib.import_module(f"{package}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{package}.{name}":
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        """List the public names."""
        return list(sys.modules[package].__all__)

    return load, names
