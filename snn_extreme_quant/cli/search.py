"""``sxq search``: a precision for each layer, with what it tries on the screen."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_extreme_quant.errors import ConfigError, SearchError

from .models import Checkpoint
from .output import AsJson, print_json
from .streams import to_stderr

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from snn_extreme_quant.config import PrecisionPlan
    from snn_extreme_quant.precision_search import SearchResult
    from snn_extreme_quant.precision_search.algorithm import Progress

__all__ = ["search"]

Exact = StrEnum("Exact", ["front", "chosen"])
Text = str | None


def search(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="MODULE:NAME, or a folder of sxq train.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where the plan goes.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Points of accuracy, or perplexity.")] = None,
    max_memory: Annotated[Text, typer.Option(metavar="SIZE", help="400MB, 16MiB, or 12% of float32.")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Folder with the dev split; of an LM a text.")
    ] = None,
    evaluate: Annotated[Text, typer.Option(metavar="MODULE:NAME", help="A function of a model, or evaluator.")] = None,
    checkpoint: Checkpoint = None,
    metric: Annotated[Text, typer.Option(help="Of a function: accuracy or perplexity.")] = None,
    levels: Annotated[Text, typer.Option(metavar="B,B,...", help="Numbers of bits.")] = None,
    alpha: Annotated[float, typer.Option(help="What all memory is worth, in points or perplexity.")] = 10.0,
    tiers: Annotated[str, typer.Option(metavar="T,T,...", help="Of global, block, module, matrix.")] = (
        "global,block,module"
    ),
    tie: Annotated[list[str] | None, typer.Option(help="blocks, modules: of the body, lowered together.")] = None,
    skip: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Layers that stay in float.")] = None,
    hierarchy: Annotated[Path | None, typer.Option(metavar="FILE", help="Blocks and modules, as JSON.")] = None,
    sensitivity: Annotated[float, typer.Option(help="Share of the examples in the sweep.")] = 0.0625,
    survey: Annotated[float, typer.Option(help="Share after which estimates decide on the way; 1: none do.")] = 0.25,
    confidence: Annotated[float, typer.Option(help="Of early decisions; 0: evaluate all in full.")] = 0.99,
    exact: Annotated[Exact, typer.Option(help="What is evaluated in full at the end.")] = Exact.chosen,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="Kept, and gone on with.")] = None,
    result: Annotated[Path | None, typer.Option(metavar="FILE", help="All candidates, for sxq plot search.")] = None,
    reuse: Annotated[str, typer.Option(metavar="SIZE", help="Activations kept in a process; 0: none.")] = "1GB",
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the examples.")] = 0,
    streams: Annotated[int, typer.Option(min=1, help="Parts of the text, each from the start.")] = 128,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of a sentence; default the run's.")] = None,
    text_column: Annotated[Text, typer.Option(metavar="NAME", help="Of the sentences.")] = None,
    pair_column: Annotated[Text, typer.Option(metavar="NAME", help="Of second sentences.")] = None,
    label_column: Annotated[Text, typer.Option(metavar="NAME", help="Of the labels.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes of Ray.")] = 0,
    address: Annotated[Text, typer.Option(help="Of a Ray cluster.")] = None,
    finetune: Annotated[int, typer.Option(min=0, metavar="STEPS", help="Train the plan; 0: do not.")] = 0,
    save: Annotated[Path | None, typer.Option(metavar="PATH", help="Where the trained model goes.")] = None,
    train_data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Folder with the train split; of an LM a text.")
    ] = None,
    loss: Annotated[Text, typer.Option(metavar="MODULE:NAME", help="A function of a model and a step.")] = None,
    rate: Annotated[float, typer.Option(help="Learning rate of the first step.")] = 1e-4,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find a precision for each layer, within limits of quality and memory (QSLM)."""
    with to_stderr():
        from snn_extreme_quant.output_files import check_writable

        from .polished import loss_of, save_polished
        from .searched import Data, searched

        if bool(finetune) != (save is not None):
            raise ConfigError("--finetune STEPS and --save PATH belong together: give both, or neither.")
        for path in (output, result):
            if path is not None:
                check_writable(path)
        options: dict[str, Any] = {
            "levels": _levels(levels), "alpha": alpha, "metric": metric, "tiers": _words(tiers), "ties": tie or (),
            "skip": skip or (), "hierarchy": _described(hierarchy), "sensitivity": sensitivity,
            "confidence": confidence or None, "exact": exact.value, "log": log, "seed": seed, "workers": workers,
            "address": address, "survey": survey, "reuse": reuse,
        }  # fmt: skip
        options = {name: value for name, value in options.items() if name != "levels" or value is not None}
        import torch

        from snn_extreme_quant.precision_search import polish
        from snn_extreme_quant.precision_search.polishing import check_loss

        if threads is not None:
            torch.set_num_threads(threads)
        where = Data(data, evaluate, streams, max_tokens, text_column, pair_column, label_column)
        made, evaluator = searched(model, checkpoint, where)
        trained = loss_of(model, made, where, train_data, loss) if finetune else None
        if trained is not None:
            check_loss(made, trained, seed)
        found = _run(made, evaluator, result, {"max_drop": max_drop, "max_memory": max_memory, **options})
        plan = found.plan
        _write(output, plan)  # before the training, which may fail
        polished = None
        if trained is not None and save is not None and (found.chosen or found.least_drop):
            polished = polish(made, evaluator, found, trained, steps=finetune, rate=rate, seed=seed)
            save_polished(save, polished.model, model)
            if plan is None and polished.feasible:  # the training made it so
                plan = polished.plan
                _write(output, plan)
    if as_json:
        print_json(found.to_dict() | ({} if polished is None else {"polished": polished.to_dict()}))
    else:
        typer.echo(str(found))
        for line in (polished, polished and save, plan and output):
            if line is not None:
                typer.echo(str(line))
    if plan is None:
        raise typer.Exit(1)


