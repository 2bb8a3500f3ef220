"""``sxq demo``: train, quantise, export and verify a small network in both frameworks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def _check_writable(out: Path, json_path: Path | None) -> None:
    """Find out before the training, not after it, that a file cannot be written."""
    from snn_extreme_quant.errors import OutputPathError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputPathError(f"--out {out}: the directory cannot be made: {error.strerror or error}.") from error
    if not os.access(out, os.W_OK):
        raise OutputPathError(f"--out {out}: the directory is not writable; give another.")
    if json_path is not None and (json_path.is_dir() or not os.access(json_path.parent, os.W_OK)):
        raise OutputPathError(f"--json {json_path}: give the name of a file in a writable directory.")


def demo(
    out: Annotated[Path, typer.Option(help="Where the six .onnx files and sxq_demo.png go.")] = Path(),
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of initial weights and shuffling.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Train for a few epochs only: fast, not accurate.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="PATH", help="Write the rows as JSON.")] = None,
) -> None:
    """Train a digit network in snnTorch and SpikingJelly, quantise it to 1.58 and 1 bit, export it, verify every spike.

    The exit status is 1 if a spike of a quantised network differs between torch and onnxruntime, 2 if it cannot run.
    """
    _check_writable(out, json_path)
    from rich.console import Console

    from snn_extreme_quant.demo import run_demo, write_json

    console = Console()
    report = run_demo(out, seed=seed, quick=quick, console=console)
    if json_path is not None:
        write_json(report, json_path)
        console.print(f"Rows: {json_path}", highlight=False, soft_wrap=True)
    if not report.exact:
        console.print("A spike of a quantised network differs: this is a bug, please report it.", style="bold red")
        raise typer.Exit(1)
