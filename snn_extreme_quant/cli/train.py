"""``sxq train``: a recipe carried out, with a progress bar."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_extreme_quant.errors import ConfigError

from .output import AsJson, print_json, print_table
from .streams import to_stderr

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from snn_extreme_quant.training import Recipe, TrainingResult
    from snn_extreme_quant.training.loop import Progress

__all__ = ["train"]


#: Options that stand for a value of the recipe.
_SHORT = {
    "data": "task.data",
    "teacher": "teacher.path",
    "base": "base.path",
    "start": "start.path",
    "text_column": "task.text",
    "pair_column": "task.pair",
    "label_column": "task.label",
}
Text = str | None


def train(
    recipe: Annotated[
        Text, typer.Argument(metavar="RECIPE", help="A TOML file, or the name of a recipe of the package.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where models and log go.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    data: Annotated[Text, typer.Option(metavar="FOLDER", help='Tables "train" and "dev", or "hub".')] = None,
    teacher: Annotated[Text, typer.Option(metavar="PATH", help="Folder or hub id of the teacher.")] = None,
    base: Annotated[Text, typer.Option(metavar="PATH", help="Folder or hub id that a teacher starts from.")] = None,
    start: Annotated[Text, typer.Option(metavar="FOLDER", help="A student of an earlier run to start from.")] = None,
    text_column: Annotated[Text, typer.Option(metavar="NAME", help="Column of the sentence.")] = None,
    pair_column: Annotated[Text, typer.Option(metavar="NAME", help="Column of a second sentence.")] = None,
    label_column: Annotated[Text, typer.Option(metavar="NAME", help="Column of the label.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: train.seed=1.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write a log for TensorBoard too.")] = False,
    names: Annotated[bool, typer.Option("--list", help="Name the recipes of the package and leave.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train by a recipe: distil a spiking language model from a teacher, or fine-tune a teacher."""
    given = locals()
    with to_stderr():
        from snn_extreme_quant.training.recipe_files import load_recipe, shipped_recipes
    if names:
        _list(shipped_recipes(), as_json)
        return
    if recipe is None:
        raise ConfigError("Name a recipe: a TOML file, or one of the package's (sxq train --list).")
    changes = [f"{key}={json.dumps(given[name])}" for name, key in _SHORT.items() if given[name] is not None]
    with to_stderr():
        loaded = load_recipe(recipe, [*changes, *(change or ())])
        folder = Path("runs") / Path(recipe).stem if out is None else out
        if folder.is_file():
            raise ConfigError(f"--out {folder} is a file; name a folder.")
        first = os.environ.get("RANK", "0") == "0"  # of several processes one writes
        result = _run(loaded, folder, resume, threads, tensorboard and first, first)
    if not first:
        return
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        _print(result)


def _run(
    recipe: Recipe, folder: Path, resume: bool, threads: int | None, tensorboard: bool, shown: bool
) -> TrainingResult:
    import torch

    from snn_extreme_quant.training.event_log import EventLog
    from snn_extreme_quant.training.loop import train as run

    if threads is not None:
        torch.set_num_threads(threads)
    with contextlib.ExitStack() as stack:
        reports: list[Callable[[Progress], None]] = []
        if tensorboard:
            reports.append(stack.enter_context(EventLog(folder / "tensorboard")))
        if shown:
            reports.append(stack.enter_context(_Display()).show)

        def report(progress: Progress) -> None:
            for each in reports:
                each(progress)

        return run(recipe, folder, resume=resume, report=report)


def _list(recipes: dict[str, Path], as_json: bool) -> None:
    """Print the recipes with the first line of each, a comment."""
    about = {name: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for name, path in recipes.items()}
    if as_json:
        print_json(about)
    else:
        print_table(("recipe", "what it trains"), list(about.items()))


class _Display:
    """One bar a stage on standard error: loss, dev figures, firing rate."""

    def __init__(self) -> None:
        self.bar: Bar | None = None
        self.tasks: dict[str, TaskID] = {}
        self.dev = ""

    def __enter__(self) -> _Display:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns: tuple[Any, ...] = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )  # fmt: skip
        self.bar = Progress(*columns, console=Console(stderr=True))
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def show(self, progress: Progress) -> None:
        """Draw where the run is."""
        if self.bar is None:
            return
        if progress.stage not in self.tasks:
            self.tasks[progress.stage] = self.bar.add_task(progress.stage, total=progress.steps, figures="")
        if progress.dev is not None:
            self.dev = "  dev " + " ".join(f"{name} {value:.4f}" for name, value in progress.dev.items())
        figures = f"loss {progress.losses['loss']:.4f}{self.dev}"
        self.bar.update(self.tasks[progress.stage], completed=progress.step, figures=figures)


def _print(result: TrainingResult) -> None:
    names = list(result.metrics)
    spikes = result.firing_rate is not None
    rows = [
        _row("last", {**result.metrics, "firing_rate": result.firing_rate}, names, spikes),
        _row("best", result.best, names, spikes),
        *(_row(f"last, T = {steps}", figures, names, spikes) for steps, figures in result.by_time_steps.items()),
    ]
    print_table(("model", *names, *(["firing rate"] if spikes else [])), rows)
    typer.echo(f"{result.folder}: best, last, log.jsonl, result.json")


def _row(name: str, figures: Mapping[str, float | None], metrics: list[str], spikes: bool) -> tuple[str, ...]:
    rate = [f"{figures['firing_rate']:.3f}"] if spikes else []
    return (name, *(f"{figures[metric]:.4f}" for metric in metrics), *rate)
