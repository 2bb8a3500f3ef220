"""``sxq export``: from a model in a module to one file."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arrays import read_sample
from .models import Checkpoint, Model, Plan, Precision, build_model, to_stderr
from .output import AsJson, print_json, print_table, yes_or_no

if TYPE_CHECKING:
    from snn_extreme_quant.deploy import ExportReport

__all__ = ["export"]


#: Options of export_onnx that take one of a few words: a class here, a parameter of the command, a word in `chosen`.
Calling = StrEnum("Calling", ["auto", "step", "sequence"])
Form = StrEnum("Form", ["sequence", "streaming"])
Input = StrEnum("Input", ["real", "spikes"])
TernaryPacking = StrEnum("TernaryPacking", {"two": "2bit", "less": "1.6bit"})


def export(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")],
    sample: Annotated[str, typer.Option(metavar="SHAPE|FILE", help="An input: its shape (8,1,64), or FILE.npy.")],
    checkpoint: Checkpoint = None,
    precision: Precision = None,
    plan: Plan = None,
    calling: Annotated[Calling, typer.Option(help="How the model is called.")] = Calling.auto,
    input: Annotated[Input, typer.Option(help="'spikes' promises an input of 0 and 1 only.")] = Input.real,
    form: Annotated[Form, typer.Option(help="All time steps at once, or one step with its states.")] = Form.sequence,
    ternary_packing: Annotated[
        TernaryPacking, typer.Option(help="What a ternary code takes in the file.")
    ] = TernaryPacking.two,
    as_json: AsJson = False,
) -> None:
    """Write a trained model as one ONNX file, and say what is guaranteed of each layer."""
    chosen: dict[str, StrEnum] = {
        "calling": calling, "form": form, "input": input, "ternary_packing": ternary_packing,
    }  # fmt: skip
    from snn_extreme_quant.output_files import check_writable

    check_writable(output)
    array = read_sample(sample)
    with to_stderr():
        from snn_extreme_quant.deploy import export_onnx

        options: dict[str, Any] = {name: word.value for name, word in chosen.items()}
        report = export_onnx(build_model(model, checkpoint, precision, plan), array, output, **options)
    if as_json:
        print_json({**dataclasses.asdict(report), "exact": report.exact})
    else:
        _show(report)


def _show(report: ExportReport) -> None:
    shape = ", ".join(map(str, report.input_shape))
    typer.echo(f"{report.path}: {report.file_bytes} bytes, input ({shape}), time {report.time}")
    print_table(
        ("layer", "operator", "exact", "why"),
        ((layer.name, layer.operator, yes_or_no(layer.exact), layer.reason) for layer in report.layers),
    )
    for name, layer in report.batch_norms.items():
        typer.echo(f"{name}: {f'folded into {layer}' if layer else 'a product and a sum for each channel'}")
    if not report.exact:
        typer.echo("Not every spike is guaranteed: sxq verify measures whether some differ.")
