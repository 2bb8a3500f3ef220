"""``sxq plot``: figures of a spiking BERT, or of a search of precisions, as PNG or SVG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_extreme_quant.errors import CheckpointError, DataError, OutputPathError, SxqError

from .streams import quiet_onnxruntime, to_stderr
from .texts import Texts, read_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from snn_extreme_quant.data import Task
    from snn_extreme_quant.report.rates import Convergence

__all__ = ["plot"]

plot = typer.Typer(no_args_is_help=True, help="Draw rates, accuracy over T, firing rates, or a search.")
_MOST_TEXTS = 128

Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A .png or .svg file.")]
Data = Annotated[Path | None, typer.Option(metavar="FILE", help="A table of texts; default a dozen sentences.")]
Column = Annotated[str | None, typer.Option(metavar="NAME", help="Of the texts in --data.")]
PairColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of second texts in --data, for a model of pairs.")
]


@plot.command()
def asr(
    output: Output,
    model: Annotated[str, typer.Option(metavar="MODEL", help="A shipped model, or a folder.")] = "",
    other: Annotated[
        list[str] | None, typer.Option("--other", metavar="FOLDER", help="To compare with, as a float one.")
    ] = None,
    data: Data = None,
    text_column: Column = None,
    pair_column: PairColumn = None,
    most: Annotated[int | None, typer.Option(min=2, help="Time steps to compare with.")] = None,
) -> None:
    """Draw how average spiking rates settle over time steps, by sub-layer, and the output's of several models."""
    _check_output(output)
    with to_stderr():
        from snn_extreme_quant.deploy.model_folders.folder import DEFAULT_MODEL
        from snn_extreme_quant.report.figures import draw_convergence

        texts = _texts(data, text_column, pair_column, None, pairs=pair_column is not None)
        names = [model or DEFAULT_MODEL, *(other or ())]
        draw_convergence(output, dict(_convergence(name, texts, most) for name in names))
    typer.echo(str(output))


def _short(name: str) -> str:
    path = Path(name)
    return path.parent.name if path.name in ("best", "last") else path.name


def _convergence(name: str, texts: Texts, most: int | None) -> tuple[str, Convergence]:
    """Return a model's name with its weights, and how its rates settle."""
    import torch
    from tokenizers import Tokenizer

    from snn_extreme_quant.deploy.model_folders.card import encoder_weights
    from snn_extreme_quant.models import SpikingBert, zoo
    from snn_extreme_quant.report.rates import convergence

    folder = zoo.path(name) if name in zoo.names() else Path(name)
    model = SpikingBert.from_pretrained(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: put the model's tokenizer there.")
    tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(64, model.config.positions))
    both = texts.texts if texts.pairs is None else list(zip(texts.texts, texts.pairs, strict=True))
    encoded = tokenizer.encode_batch(both)
    length = max(len(entry.ids) for entry in encoded)
    ids, mask, types = (torch.zeros(len(encoded), length, dtype=torch.long) for _ in range(3))
    for row, entry in enumerate(encoded):
        end = len(entry.ids)
        ids[row, :end], mask[row, :end] = torch.tensor(entry.ids), 1
        types[row, :end] = torch.tensor(entry.type_ids)
    return f"{_short(name)} ({encoder_weights(model.config)})", convergence(model, ids, mask, most, types)


@plot.command()
def accuracy(
    output: Output,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="A shipped model, or a folder; several times.")
    ] = None,
) -> None:
    """Draw dev accuracy and firing rate over time steps, as they were measured when the models were made."""
    _check_output(output)
    with to_stderr():
        from snn_extreme_quant.models import zoo
        from snn_extreme_quant.report.figures import draw_accuracy

        draw_accuracy(output, {_short(name): _by_steps(name) for name in model or zoo.names("classifier")})
    typer.echo(str(output))


def _by_steps(name: str) -> Mapping[int, Mapping[str, float]]:
    """Return the figures by T of a model folder, or of a run that has ended."""
    from snn_extreme_quant.models import zoo

    folder = zoo.path(name) if name in zoo.names() else Path(name)
    for file, keys in (("run.json", ("dev", "by_time_steps")), ("result.json", ("by_time_steps",))):
        path = folder / file
        if not path.is_file():
            continue
        try:
            found: Any = json.loads(path.read_text(encoding="utf-8"))
            for key in keys:
                found = found[key]
            return {int(T): figures for T, figures in found.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} holds no figures by time steps ({error!r}); pack with --data.") from error
    raise DataError(f"{folder} holds neither run.json (sxq pack) nor result.json (sxq train).")


@plot.command()
def firing(
    output: Output,
    model: Annotated[str, typer.Option(metavar="MODEL", help="A shipped model, a folder, or a .onnx file.")] = "",
    data: Data = None,
    text_column: Column = None,
    pair_column: PairColumn = None,
    time_steps: Annotated[int | None, typer.Option(min=1, help="T; default the trained one.")] = None,
) -> None:
    """Draw the firing rate of each layer of neurons on texts."""
    _check_output(output)
    with to_stderr():
        from snn_extreme_quant.deploy import Classifier
        from snn_extreme_quant.report.figures import draw_firing

        quiet_onnxruntime()
        classifier = Classifier(*([model] if model else []))
        texts = _texts(data, text_column, pair_column, classifier.folder.task, pairs=classifier.takes_pairs)
        rates = classifier.firing_rates(texts.texts, texts.pairs, time_steps=time_steps)
        steps = time_steps or classifier.time_steps
        what = "texts" if texts.pairs is None else "pairs"
        draw_firing(output, rates, f"{classifier.folder.name}, T = {steps}, {len(texts.texts)} {what}")
    typer.echo(str(output))


@plot.command()
def search(
    output: Output,
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="What sxq search --result wrote.")],
) -> None:
    """Draw a search of precisions: sensitivity of blocks, Pareto front with limits, way through the tiers."""
    _check_output(output)
    with to_stderr():
        from snn_extreme_quant.precision_search import SearchResult
        from snn_extreme_quant.report.search_figure import draw_search

        found = SearchResult.load(result)
        try:
            draw_search(output, found)
        except SxqError:
            raise
        except (KeyError, TypeError, IndexError, ValueError, AttributeError, ArithmeticError) as error:
            raise DataError(f"{result} is damaged, what it holds cannot be drawn: {error!r}.") from error
    typer.echo(str(output))


def _check_output(path: Path) -> None:
    from snn_extreme_quant.output_files import check_writable

    if path.suffix not in (".png", ".svg"):
        raise OutputPathError(f"--output {path}: figures are written as .png or .svg; name the file so.")
    check_writable(path)


def _texts(data: Path | None, column: str | None, second: str | None, task: Task | None, *, pairs: bool) -> Texts:
    """Return texts of a table, or sentences of ours; with ``pairs`` two of them each."""
    if data is not None:
        asked = {"text": column, "pair": second if pairs or second else "", "label": ""}
        read = read_file(data, asked, task)
        return Texts(read.texts[:_MOST_TEXTS], None if read.pairs is None else read.pairs[:_MOST_TEXTS], None)
    from snn_extreme_quant.report.sentences import SENTENCES

    own = list(SENTENCES)
    return Texts(own, [*own[1:], own[0]] if pairs else None, None)
