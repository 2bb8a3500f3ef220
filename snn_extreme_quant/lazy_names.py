"""Public names of a package that are loaded when they are first used, so that importing the package costs nothing."""

from __future__ import annotations

import dis
import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping
from types import FrameType

from snn_extreme_quant.errors import MissingDependencyError, UnavailableNameError

__all__ = ["lazily"]

_INSTALL = "pip install 'snn-extreme-quant[all]'"
_FROM_IMPORT = dis.opmap["IMPORT_FROM"]


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
        try:
            if name in home:
                value = getattr(importlib.import_module(f"{package}.{home[name]}"), name)
                setattr(sys.modules[package], name, value)
                return value
            if not name.startswith("_"):
                return importlib.import_module(f"{package}.{name}")
        except (ModuleNotFoundError, MissingDependencyError, UnavailableNameError) as error:
            if error.name != f"{package}.{name}":
                raise _unavailable(f"{package}.{name}", error, sys._getframe(1)) from error
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        """List the public names, the package's modules, and what every module has."""
        module = sys.modules[package]
        modules = {m.name for m in pkgutil.iter_modules(module.__path__) if not m.name.startswith("_")}
        return sorted({*module.__all__, *modules, *(name for name in vars(module) if name.startswith("__"))})

    return load, names


def _unavailable(name: str, error: ImportError | AttributeError, caller: FrameType) -> Exception:
    """Return what to raise where a name cannot be loaded: what asks whether there is an attribute must hear no.

    ``from package import name`` puts words of its own in the place of such an error, so it gets another.
    """
    missing = (error.name or "a package").partition(".")[0]
    said = f"{name} needs {missing}, which is not installed; install it, or all that is used with: {_INSTALL}"
    if not isinstance(error, ModuleNotFoundError):  # of another package of names
        said = str(error)
    asked = caller.f_code.co_code[caller.f_lasti] if caller.f_lasti >= 0 else None
    return (MissingDependencyError if asked == _FROM_IMPORT else UnavailableNameError)(said)
