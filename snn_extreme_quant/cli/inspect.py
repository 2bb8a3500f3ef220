"""``sxq inspect``: what is in a file. Imports neither torch nor onnxruntime."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .fixed_point import print_fixed_point
from .output import AsJson, print_json, print_table, yes_or_no
from .streams import note

if TYPE_CHECKING:
    from snn_extreme_quant.exported.inspection import FileReport, LayerContents

__all__ = ["inspect"]

#: Facts that have a line of their own.
_SHOWN = ("version", "form", "integer")


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An exported file.")],
    as_json: AsJson = False,
) -> None:
    """Show a file's layers with operator, precision and bytes, its states and operators, and whether it was edited.

    The exit status is 1 if it is damaged; what can still be read is shown.
    """
    from snn_extreme_quant.exported.inspection import inspect_file

    report = inspect_file(file)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        _show(report)
    if report.damage:
        note("error", f"{file} is damaged: {'; '.join(report.damage)}. Export it again.")
        raise typer.Exit(1)


def _show(report: FileReport) -> None:
    from snn_extreme_quant.exported.files import AFTER

    sizes = report.sizes
    state = "damaged" if report.damage else "changed after it was exported" if report.edited else "as it was exported"
    typer.echo(f"{report.path}: {report.file_bytes} bytes, {state}")
    typer.echo(f"form {report.form}{', integers only' if report.integer else ''}; takes {report.takes}")
    hidden = {state.name for state in report.states} | {f"{state.name}{AFTER}" for state in report.states}
    for what, values in (("input", report.inputs), ("output", report.outputs)):
        for name, axes in values.items():
            if name not in hidden:
                typer.echo(f"{what} {name} {report.types[name]} ({', '.join(map(str, axes))})")
    shown = {key: value for key, value in report.facts.items() if isinstance(value, (str, bool)) and key not in _SHOWN}
    if isinstance(told := report.facts.get("classifier"), dict):
        typer.echo(_classifier(told))
    typer.echo(f"written by snn_extreme_quant {report.facts.get('version', '?')}: {_pairs(shown)}")
    if sizes.codes:
        typer.echo(
            f"{sizes.codes} codes in {sizes.packed_bytes} bytes; with float32 weights the file would take about"
            f" {sizes.float_bytes} bytes: {sizes.ratio:.3f}x"
        )
    print_table(
        ("layer", "operator", "precision", "shape", "bytes", "exact", "why"),
        (
            (e.name, e.operator, e.precision, "x".join(map(str, e.shape)), e.bytes, yes_or_no(e.exact), _why(e))
            for e in report.layers
        ),
    )
    print_fixed_point({"name": e.name, **e.fixed_point} for e in report.layers if e.fixed_point is not None)
    if report.states:
        print_table(
            ("state", "type", "shape", "before the first step"),
            ((e.name, e.dtype, f"({', '.join(map(str, e.shape))})", e.initial) for e in report.states),
        )
    print_table(
        ("operator", "nodes", "domain"),
        ((entry.operator, entry.count, entry.domain or f"ai.onnx {report.opset}") for entry in report.operators),
    )


def _classifier(told: Mapping[str, Any]) -> str:
    """Say what a SpikeGPT's classifier tells of texts; an edited file may have lost any of it."""
    labels, tokens, most = (told.get(name) for name in ("labels", "tokens", "max_tokens"))
    named = f" {', '.join(map(str, labels))}" if isinstance(labels, list) else ""
    kind = tokens.get("kind") if isinstance(tokens, dict) else "unknown"
    cut = "" if most is None else f", the first {most} of a text"
    return f"classifier of texts: head {told.get('head')}, {told.get('classes')} classes{named}; tokens {kind}{cut}"


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _why(layer: LayerContents) -> str:
    return "; ".join(text for text in (layer.why, _pairs(layer.more)) if text)
