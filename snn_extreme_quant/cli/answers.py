"""What ``sxq classify`` says of its answers: figures, JSON, a table, lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import typer

from snn_extreme_quant.errors import DataError, MissingDependencyError

from .output import print_table
from .streams import note
from .texts import Texts

if TYPE_CHECKING:
    from snn_extreme_quant.data import Task
    from snn_extreme_quant.deploy import Answer, Classifier, GptClassifier

__all__ = ["entries", "expected_labels", "show", "summary", "write_table"]

#: So many answers are shown one by one.
_MOST_SHOWN = 20


def expected_labels(rows: Texts, classifier: Classifier | GptClassifier) -> list[float] | None:
    """Return what a table says the answers are: scores, or the numbers of labels, whose names it may hold.

    Raises:
        DataError: the model knows no such label.
    """
    if rows.labels is None:
        return None
    found = []
    for row, label in enumerate(rows.labels):
        number = _number(label, classifier)
        if number is None:
            names = ", ".join(classifier.labels)
            what = (
                "is no number"
                if classifier.regression
                else f"is none of the model's: {names} (or their numbers from 0)"
            )
            raise DataError(f"Row {row + 1}: the label {label!r} {what}. Labels are left alone with --label-column ''.")
        found.append(number)
    return found


def _number(label: str, classifier: Classifier | GptClassifier) -> float | None:
    if classifier.regression:
        try:
            score = float(label)
        except ValueError:
            return None
        return score if math.isfinite(score) else None
    if label in classifier.labels:
        return float(classifier.labels.index(label))
    return float(label) if label.isdecimal() and int(label) < len(classifier.labels) else None


def summary(
    classifier: Classifier | GptClassifier, found: Sequence[Answer], expected: Sequence[float] | None
) -> dict[str, Any]:
    """Return the figures of all answers together."""
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
        facts["metrics"] = _metrics(classifier, found, expected)
        if not classifier.regression:
            named = [classifier.labels[int(number)] for number in expected]
            facts["accuracy"] = sum(a.label == label for a, label in zip(found, named, strict=True)) / count
    return facts


def _metrics(
    classifier: Classifier | GptClassifier, found: Sequence[Answer], expected: Sequence[float]
) -> dict[str, float]:
    """Return the metrics of the model's task; none, with a warning, where a library that measures them is missing."""
    import numpy as np

    from snn_extreme_quant.data.metrics import measure

    values = [answer.probabilities if answer.score is None else (answer.score,) for answer in found]
    try:
        return measure(_task(classifier), np.asarray(expected, np.float64), np.asarray(values, np.float64))
    except MissingDependencyError as error:
        note("warning", f"not measured: {error}")
        return {}


def _task(classifier: Classifier | GptClassifier) -> Task:
    """Return the model's task; of a bare file one that fits its answers."""
    from snn_extreme_quant.data.tasks import Task

    if classifier.folder.task is not None:
        return classifier.folder.task
    return Task("texts", regression=True, metrics=("pearson", "spearman")) if classifier.regression else Task("texts")


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


def entries(
    classifier: Classifier | GptClassifier, rows: Texts, found: Sequence[Answer], expected: Sequence[float] | None
) -> list[dict[str, Any]]:
    """Return each answer as the JSON has it."""
    made = []
    for row, answer in enumerate(found):
        entry: dict[str, Any] = {"text": rows.texts[row], "pair": None if rows.pairs is None else rows.pairs[row]}
        if answer.score is not None:
            entry["score"] = answer.score
        else:
            entry |= {
                "label": answer.label,
                "probability": answer.probability,
                "probabilities": list(answer.probabilities),
            }
        entry |= {
            "firing_rate": answer.firing_rate,
            "time_steps": answer.time_steps,
            "steps_spent": answer.steps_spent,
            "tokens": answer.tokens,
        }
        if expected is not None:
            entry["expected"] = expected[row] if classifier.regression else classifier.labels[int(expected[row])]
        made.append(entry)
    return made


def write_table(path: Path, classifier: Classifier | GptClassifier, rows: Texts, found: Sequence[Answer]) -> None:
    """Write text, second text, answer and T of each row."""
    from snn_extreme_quant.output_files import write_whole

    answers = ["score"] if classifier.regression else ["label", "probability"]
    lines = [["text", *(["pair"] if rows.pairs is not None else []), *answers, "time_steps"]]
    for row, answer in enumerate(found):
        texts = [rows.texts[row], *([rows.pairs[row]] if rows.pairs is not None else [])]
        given = [f"{answer.score:.6f}"] if answer.score is not None else [answer.label, f"{answer.probability:.6f}"]
        lines.append([*(" ".join(text.split()) for text in texts), *given, str(answer.time_steps)])
    write_whole(path, ("\n".join("\t".join(line) for line in lines) + "\n").encode())


def show(result: dict[str, Any], rows: Texts, found: Sequence[Answer], *, labelled: bool) -> None:
    """Print the answers, or how many there are of each, and what they took."""
    if len(found) == 1:
        typer.echo("  ".join(_said(found[0])))
    elif len(found) <= _MOST_SHOWN:
        head = ("label", "probability") if found[0].score is None else ("score",)
        second = [[]] * len(found) if rows.pairs is None else [[pair] for pair in rows.pairs]
        table = [
            (*_said(answer), answer.time_steps, f"{answer.firing_rate:.3f}", text, *pair)
            for answer, text, pair in zip(found, rows.texts, second, strict=True)
        ]
        print_table((*head, "T", "firing rate", "text", *(["pair"] if rows.pairs is not None else [])), table)
    elif found[0].score is None:
        labels = ", ".join(f"{name} {number:,}" for name, number in result["labels"].items())
        typer.echo(f"{result['texts']:,} texts: {labels}")
    else:
        scores = [answer.score for answer in found if answer.score is not None]
        typer.echo(
            f"{result['texts']:,} texts: scores from {min(scores):.2f} to {max(scores):.2f}, mean {fmean(scores):.2f}"
        )
    if labelled:
        if "accuracy" in result:
            typer.echo(f"accuracy      {100 * result['accuracy']:.2f} % of {len(found):,}")
        for name, value in result["metrics"].items():
            if name != "accuracy":
                typer.echo(f"{name:13} {value:.4f}")
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


def _said(answer: Answer) -> tuple[str, ...]:
    """Return an answer's words: label and probability, or score."""
    if answer.score is not None:
        return (f"{answer.score:.3f}",)
    return answer.label, f"{100 * answer.probability:.1f} %"


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
