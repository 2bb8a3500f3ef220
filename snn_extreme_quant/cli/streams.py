"""Who writes where: standard output is for results alone, whatever users' modules and libraries print."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

__all__ = ["note", "own_stdout", "plain_warnings", "quiet_onnxruntime", "to_stderr"]

#: Exit status where nobody reads the results any more: 128 and the number of SIGPIPE, as shells give it.
CLOSED_PIPE = 141

_PACKAGE = str(Path(__file__).resolve().parents[1])


def note(kind: str, message: str) -> None:
    """Say something about a run in one line on standard error."""
    typer.echo(f"sxq: {kind}: {' '.join(message.split())}", err=True)


class _Results(io.TextIOWrapper):
    """Standard output; where its reader has gone (``| head -1``), the command ends as if by SIGPIPE.

    The status must be none of a command's answers. Libraries that print would end it with 1.
    """

    def write(self, text: str) -> int:
        """Write, or leave."""
        try:
            return super().write(text)
        except BrokenPipeError:
            raise SystemExit(CLOSED_PIPE) from None

    def flush(self) -> None:
        """Write what is buffered, or leave."""
        try:
            super().flush()
        except BrokenPipeError:
            raise SystemExit(CLOSED_PIPE) from None


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
    line_by_line = os.isatty(kept)
    results = _Results(os.fdopen(kept, "wb"), sys.stdout.encoding, sys.stdout.errors, line_buffering=line_by_line)
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
