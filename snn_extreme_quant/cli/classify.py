"""``sxq classify``: texts in, labels out, without torch."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_extreme_quant.errors import ConfigError, DataError

from .output import AsJson, print_json, print_table
from .streams import note, quiet_onnxruntime, to_stderr
from .texts import Texts, read_file, read_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from snn_extreme_quant.deploy import Answer, Classifier

__all__ = ["classify"]

Native = StrEnum("Native", ["auto", "yes", "no"])
_NATIVE: dict[str, Any] = {"auto": "auto", "yes": True, "no": False}
#: So many answers are shown one by one, or stand in the JSON unasked.
_MOST_SHOWN, _MOST_IN_JSON = 20, 1000


def classify(
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="Texts; - for standard input.")] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="A table: .tsv, .csv, or .gz of them.")] = None,
    model: Annotated[str, typer.Option(metavar="MODEL", help="A shipped model, a folder, or a .onnx file.")] = "",
    text_column: Annotated[str | None, typer.Option(metavar="NAME", help="Of the table.")] = None,
    pair_column: Annotated[str | None, typer.Option(metavar="NAME", help="Of the second texts.")] = None,
    label_column: Annotated[str | None, typer.Option(metavar="NAME", help="Of labels to compare with.")] = None,
    time_steps: Annotated[int | None, typer.Option(min=1, help="T; default the trained one.")] = None,
    early_exit: Annotated[
        float | None, typer.Option(metavar="MARGIN", help="Begin with few steps; double them below this margin.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts side by side.")] = 32,
    threads: Annotated[int | None, typer.Option(min=0, help="Within an operator; 0: one a core.")] = None,
    native: Annotated[Native, typer.Option(help="Whether native kernels run.")] = Native.auto,
    output: Annotated[Path | None, typer.Option(metavar="FILE.tsv", help="Write the answers as a table.")] = None,
    answers: Annotated[bool, typer.Option("--answers", help="All answers in the JSON, however many.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a shipped spiking BERT thinks of a text."""
    from snn_extreme_quant.output_files import check_writable

    if bool(text) == (file is not None):
        raise ConfigError("Give texts, - for standard input, or --file; one of them.")
    if early_exit is not None and not 0.0 <= early_exit <= 1.0:
        raise ConfigError(f"--early-exit {early_exit}: a difference of probabilities is from 0 to 1.")
    if output is not None:
        check_writable(output)
    started = time.perf_counter()
    with to_stderr():
        from snn_extreme_quant.deploy import Classifier

        quiet_onnxruntime()
        classifier = Classifier(*([model] if model else []), native=_NATIVE[native.value], threads=threads)
        columns = {"text": text_column, "pair": pair_column, "label": label_column}
        rows = _rows(text, file, columns, classifier)
        expected = _expected(rows, classifier)
        ladder = [time_steps or classifier.time_steps]
        classifier.open(min(classifier.offered) if early_exit is not None else ladder[0])
        loaded = time.perf_counter()
        found = classifier.classify(rows.texts, rows.pairs, time_steps=time_steps, early_exit=early_exit, batch=batch)
    seconds = time.perf_counter() - loaded
    cut = sum(answer.truncated for answer in found)
    if cut:
        note("warning", f"{cut} of {len(found)} texts are longer than {classifier.max_tokens} tokens and were cut off.")
    result = _summary(classifier, rows, found, expected) | {
        "seconds": seconds,
        "load_seconds": loaded - started,
        "texts_per_second": len(found) / seconds,
    }
    if output is not None:
        _write(output, rows, found)
    if as_json:
        if answers or len(found) <= _MOST_IN_JSON:
            result["answers"] = [
                _entry(*item) for item in zip(found, rows.texts, *_beside(rows, expected), strict=True)
            ]
        print_json(result)
        return
    _show(result, rows, found, expected)


def _rows(
    texts: Sequence[str] | None, file: Path | None, columns: dict[str, str | None], classifier: Classifier
) -> Texts:
    if file is not None:
        return read_file(file, columns, classifier.folder.columns)
    named = next((name for name, value in columns.items() if value is not None), None)
    if named is not None:
        raise ConfigError(f"--{named}-column names a column of --file FILE; there is no file.")
    lines = list(texts or ())
    if "-" in lines:
        if len(lines) > 1:
            raise ConfigError("- reads all texts from standard input; give no other texts with it.")
        return read_lines(sys.stdin)
    return Texts(lines, None, None)


def _expected(rows: Texts, classifier: Classifier) -> list[str] | None:
    """Return the names of the labels that a table gives; it may hold their numbers."""
    if rows.labels is None:
        return None
    names = []
    for row, label in enumerate(rows.labels):
        known = label if label in classifier.labels else None
        if known is None and label.isdecimal() and int(label) < len(classifier.labels):
            known = classifier.labels[int(label)]
        if known is None:
            raise DataError(
                f"Row {row + 1}: the label {label!r} is none of the model's: {', '.join(classifier.labels)} (or their"
                " numbers from 0). To leave labels out, name a column that is not there with --label-column ''."
            )
        names.append(known)
    return names


