"""``sxq export``: from a model in a module to one file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_extreme_quant.errors import ConfigError

from .arrays import read_sample
from .fixed_point import print_fixed_point
from .language import language_folder, tokens_of, told_of_texts
from .models import Checkpoint, Model, Plan, Precision, build_model
from .output import AsJson, print_json, print_table, yes_or_no
from .streams import to_stderr

if TYPE_CHECKING:
    from snn_extreme_quant.deploy import ExportReport

__all__ = ["export"]


#: Options of export_onnx that take one of a few words: a class here, a parameter of the command, a word in `chosen`.
Calling = StrEnum("Calling", ["auto", "step", "sequence"])
Form = StrEnum("Form", ["sequence", "streaming", "counts"])
Input = StrEnum("Input", ["real", "spikes"])
Logits = StrEnum("Logits", ["last", "all"])
TernaryPacking = StrEnum("TernaryPacking", {"two": "2bit", "less": "1.6bit"})


def export(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")],
    sample: Annotated[
        str | None, typer.Option(metavar="SHAPE|FILE", help="An input: its shape (8,1,64), or FILE.npy.")
    ] = None,
    checkpoint: Checkpoint = None,
    precision: Precision = None,
    plan: Plan = None,
    calling: Annotated[Calling, typer.Option(help="How the model is called.")] = Calling.auto,
    input: Annotated[Input, typer.Option(help="'spikes' promises an input of 0 and 1 only.")] = Input.real,
    form: Annotated[
        Form, typer.Option(help="All time steps at once, one step with its states, or one pass over spike counts.")
    ] = Form.sequence,
    integer: Annotated[bool, typer.Option("--integer", help="The file computes with integers only.")] = False,
    decay_bits: Annotated[
        int | None, typer.Option(metavar="N", help="With --integer: bits behind the point of a leak.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(metavar="N", help="With --integer: time steps for which overflow is excluded.")
    ] = None,
    ternary_packing: Annotated[
        TernaryPacking, typer.Option(help="What a ternary code takes in the file.")
    ] = TernaryPacking.two,
    logits: Annotated[Logits, typer.Option(help="Of a language model: the last token's, or all.")] = Logits.last,
    as_json: AsJson = False,
) -> None:
    """Write a trained model as one ONNX file, and say what is guaranteed of each layer."""
    chosen: dict[str, StrEnum] = {
        "calling": calling, "form": form, "input": input, "ternary_packing": ternary_packing,
    }  # fmt: skip
    from snn_extreme_quant.output_files import check_writable

    check_writable(output)
    numbers = {"decay_bits": decay_bits, "max_steps": max_steps}
    given = {name: number for name, number in numbers.items() if number is not None}
    if given and not integer:
        raise ConfigError(f"--{next(iter(given)).replace('_', '-')} is of integer files: add --integer.")
    if (folder := language_folder(Path(model))) is not None:
        options = {name: word for name, word in chosen.items() if name in ("form", "ternary_packing")}
        others = {
            "--sample": sample, "--checkpoint": checkpoint, "--precision": precision, "--plan": plan,
            "--calling": calling != Calling.auto, "--input": input != Input.real,
            **{f"--{name.replace('_', '-')}": True for name in given},
        }  # fmt: skip
        report = _language(folder, output, {**options, "logits": logits}, others, integer=integer)
        _say(report, as_json)
        return
    if logits is not Logits.last:
        raise ConfigError("--logits is of a SpikeGPT's folder; leave it out.")
    if sample is None:
        raise ConfigError("Give --sample, an input of the model: its shape, such as 8,1,64, or FILE.npy.")
    array = read_sample(sample)
    with to_stderr():
        from snn_extreme_quant.deploy import IntegerOptions, export_onnx

        words: dict[str, Any] = {name: word.value for name, word in chosen.items()}
        words["integer"] = IntegerOptions(**given) if integer else False
        report = export_onnx(build_model(model, checkpoint, precision, plan), array, output, **words)
    _say(report, as_json)


def _language(
    folder: Path, output: Path, options: Mapping[str, StrEnum], others: Mapping[str, object], *, integer: bool
) -> ExportReport:
    """Write the SpikeGPT of a folder, with its tokens if they are there."""
    for name, value in others.items():
        if value:
            raise ConfigError(f"{name} is not of a SpikeGPT's folder, which says all there is to say; leave it out.")
    with to_stderr():
        from snn_extreme_quant.deploy.language.export import export_gpt
        from snn_extreme_quant.models import SpikeGPT

        words: dict[str, Any] = {name: word.value for name, word in options.items()}
        model = SpikeGPT.from_pretrained(folder)
        if model.config.head != "tokens":
            words |= told_of_texts(folder)
        if integer and model.config.profile != "integer":
            raise ConfigError(
                f"--integer: {folder} is of profile={model.config.profile!r}, whose file computes in float32; train one"
                " with --set gpt.profile=integer, or leave it out."
            )
        return export_gpt(model, output, tokens=tokens_of(folder), **words)


def _say(report: ExportReport, as_json: bool) -> None:
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
    print_fixed_point(dataclasses.asdict(entry) for entry in report.fixed_point)
    for name, layer in report.batch_norms.items():
        typer.echo(f"{name}: {f'folded into {layer}' if layer else 'a product and a sum for each channel'}")
    if not report.exact:
        typer.echo("Not every spike is guaranteed: sxq verify measures whether some differ.")
