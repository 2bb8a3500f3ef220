"""The compiled library, as onnxruntime and Python see it."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from snn_extreme_quant.errors import NativeLibraryError

from .compilation import cache_folder, cached_library, library_name

__all__ = ["NativeLibrary", "load"]

#: Which operators are registered is a state of the library, between two calls.
_LOCK = threading.Lock()


class NativeLibrary:
    """A loaded library.

    Args:
        path: its file.
        remedy: what errors say to do about it.

    Raises:
        NativeLibraryError: the file is not this library, or not for this machine.
    """

    def __init__(self, path: str | Path, remedy: str = "Remove the file; it is made anew") -> None:
        self.path, self._remedy = Path(path), remedy
        try:
            library = ctypes.CDLL(str(self.path))
            library.sxq_operator_count.restype = ctypes.c_size_t
            library.sxq_operator_name.argtypes = [ctypes.c_size_t]
            library.sxq_operator_name.restype = ctypes.c_char_p
            library.sxq_instruction_set.restype = ctypes.c_char_p
            library.sxq_copied_bytes.restype = ctypes.c_size_t
            library.sxq_select.argtypes = [ctypes.c_char_p]
        except (OSError, AttributeError) as error:
            raise NativeLibraryError(
                f"{self.path} is not the native library for this machine: {error}. {remedy}."
            ) from error
        self._library = library
        #: Names of the operators that have a kernel.
        self.operators = frozenset(
            library.sxq_operator_name(index).decode() for index in range(library.sxq_operator_count())
        )

    @property
    def instruction_set(self) -> str:
        """What the kernels of new sessions use: ``"avx512"``, ``"avx2"`` or ``"portable"``."""
        return str(self._library.sxq_instruction_set().decode())

    @property
    def copied_bytes(self) -> int:
        """Memory that second copies of weights take at present, over all sessions; they serve dense inputs."""
        return int(self._library.sxq_copied_bytes())

    def register(self, options: Any, operators: Iterable[str]) -> list[str]:
        """Let sessions made with ``options`` run these operators natively; return those that have a kernel.

        Args:
            options: ``onnxruntime.SessionOptions``.
            operators: names of operators of our domain, such as a model uses.

        Raises:
            NativeLibraryError: onnxruntime does not take the library.
        """
        found = sorted(self.operators.intersection(operators))
        if found:
            with _LOCK:
                self._library.sxq_select(f" {' '.join(found)} ".encode())
                try:
                    options.register_custom_ops_library(str(self.path))
                except Exception as error:  # onnxruntime raises a class of its own for every failure
                    raise NativeLibraryError(
                        f"onnxruntime does not take the native library {self.path}: {error}."
                        f" {self._remedy}; or run with native=False, the results are the same."
                    ) from error
        return found


@cache
def _loaded(path: str) -> NativeLibrary:
    if path == os.environ.get("SXQ_NATIVE_LIBRARY"):
        return NativeLibrary(path, "SXQ_NATIVE_LIBRARY names it: name another file, or unset the variable")
    return NativeLibrary(path)


@cache
def _cached_library(folder: Path) -> str:
    """The library in a folder; looked for once, as its name is a hash of all sources."""
    return str(cached_library(folder))


def is_compiled() -> bool:
    """Whether :func:`load` would find the library, without compiling it."""
    if named := os.environ.get("SXQ_NATIVE_LIBRARY"):
        return Path(named).is_file()
    name = library_name()
    return any((folder / name).is_file() for folder in (Path(__file__).parent, cache_folder()))


def load() -> NativeLibrary:
    """Return the library: the file that ``SXQ_NATIVE_LIBRARY`` names, a shipped one, or one compiled now.

    Raises:
        NativeLibraryError: it cannot be had; the message says why and what to do.
    """
    return _loaded(os.environ.get("SXQ_NATIVE_LIBRARY") or _cached_library(cache_folder()))