def _run(model: nn.Module, evaluator: Any, path: Path | None, options: dict[str, Any]) -> SearchResult:
    """Search, and write the result, also of a search that failures stopped."""
    from snn_extreme_quant.precision_search import SearchResult
    from snn_extreme_quant.precision_search import search as run

    try:
        with _shown() as show:
            found = run(model, evaluator, report=show, **options)
    except SearchError as error:
        if path is not None and isinstance(error.result, SearchResult):
            error.result.save(path)
        raise
    if path is not None:
        found.save(path)
    return found


def _write(path: Path | None, plan: PrecisionPlan | None) -> None:
    from snn_extreme_quant.output_files import write_whole

    if path is not None and plan is not None:
        write_whole(path, plan.to_json().encode())


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _levels(text: Text) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in _words(text)]
    except ValueError:
        raise ConfigError(f"--levels {text}: give numbers of bits, as 8,4,1.58.") from None


def _described(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--hierarchy {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"--hierarchy {path} is no JSON: {error}.") from error


@contextmanager
def _shown() -> Iterator[Any]:
    """Show on standard error where the search is, while it runs."""
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        yield lambda progress: live.update(_table(progress))


def _table(progress: Progress) -> Table:
    from rich.table import Table

    from snn_extreme_quant.precision_search.levels import level_name
    from snn_extreme_quant.precision_search.result import megabytes

    table = Table.grid(padding=(0, 2))
    level = "" if progress.level is None else f" at {level_name(progress.level)} bit"
    quality = "failed" if math.isnan(progress.quality) else f"{progress.quality:.4g}"
    best = "none yet" if progress.best is None else f"{progress.best[1]:.4g} in {megabytes(progress.best[0])}"
    for name, value in (
        ("tier", progress.tier), ("candidate", f"{progress.group}{level}"), ("memory", megabytes(progress.memory)),
        ("quality", quality), ("best", best), ("examples", f"{progress.examples:,}"),
    ):  # fmt: skip
        table.add_row(name, value)
    return table
