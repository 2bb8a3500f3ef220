"""``sxq inspect``: what is in a file. Imports neither torch nor onnxruntime."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import AsJson, print_json, print_table, yes_or_no

if TYPE_CHECKING:
    from snn_extreme_quant.exported.inspection import FileReport, LayerContents

__all__ = ["inspect"]


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An exported file.")],
    as_json: AsJson = False,
) -> None:
    """Show the layers of a file with operator, precision and bytes, its operators, and whether it was edited."""
    from snn_extreme_quant.exported.inspection import inspect_file

    report = inspect_file(file)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        _show(report)


def _show(report: FileReport) -> None:
    sizes = report.sizes
    state = "changed after it was exported" if report.edited else "as it was exported"
    typer.echo(f"{report.path}: {report.file_bytes} bytes, {state}")
    for what, values in (("input", report.inputs), ("output", report.outputs)):
        for name, axes in values.items():
            typer.echo(f"{what} {name} ({', '.join(map(str, axes))})")
    shown = {key: value for key, value in report.facts.items() if isinstance(value, (str, bool)) and key != "version"}
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
    print_table(
        ("operator", "nodes", "domain"),
        ((entry.operator, entry.count, entry.domain or f"ai.onnx {report.opset}") for entry in report.operators),
    )


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _why(layer: LayerContents) -> str:
    return "; ".join(text for text in (layer.why, _pairs(layer.more)) if text)
