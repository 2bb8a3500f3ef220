"""Finds the native kernels, which are optional."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime

from snn_extreme_quant.errors import NativeLibraryError

__all__ = ["NativeStatus", "native_library", "native_ready", "native_status", "where_ready"]

#: Looked up by name: the core depends on no plugin.
_PACKAGE = "snn_extreme_quant_native"


@dataclass(frozen=True)
class NativeStatus:
    """Whether the native kernels can be used here.

    Args:
        available: whether they can.
        reason: why not, and what to do; empty if they can.
        path: the library's file.
        instruction_set: what its kernels use: ``"avx512"``, ``"avx2"`` or ``"portable"``.
    """

    available: bool
    reason: str = ""
    path: Path | None = None
    instruction_set: str = ""

    def __str__(self) -> str:
        """Say it in a line."""
        return f"native kernels ({self.instruction_set}): {self.path}" if self.available else self.reason


def native_library() -> Any:
    """Return the library of native kernels, compiling it if this is the first time.

    Raises:
        NativeLibraryError: it cannot be had.
    """
    try:
        package = importlib.import_module(_PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != _PACKAGE:
            raise
        raise NativeLibraryError(
            f"The native kernels are not available: the package {_PACKAGE} is not installed. Install snn-extreme-quant"
            " with pip, which brings it, or run with native=False."
        ) from error
    return package.load()


def native_ready() -> bool:
    """Whether the library is there already: taking it would not start a compiler."""
    try:
        package = importlib.import_module(_PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != _PACKAGE:
            raise
        return False
    return bool(package.is_compiled())


def where_ready(native: bool | Literal["auto"]) -> bool | Literal["auto"]:
    """Return what to open a session with where ``"auto"`` is not to start a compiler."""
    return native if native != "auto" or native_ready() else False


def native_status() -> NativeStatus:
    """Say whether the native kernels can be used here, and if not why; compiles them if this is the first time.

    Example:
        >>> print(native_status())  # doctest: +SKIP
        native kernels (avx512): ~/.cache/snn_extreme_quant/sxq_native-0123456789abcdef.so
    """
    try:
        library = native_library()
        library.register(onnxruntime.SessionOptions(), sorted(library.operators)[:1])
    except NativeLibraryError as error:
        return NativeStatus(False, str(error))
    return NativeStatus(True, "", library.path, library.instruction_set)
