"""``sxq train``: a recipe carried out, with a progress bar."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_extreme_quant.errors import ConfigError

from .output import AsJson, print_json, print_table
from .streams import to_stderr

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from snn_extreme_quant.training import TrainingResult
    from snn_extreme_quant.training.loop import Progress

__all__ = ["train"]


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A TOML file, or the name of a recipe of the package.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where models and log go.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: train.seed=1.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a spiking language model by a recipe: distil it from a teacher, measure it on the dev set."""
    with to_stderr():
        from snn_extreme_quant.training.recipe_files import load_recipe

        loaded = load_recipe(recipe, change or ())
        folder = Path("runs") / Path(recipe).stem if out is None else out
        if folder.is_file():
            raise ConfigError(f"--out {folder} is a file; name a folder.")
        import torch

        from snn_extreme_quant.training.loop import train as run

        if threads is not None:
            torch.set_num_threads(threads)
        with _Display() as display:
            result = run(loaded, folder, resume=resume, report=display.show)
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        _print(result)


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
    rows = [
        ("last", *(f"{result.metrics[name]:.4f}" for name in names), f"{result.firing_rate:.3f}"),
        ("best", *(f"{result.best[name]:.4f}" for name in names), f"{result.best['firing_rate']:.3f}"),
    ]
    for steps, figures in result.by_time_steps.items():
        rows.append(
            (f"last, T = {steps}", *(f"{figures[name]:.4f}" for name in names), f"{figures['firing_rate']:.3f}")
        )
    print_table(("model", *names, "firing rate"), rows)
    typer.echo(f"{result.folder}: best, last, log.jsonl, result.json")
