"""``sxq classify``: texts in, labels or scores out, without torch."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_extreme_quant.errors import ConfigError

from .answers import entries, expected_labels, show, summary, write_table
from .output import AsJson, print_json
from .streams import note, quiet_onnxruntime, to_stderr
from .texts import Texts, read_file, read_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from snn_extreme_quant.deploy import Classifier, GptClassifier

__all__ = ["classify"]

Native = StrEnum("Native", ["auto", "yes", "no"])
_NATIVE: dict[str, Any] = {"auto": "auto", "yes": True, "no": False}
#: So many answers stand in the JSON unasked.
_MOST_IN_JSON = 1000


def classify(
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="Texts; - for standard input.")] = None,
    pair: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="The second text of a pair; once for each TEXT.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A table: .tsv, .txt, .csv, or .gz of them.")
    ] = None,
    model: Annotated[str, typer.Option(metavar="MODEL", help="A shipped model, a folder, or a .onnx file.")] = "",
    text_column: Annotated[str | None, typer.Option(metavar="NAME", help="Of the table.")] = None,
    pair_column: Annotated[str | None, typer.Option(metavar="NAME", help="Of the second texts.")] = None,
    label_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of labels to compare with; '': none.")
    ] = None,
    time_steps: Annotated[int | None, typer.Option(min=1, help="T; default the trained one.")] = None,
    early_exit: Annotated[
        float | None, typer.Option(metavar="MARGIN", help="Begin with few steps; make more below this margin.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts side by side.")] = 32,
    threads: Annotated[int | None, typer.Option(min=0, help="Within an operator; 0: one a core.")] = None,
    native: Annotated[Native, typer.Option(help="Whether native kernels run.")] = Native.auto,
    output: Annotated[Path | None, typer.Option(metavar="FILE.tsv", help="Write the answers as a table.")] = None,
    answers: Annotated[bool, typer.Option("--answers", help="All answers in the JSON, however many.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a spiking BERT, by default a shipped one, or a SpikeGPT's classifier thinks of a text."""
    from snn_extreme_quant.output_files import check_writable

    if bool(text) == (file is not None):
        raise ConfigError("Give texts, - for standard input, or --file; one of them.")
    if early_exit is not None and not 0.0 <= early_exit <= 1.0:
        raise ConfigError(f"--early-exit {early_exit}: a difference of probabilities is from 0 to 1.")
    if output is not None:
        check_writable(output)
    started = time.perf_counter()
    with to_stderr():
        from snn_extreme_quant.deploy.model_folders.gpt_classifier import open_classifier

        quiet_onnxruntime()
        classifier = open_classifier(*([model] if model else []), native=_NATIVE[native.value], threads=threads)
        columns = {"text": text_column, "pair": pair_column, "label": label_column}
        rows = _rows((text, pair), file, columns, classifier)
        expected = expected_labels(rows, classifier)
        classifier.open(time_steps, early_exit=early_exit is not None)
        loaded = time.perf_counter()
        found = classifier.classify(rows.texts, rows.pairs, time_steps=time_steps, early_exit=early_exit, batch=batch)
    seconds = time.perf_counter() - loaded
    cut = sum(answer.truncated for answer in found)
    if cut:
        note("warning", f"{cut} of {len(found)} texts are longer than {classifier.max_tokens} tokens and were cut off.")
    result = summary(classifier, found, expected) | {
        "seconds": seconds,
        "load_seconds": loaded - started,
        "texts_per_second": len(found) / seconds,
    }
    if output is not None:
        write_table(output, classifier, rows, found)
    if as_json:
        if answers or len(found) <= _MOST_IN_JSON:
            result["answers"] = entries(classifier, rows, found, expected)
        print_json(result)
        return
    show(result, rows, found, labelled=expected is not None)


def _rows(
    given: tuple[Sequence[str] | None, Sequence[str] | None],
    file: Path | None,
    columns: dict[str, str | None],
    classifier: Classifier | GptClassifier,
) -> Texts:
    texts, pairs = given
    if file is not None:
        if pairs:
            raise ConfigError("--pair goes with texts; of a table name the second texts with --pair-column.")
        return read_file(file, columns, classifier.folder.task)
    named = next((name for name, value in columns.items() if value is not None), None)
    if named is not None:
        raise ConfigError(f"--{named}-column names a column of --file FILE; there is no file.")
    lines = list(texts or ())
    if "-" in lines:
        if len(lines) > 1:
            raise ConfigError("- reads all texts from standard input; give no other texts with it.")
        if pairs:
            raise ConfigError("- reads pairs too, two texts a line with a tab between them; give no --pair with it.")
        return read_lines(sys.stdin, pairs=classifier.takes_pairs)
    if pairs and len(pairs) != len(lines):
        raise ConfigError(f"{len(lines)} texts and {len(pairs)} second ones: give --pair once for each text.")
    return Texts(lines, list(pairs) if pairs else None, None)
