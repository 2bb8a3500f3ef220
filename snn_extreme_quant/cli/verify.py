"""``sxq verify``: is the file the model, spike for spike?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_extreme_quant.errors import ConfigError

from .arrays import read_batches
from .classifier_data import TABLES as _TABLES
from .classifier_data import random_batches, table_batches
from .language import language_folder, tokens_of
from .models import Checkpoint, Model, Plan, Precision, build_model
from .output import AsJson, print_json, print_table, yes_or_no
from .streams import quiet_onnxruntime, to_stderr

if TYPE_CHECKING:
    from snn_extreme_quant.deploy import VerifyReport

__all__ = ["verify"]


def verify(
    model: Model,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What was exported of it.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Inputs, .npy or .npz (of a SpikeGPT's classifier also a table of texts)."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Of a SpikeGPT: how many to generate.")] = 1000,
    prompt: Annotated[str | None, typer.Option(help="Of a SpikeGPT: what the text begins with.")] = None,
    checkpoint: Checkpoint = None,
    precision: Precision = None,
    plan: Plan = None,
    native: Annotated[bool, typer.Option("--native", help="Run the file with the native kernels.")] = False,
    allow_edited: Annotated[bool, typer.Option("--allow-edited", help="Compare a file that was changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare a model with its file. The exit status is 0 if nothing differs, 1 if a spike or an output does."""
    folder = language_folder(Path(model))
    if folder is None and not data:
        raise typer.BadParameter("Give --data, the inputs.")
    if folder is None and prompt is not None:
        raise typer.BadParameter("--prompt is of a SpikeGPT's folder.")
    tables = [path for path in data or () if path.name.removesuffix(".gz").endswith(_TABLES)]
    if tables and folder is None:
        raise ConfigError(f"--data {tables[0]} is a table of texts, which a SpikeGPT's classifier takes; give arrays.")
    arrays = [path for path in data or () if path not in tables]
    batches: Any = read_batches(arrays) if data else None
    with to_stderr():
        quiet_onnxruntime()
        from snn_extreme_quant.deploy import verify as compare

        if folder is None:
            built = build_model(model, checkpoint, precision, plan)
        else:
            from snn_extreme_quant.models import SpikeGPT

            built = SpikeGPT.from_pretrained(folder)
            if built.config.head != "tokens":
                if prompt is not None:
                    raise ConfigError(f"--prompt is of a language model; {folder} is a classifier, which takes --data.")
                texts = (batch for table in tables for batch in table_batches(table, folder))
                batches = random_batches(built.config.vocab) if batches is None else [*batches, *texts]
            elif tables:
                raise ConfigError(f"--data {tables[0]} is a table of texts; a language model takes --prompt.")
            else:
                batches = _prompt(folder, prompt) if batches is None else next(iter(batches))
        report = compare(built, file, batches, native=native, allow_edited=allow_edited, tokens=tokens)
    if as_json:
        print_json(_facts(report))
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(1)


def _prompt(folder: Path, text: str | None) -> object:
    """Return the prompt's tokens; without one, or without what a token is, the first token."""
    import numpy as np

    words = tokens_of(folder)
    if words is None and text is not None:
        raise ConfigError(f"{folder} has no tokens.json, so --prompt has no tokens; give ids with --data.")
    given = words.encode(text or "\n") if words is not None else np.zeros(1, np.int64)
    if not len(given):
        raise ConfigError("--prompt is empty; give a character at least, or leave it out for a line end.")
    return given.astype(np.int64)[None]


def _rate(fired: float, compared: int) -> float:
    return fired / max(1, compared)


def _facts(report: VerifyReport) -> dict[str, object]:
    numbers = ("ok", "path", "runtime", "samples", "spikes_compared", "spikes_different", "firing_rate")
    layers = [
        {
            **{key: getattr(layer, key) for key in ("name", "exact", "reason", "compared", "different")},
            "firing_rate": _rate(layer.fired, layer.compared),
        }
        for layer in report.layers
    ]
    first, norms, cost = report.first_difference, report.batch_norms, report.integer
    return {
        **{name: getattr(report, name) for name in numbers},
        "output_difference": report.output_difference,
        "first_difference": None if first is None else dataclasses.asdict(first),
        "layers": layers,
        "batch_norms": None if norms is None else dataclasses.asdict(norms),
        "answers": None if report.answers is None else dataclasses.asdict(report.answers),
        "text": None if report.text is None else {**dataclasses.asdict(report.text), "same": report.text.same},
        "integer": None if cost is None else {**dataclasses.asdict(cost), "agreement": cost.agreement},
    }


def _show(report: VerifyReport) -> None:
    typer.echo(report.verdict)
    print_table(
        ("layer", "different", "compared", "firing rate", "guaranteed", "why"),
        (
            (e.name, e.different, e.compared, f"{_rate(e.fired, e.compared):.3f}", yes_or_no(e.exact), e.reason)
            for e in report.layers
        ),
    )
    if report.first_difference is not None:
        typer.echo(f"first difference: {report.first_difference}")
    for sentence in report.different_outputs:
        typer.echo(sentence)
    if report.batch_norms is not None:
        typer.echo(str(report.batch_norms))
    for comparison in (report.integer, report.answers, report.text):
        if comparison is not None:
            typer.echo(str(comparison))
    if not report.spikes_compared:
        typer.echo("No spike was compared: the file has no layer of neurons.")
