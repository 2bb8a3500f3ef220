"""The application: its options, its commands, and what it says when something fails.

Importing this imports neither torch nor a framework, so ``sxq --help`` answers at once; commands import what they need.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from snn_extreme_quant._version import __version__
from snn_extreme_quant.cli.demo import demo
from snn_extreme_quant.cli.export import export
from snn_extreme_quant.cli.inspect import inspect
from snn_extreme_quant.cli.plugins import plugins
from snn_extreme_quant.cli.run import run
from snn_extreme_quant.cli.verify import verify
from snn_extreme_quant.errors import SxqError

__all__ = ["EXTRAS", "app"]

#: Top-level packages that this package needs for some commands only: what they are called, and the extra with them.
EXTRAS = {
    "matplotlib": ("matplotlib", "demo"),
    "onnx": ("onnx", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "onnxscript": ("onnxscript", "onnx"),
    "sklearn": ("scikit-learn", "demo"),
    "snntorch": ("snntorch", "snntorch"),
    "spikingjelly": ("spikingjelly", "spikingjelly"),
}


def _message(error: Exception) -> str | None:
    """Return what to tell the user in one line, or None if the error is not theirs to mend."""
    if isinstance(error, SxqError):
        return " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        known = EXTRAS.get((error.name or "").partition(".")[0])
        if known is not None:
            return f'{known[0]} is not installed; run: pip install "snn-extreme-quant[{known[1]}]"'
    return None


class _Group(TyperGroup):
    """Turns the errors a user can mend into one red line and exit status 2, that of wrong usage."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (SxqError, ModuleNotFoundError) as error:
            message = _message(error)
            if message is None or ctx.params.get("debug"):
                raise
            Console(stderr=True).print(Text(f"Error: {message}", style="bold red"), soft_wrap=True)
            raise typer.Exit(2) from None


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"snn-extreme-quant {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """1-bit and 1.58-bit weights for spiking networks in snnTorch and SpikingJelly."""


for _command in (export, verify, inspect, run, demo, plugins):
    app.command()(_command)
