"""The application: its options, its commands, and what it says when something fails.

Importing this imports neither torch nor a framework, so ``sxq --help`` answers at once; commands import what they need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from snn_extreme_quant._version import __version__
from snn_extreme_quant.cli.classify import classify
from snn_extreme_quant.cli.demo import demo
from snn_extreme_quant.cli.export import export
from snn_extreme_quant.cli.inspect import inspect
from snn_extreme_quant.cli.language import generate, lm_eval
from snn_extreme_quant.cli.pack import pack
from snn_extreme_quant.cli.plans import plan
from snn_extreme_quant.cli.plot import plot
from snn_extreme_quant.cli.plugins import plugins
from snn_extreme_quant.cli.run import run
from snn_extreme_quant.cli.search import search
from snn_extreme_quant.cli.streams import note
from snn_extreme_quant.cli.train import train
from snn_extreme_quant.cli.verify import verify
from snn_extreme_quant.errors import SxqError

__all__ = ["EXTRAS", "app"]

#: What the package is installed with, and a device that only runs files can do without.
_TRAINING = ("brevitas", "torch")

#: Top-level packages that this package needs for some commands only: what they are called, and the extra with them.
EXTRAS = {
    "accelerate": ("accelerate", "train"),
    "matplotlib": ("matplotlib", "demo"),
    "onnx": ("onnx", "onnx"),
    "optuna": ("optuna", "optuna"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "onnxscript": ("onnxscript", "onnx"),
    "ray": ("ray", "ray"),
    "scipy": ("scipy", "train"),
    "sklearn": ("scikit-learn", "demo"),
    "tokenizers": ("tokenizers", "text"),
    "snntorch": ("snntorch", "snntorch"),
    "spikingjelly": ("spikingjelly", "spikingjelly"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "transformers": ("transformers", "text"),
}


def _message(error: Exception) -> str | None:
    """Return what to tell the user in one line, or None if the error is not theirs to mend."""
    if isinstance(error, SxqError):
        return " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
        if missing in _TRAINING:
            return f"this command needs {missing}, which is not installed; run: pip install snn-extreme-quant"
        known = EXTRAS.get(missing)
        if known is not None:
            return f'{known[0]} is not installed; run: pip install "snn-extreme-quant[{known[1]}]"'
    return None


#: What typer raises for wrong usage derives from click's own class, which it no longer names in public.
_UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


@contextlib.contextmanager
def _in_one_line(*, debug: bool = False) -> Iterator[None]:
    """Turn wrong usage, and errors that a user can mend, into one line and exit status 2."""
    try:
        yield
    except (SxqError, ModuleNotFoundError) as error:
        message = _message(error)
        if message is None or debug:
            raise
        note("error", message)
        raise typer.Exit(2) from None
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `sxq` alone: what the error would say is the help
            if text := error.format_message():  # with rich it was printed when it was made
                typer.echo(text)
            raise typer.Exit(0) from None
        context = getattr(error, "ctx", None)
        help_of = f" See {context.command_path} --help." if context is not None else ""
        said = error.format_message()
        note("error", f"{said}{'' if said.endswith(('.', '?')) else '.'}{help_of}")
        raise typer.Exit(2) from None


class _Group(TyperGroup):
    """The commands, with errors in one line."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the options before the command."""
        with _in_one_line():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Read the command's options and run it."""
        with _in_one_line(debug=bool(ctx.params.get("debug"))):
            return super().invoke(ctx)


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


for _command in (classify, export, verify, inspect, run, train, search, pack, generate, lm_eval, demo, plugins):
    app.command()(_command)
app.add_typer(plan, name="plan")
app.add_typer(plot, name="plot")
