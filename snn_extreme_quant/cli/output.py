"""How commands print: JSON alone, or tables that no terminal width cuts."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["AsJson", "print_json", "print_table", "yes_or_no"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]


def print_json(result: Any) -> None:
    """Print one JSON object; paths become text, and numbers that JSON lacks become null."""
    typer.echo(json.dumps(_plain(result), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print a table; what does not fit a terminal is folded, not cut."""
    from rich.console import Console
    from rich.text import Text

    table = _table(head, title)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    # A pipe has no width: do not fold for one.
    Console(highlight=False, width=None if sys.stdout.isatty() else 1000).print(table)


def _table(head: Sequence[str], title: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title or None, box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for name in head:
        table.add_column(name, overflow="fold")
    return table


def yes_or_no(value: bool | None) -> str:
    """Say it; "-" if it is not known."""
    return "-" if value is None else "yes" if value else "no"
