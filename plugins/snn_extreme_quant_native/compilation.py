"""Compiles the kernels into a shared library: once for each version of the sources, in a cache folder."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from snn_extreme_quant.errors import NativeLibraryError

__all__ = ["build", "cache_folder", "cached_library", "compiler", "compiler_flags", "library_name", "sources"]

_SOURCES = Path(__file__).parent / "src"
#: A product and a sum must be rounded apart, or neurons differ in the last bit: -ffp-contract=off.
_FLAGS = (
    "-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
)  # fmt: skip
#: What no promise is made about to the last bit, or rounds exactly whatever is rounded first.
_FREE = dict.fromkeys(("gelu.c", "soft_attention_run.c"), ("-ffp-contract=fast",))
#: Kernels for one instruction set are called only after asking the processor for it.
_X86 = {
    "kernels_avx2.c": ("-mavx2", "-mbmi", "-mpopcnt"),
    "kernels_avx512.c": (
        "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mbmi", "-mpopcnt", "-mprefer-vector-width=512",
    ),
    "rounded_avx2.c": ("-mavx2",),
    "rounded_avx512.c": (
        "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mprefer-vector-width=512",
    ),
    "popcount_avx512.c": (
        "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vpopcntdq", "-mbmi2", "-mpopcnt",
    ),
}  # fmt: skip


def sources() -> list[Path]:
    """Return the C files and headers, in a fixed order."""
    return sorted(path for path in _SOURCES.iterdir() if path.suffix in (".c", ".h"))


def compiler_flags(source: str, machine: str | None = None) -> tuple[str, ...]:
    """Return the flags that one C file is compiled with.

    Example:
        >>> "-mavx2" in compiler_flags("kernels_avx2.c", "x86_64"), "-mavx2" in compiler_flags("linear.c", "x86_64")
        (True, False)
    """
    x86 = (machine or platform.machine()).lower() in ("x86_64", "amd64")
    return _FLAGS + _FREE.get(source, ()) + (_X86.get(source, ()) if x86 else ())


def library_name() -> str:
    """Return the library's file name; it changes with the sources, the flags and the machine."""
    digest = hashlib.sha256(f"{platform.system()} {platform.machine()}".encode())
    for path in sources():
        digest.update(f"{path.name} {compiler_flags(path.name)}".encode())
        digest.update(path.read_bytes())
    return f"sxq_native-{digest.hexdigest()[:16]}{'.dylib' if sys.platform == 'darwin' else '.so'}"


def compiler() -> str:
    """Return the path of a C compiler: ``CC``, else ``cc``, ``gcc`` or ``clang``.

    Raises:
        NativeLibraryError: there is none.
    """
    wanted = os.environ.get("CC")
    names = (wanted,) if wanted else ("cc", "gcc", "clang")
    for name in names:
        if found := shutil.which(name):
            return found
    what = f"CC={wanted} is not a program" if wanted else "there is no C compiler (cc, gcc or clang) on the PATH"
    raise NativeLibraryError(
        f"The native kernels are not available: {what}. Install one (Debian: apt install gcc; macOS: xcode-select"
        " --install), or run with native=False: the results are the same."
    )


def cache_folder() -> Path:
    """Return where compiled libraries are kept: ``SXQ_CACHE``, else the user's cache folder."""
    if own := os.environ.get("SXQ_CACHE"):
        return Path(own)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "snn_extreme_quant"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snn_extreme_quant"


def cached_library(folder: Path | None = None) -> Path:
    """Return the library's path, compiling it if neither this package's folder nor the cache holds it.

    Args:
        folder: the cache; default :func:`cache_folder`.

    Raises:
        NativeLibraryError: it cannot be compiled, or not be written.
    """
    shipped = Path(__file__).parent / library_name()
    return shipped if shipped.is_file() else build(folder or cache_folder())


def build(folder: str | Path) -> Path:
    """Compile the library into ``folder``, if it is not there already, and return its path.

    The file appears whole or not at all, so processes that compile it at the same time do not disturb each other.

    Raises:
        NativeLibraryError: there is no compiler, it fails, or the folder cannot be written.
    """
    target = Path(folder) / library_name()
    if target.is_file():
        return target
    if sys.platform == "win32":
        raise NativeLibraryError(
            "The native kernels are not available: they are not built on Windows yet. Run with native=False."
        )
    program = compiler()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="building-") as place:
            made = _compile(program, Path(place))
            made.replace(target)
    except OSError as error:
        raise NativeLibraryError(
            f"The native kernels cannot be written to {target.parent}: {error.strerror or error}. Name another folder"
            " in SXQ_CACHE, or run with native=False."
        ) from error
    return target


def _compile(program: str, place: Path) -> Path:
    objects = []
    for path in sources():
        if path.suffix == ".c":
            objects.append(place / f"{path.stem}.o")
            _run([program, *compiler_flags(path.name), "-c", str(path), "-o", str(objects[-1])])
    made = place / "library"
    _run([program, "-shared", "-o", str(made), *map(str, objects), "-lm"])
    return made


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise NativeLibraryError(
            f"The native kernels are not available: {' '.join(command)} failed with {' / '.join(lines[:3])!r}. Set CC"
            " to gcc 9, clang 9 or newer, or run with native=False."
        )
