"""Who writes where: standard output is for results alone, whatever users' modules and libraries print."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

__all__ = ["note", "own_stdout", "plain_warnings", "quiet_onnxruntime", "to_stderr"]

_PACKAGE = str(Path(__file__).resolve().parents[1])


def note(kind: str, message: str) -> None:
    """Say something about a run in one line on standard error."""
    typer.echo(f"sxq: {kind}: {' '.join(message.split())}", err=True)


@contextlib.contextmanager
def own_stdout() -> Iterator[None]:
    """Keep standard output for ``sys.stdout``: what else writes to file descriptor 1 reaches standard error.

    Libraries in C and child processes know the descriptor, not ``sys.stdout``. It is not given back: their buffers are
    written when the process ends, as is what Python code prints at its end.
    """
    try:
        kept = os.dup(sys.stdout.fileno()) if sys.stdout.fileno() == 1 else None
        os.fstat(2)
    except (AttributeError, OSError, ValueError):  # closed, or replaced by an object without a file
        kept = None
    if sys.stdout is None:  # by who started the process
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if kept is None:
        yield
        return
    sys.stdout.flush()
    results = os.fdopen(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    os.dup2(2, 1)
    sys.stdout = results
    try:
        yield
    finally:
        sys.stdout = sys.stderr
        with contextlib.suppress(OSError):  # who reads has gone, or it was said already
            results.close()


@contextlib.contextmanager
def to_stderr() -> Iterator[None]:
    """Send to standard error what Python code of others prints."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings of this package as notes, without the line of code; others as Python does."""
    usual = warnings.showwarning

    def show(message: Any, category: Any, filename: str, *rest: Any, **more: Any) -> None:
        if filename.startswith(_PACKAGE):
            note("warning", str(message))
        else:
            usual(message, category, filename, *rest, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def quiet_onnxruntime() -> None:
    """Leave only fatal errors to onnxruntime's own log: whatever fails is raised too, and said once."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