def _summary(
    classifier: Classifier, rows: Texts, found: Sequence[Answer], expected: Sequence[str] | None
) -> dict[str, Any]:
    count, steps = len(found), [answer.time_steps for answer in found]
    facts: dict[str, Any] = {
        "model": classifier.folder.name,
        "runtime": classifier.runtime,
        "texts": count,
        "tokens": sum(answer.tokens for answer in found),
        "truncated": sum(answer.truncated for answer in found),
        "firing_rate": sum(answer.firing_rate for answer in found) / count,
        "mean_time_steps": sum(steps) / count,
        "mean_steps_spent": sum(answer.steps_spent for answer in found) / count,
        "time_steps": {str(T): steps.count(T) for T in sorted(set(steps))},
        "energy": _energy(found),
        "labels": {label: sum(answer.label == label for answer in found) for label in classifier.labels},
    }
    if expected is not None:
        facts["accuracy"] = sum(a.label == label for a, label in zip(found, expected, strict=True)) / len(rows.texts)
    return facts


def _energy(found: Sequence[Answer]) -> dict[str, Any] | None:
    from snn_extreme_quant.accounting import CONSTANTS, Energy, Operations

    total = Energy(Operations(), Operations())
    for answer in found:
        if answer.energy is None:
            return None
        total += answer.energy
    return {
        "joules": total.spiking.joules,
        "float_joules": total.dense.joules,
        "ratio": total.ratio,
        "accumulations": total.spiking.accumulations,
        "macs": total.spiking.macs,
        "float_macs": total.dense.macs,
        "constants": CONSTANTS,
        "note": "an estimate of arithmetic alone, 45 nm, against a float BERT of the same sizes; no memory accesses",
    }


def _beside(rows: Texts, expected: Sequence[str] | None) -> tuple[Sequence[str | None], Sequence[str | None]]:
    empty = [None] * len(rows.texts)
    return rows.pairs or empty, expected or empty


def _entry(answer: Answer, text: str, pair: str | None, expected: str | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "text": text,
        "pair": pair,
        "label": answer.label,
        "probability": answer.probability,
        "probabilities": list(answer.probabilities),
        "firing_rate": answer.firing_rate,
        "time_steps": answer.time_steps,
        "steps_spent": answer.steps_spent,
        "tokens": answer.tokens,
    }
    return entry if expected is None else {**entry, "expected": expected}


def _write(path: Path, rows: Texts, found: Sequence[Answer]) -> None:
    from snn_extreme_quant.output_files import write_whole

    lines = ["text\tlabel\tprobability\ttime_steps"]
    for text, answer in zip(rows.texts, found, strict=True):
        lines.append(f"{' '.join(text.split())}\t{answer.label}\t{answer.probability:.6f}\t{answer.time_steps}")
    write_whole(path, ("\n".join(lines) + "\n").encode())


def _show(result: dict[str, Any], rows: Texts, found: Sequence[Answer], expected: Sequence[str] | None) -> None:
    if len(found) == 1:
        typer.echo(f"{found[0].label}  {100 * found[0].probability:.1f} %")
    elif len(found) <= _MOST_SHOWN:
        table = [
            (answer.label, f"{100 * answer.probability:.1f} %", answer.time_steps, f"{answer.firing_rate:.3f}", text)
            for answer, text in zip(found, rows.texts, strict=True)
        ]
        print_table(("label", "probability", "T", "firing rate", "text"), table)
    else:
        labels = ", ".join(f"{name} {number:,}" for name, number in result["labels"].items())
        typer.echo(f"{result['texts']:,} texts: {labels}")
    if expected is not None:
        typer.echo(f"accuracy      {100 * result['accuracy']:.2f} % of {len(found):,}")
    steps = f"T = {found[0].time_steps}"
    if len(result["time_steps"]) > 1 or result["mean_steps_spent"] != result["mean_time_steps"]:
        parts = ", ".join(f"{number:,} at {T}" for T, number in result["time_steps"].items())
        steps = f"mean T = {result['mean_time_steps']:.1f} ({parts}); {result['mean_steps_spent']:.1f} steps spent"
    typer.echo(f"firing rate   {result['firing_rate']:.3f} of neurons a step; {steps}; {result['tokens']:,} tokens")
    speed = f"; {result['texts_per_second']:,.0f} texts a second" if len(found) > 1 else ""
    typer.echo(
        f"time          {1000 * result['seconds']:.0f} ms{speed} (and {result['load_seconds']:.2f} s to load"
        f" {result['model']}, {result['runtime']})"
    )
    energy = result["energy"]
    if energy is not None:
        typer.echo(
            f"energy        about {_joules(energy['joules'])}, {100 * energy['ratio']:.0f} % of the"
            f" {_joules(energy['float_joules'])} of a float BERT of this size (estimate: arithmetic alone, at 0.9 pJ an"
            " accumulation and 4.6 pJ a multiply-accumulate)"
        )


def _joules(value: float) -> str:
    """Return an energy with a fitting unit.

    Example:
        >>> _joules(2.149e-4), _joules(3.0)
        ('215 µJ', '3.00 J')
    """
    for factor, unit in ((1.0, "J"), (1e3, "mJ"), (1e6, "µJ")):
        if value * factor >= 1.0:
            return f"{value * factor:.3g} {unit}" if value * factor >= 10 else f"{value * factor:.2f} {unit}"
    return f"{value * 1e9:.3g} nJ"
