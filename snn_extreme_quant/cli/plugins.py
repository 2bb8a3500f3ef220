"""``sxq plugins``: which frameworks can be used, and what is missing."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from .streams import to_stderr

if TYPE_CHECKING:
    from rich.table import Table

    from snn_extreme_quant.frameworks import PluginStatus

__all__ = ["plugins"]

_COLOURS = {"available": "green", "unavailable": "yellow", "disabled": "dim", "broken": "bold red"}


def _table(statuses: list[PluginStatus]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("plugin", "from", "framework version", "status", "note", title="Framework plugins")
    for status in statuses:
        table.add_row(
            status.name,
            f"{status.origin} {status.origin_version}",
            status.framework_version or "-",
            Text(status.state, style=_COLOURS.get(status.state, "")),
            Text(status.detail),  # plain text: "[snntorch]" in it is an extra, not markup
        )
    return table


def plugins(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """List the framework plugins: origin, versions, status, and how to install what is missing.

    The exit status is 1 if a plugin is broken, and 0 if a framework is merely not installed. The environment variable
    SXQ_PLUGINS restricts the plugins: "none", or names separated by commas.
    """
    from rich.console import Console

    from snn_extreme_quant.frameworks import plugin_statuses

    with to_stderr():
        statuses = plugin_statuses()
    if as_json:
        names = [f.name for f in dataclasses.fields(statuses[0]) if f.name != "framework"] if statuses else []
        typer.echo(json.dumps([{name: getattr(s, name) for name in names} for s in statuses], indent=2))
    elif statuses:
        Console().print(_table(statuses))
    else:
        Console().print("No plugin is installed, though snn-extreme-quant brings two: reinstall it.")
    if any(status.state == "broken" for status in statuses):
        raise typer.Exit(1)
