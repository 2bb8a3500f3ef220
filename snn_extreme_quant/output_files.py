"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from snn_extreme_quant.errors import OutputPathError

__all__ = ["check_writable", "write_whole"]


def check_writable(path: Path) -> None:
    """Raise :class:`OutputPathError` if a file cannot be written at ``path``; nothing is left behind."""
    try:
        special = path.exists() and not path.is_file()
    except (OSError, ValueError) as error:
        raise OutputPathError(f"{str(path)[:80]!r} is no name for a file: {error}.") from error
    if special:
        raise OutputPathError(f"{path} is a directory or a device; name a file.")
    if not path.parent.is_dir():
        raise OutputPathError(f"The directory {path.parent} does not exist; create it first.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputPathError(f"{path.parent} cannot be written to: {error.strerror}.") from error
    if path.exists() and not os.access(path, os.W_OK):
        raise OutputPathError(f"{path} exists and is read-only.")


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` under a temporary name beside ``path``, then rename: readers see the old file or the new one."""
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # noqa: PTH101 - mkstemp gives 0600
        os.replace(temporary, path)  # noqa: PTH105
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
        raise OutputPathError(f"{path} cannot be written: {error.strerror or error}.") from error
