"""``sxq pack``: a model folder of what ``sxq train`` wrote."""

from __future__ import annotations

import json
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_extreme_quant.errors import CheckpointError, ConfigError

from .language import language_folder
from .output import AsJson, print_json, print_table
from .streams import quiet_onnxruntime, to_stderr

if TYPE_CHECKING:
    from snn_extreme_quant.data import Rows, Task
    from snn_extreme_quant.training.run_folder import RunFolder

__all__ = ["pack"]

Which = StrEnum("Which", ["best", "last"])
_ABOUT = "about.toml"
#: What a file may answer unlike the model before the command says no: sums of reals may be added in another order.
_LEAST_AGREEMENT = 0.99


def pack(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder of sxq train, or of save_pretrained.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The folder to make.")],
    which: Annotated[Which, typer.Option(help="Which model of the run; best was chosen by the dev set.")] = Which.last,
    embeddings: Annotated[
        int | None, typer.Option(metavar="BITS", help="Of the tables, 2 to 16; 32: float. Default 4.")
    ] = None,
    time_steps: Annotated[
        str | None, typer.Option(metavar="T,T,...", help="Offered beside the trained T; default 4,8,16,32,64.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Folder with the task's dev split; of a language model a text.")
    ] = None,
    text_column: Annotated[str | None, typer.Option(metavar="NAME", help="Of the task's tables.")] = None,
    pair_column: Annotated[str | None, typer.Option(metavar="NAME", help="Of the second texts.")] = None,
    label_column: Annotated[str | None, typer.Option(metavar="NAME", help="Of the labels.")] = None,
    labels: Annotated[str | None, typer.Option(metavar="A,B,...", help="Names of the labels.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the model; default the folder's.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a folder for sxq classify, or of a language model for sxq generate: weights, graph, figures, model card."""
    with to_stderr():
        import torch

        from snn_extreme_quant.deploy import Packing, pack_model
        from snn_extreme_quant.training.run_folder import read_run

        quiet_onnxruntime()
        if threads is not None:
            torch.set_num_threads(threads)
        source = run if (run / "config.json").is_file() else run / which.value
        if not (source / "config.json").is_file():
            raise CheckpointError(f"{run} holds neither a model nor {which.value}/; name a folder of sxq train.")
        read = read_run(run, which.value) or read_run(source.parent, which.value)
        of_classifiers = {
            "--embeddings": embeddings, "--time-steps": time_steps, "--text-column": text_column,
            "--pair-column": pair_column, "--label-column": label_column, "--labels": labels,
        }  # fmt: skip
        if language_folder(source) is not None:
            if given := [option for option, value in of_classifiers.items() if value is not None]:
                raise ConfigError(f"{source} is a language model, which has no {given[0]}; leave it out.")
            made = _pack_language(source, output, name or output.resolve().name, read, data)
        else:
            task = _task(None if read is None else read.task, source, (text_column, pair_column, label_column))
            packing = Packing(
                name=name or output.resolve().name,
                task=task,
                labels=_labels(labels, task, source),
                max_tokens=128 if read is None else read.max_tokens,
                embeddings=4 if embeddings is None else embeddings,
                time_steps=None if time_steps is None else _steps(time_steps),
                facts=({} if read is None else read.facts) | _about(output / _ABOUT),
                rows=_rows(task, data, None if read is None else read.data),
            )
            made = pack_model(source, output, packing)
    _say(output, made, as_json=as_json)
    if made.get("dev", {}).get("agreement_with_torch", 1.0) < _LEAST_AGREEMENT:
        raise typer.Exit(1)


def _pack_language(source: Path, output: Path, name: str, read: RunFolder | None, data: Path | None) -> dict[str, Any]:
    """Make a folder of a SpikeGPT; the dev text is the one named, or the run's."""
    from snn_extreme_quant.data import read_document
    from snn_extreme_quant.deploy import LanguagePacking, pack_language
    from snn_extreme_quant.training.language import split_text

    text = None
    if data is not None:
        text = read_document(data)
    elif read is not None and read.text is not None and read.data.is_dir():
        text = split_text(read.text, read.data)[1]
    facts = ({} if read is None else read.facts) | _about(output / _ABOUT)
    return pack_language(source, output, LanguagePacking(name, facts, text))


def _task(known: Task | None, source: Path, columns: tuple[str | None, str | None, str | None]) -> Task:
    """Return the run's task, or that of a model alone: of regression if it has one output."""
    from dataclasses import replace

    from snn_extreme_quant.data import Task

    if known is None:
        known = Task("texts")
        try:
            config = json.loads((source / "config.json").read_text(encoding="utf-8"))["config"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{source / 'config.json'} is not of a SpikingBert: {error!r}.") from error
        if config.get("classes") == 1:
            known = Task("texts", label="score", regression=True, metrics=("pearson", "spearman"))
    text, pair, label = columns
    return replace(known, text=text or known.text, pair=pair or known.pair, label=label or known.label)


def _steps(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--time-steps {text}: give numbers, as 4,8,16.")
    return tuple(map(int, parts))


def _labels(asked: str | None, task: Task, source: Path) -> tuple[str, ...]:
    from snn_extreme_quant.data.tasks import LABEL_NAMES

    if task.regression and asked is None:
        return ()
    if asked is not None:
        return tuple(part.strip() for part in asked.split(","))
    if names := task.labels or LABEL_NAMES.get(task.name, ()):
        return names
    raise ConfigError(
        f"{source} does not say what its labels are called; give --labels, in the order of their numbers."
    )


def _rows(task: Task, asked: Path | None, trained_on: Path | None) -> Rows | None:
    from snn_extreme_quant.data import read_rows

    if asked is not None:
        return read_rows(task, asked, task.dev)
    if trained_on is not None and trained_on.is_dir():
        return read_rows(task, trained_on, task.dev)
    return None


def _about(path: Path) -> dict[str, Any]:
    """Read what no run knows: data, teacher, licences."""
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error


def _say(output: Path, made: dict[str, Any], *, as_json: bool) -> None:
    """Print the folder's files, and its figures."""
    files = {path.name: path.stat().st_size for path in sorted(output.iterdir()) if path.is_file()}
    if as_json:
        print_json({**made, "files": [{"name": name, "bytes": size} for name, size in files.items()]})
        return
    print_table(("file", "bytes"), [(name, f"{size:,}") for name, size in files.items()])
    typer.echo(f"{output}: {sum(files.values()):,} bytes")
    if made.get("kind") == "language":
        _print_language(made)
    else:
        _print(made)


def _print_language(made: dict[str, Any]) -> None:
    checked, dev = made["verified"], made.get("dev")
    typer.echo(
        f"{checked['different_spikes']} of {checked['spikes']:,} spikes and {checked['different_values']} of"
        f" {checked['values']:,} other values differ from the model in torch, over {checked['tokens']:,} tokens"
    )
    if dev is None:
        typer.echo("no figures: the dev text was not found; name it with --data")
    else:
        typer.echo(f"{dev['bits_per_character']:.4f} bits per character of {dev['characters']:,}, by the file")


def _print(made: dict[str, Any]) -> None:
    dev = made.get("dev")
    if dev is None:
        typer.echo("no figures: the dev split was not found; name its folder with --data")
        return
    metrics = made["task"]["metrics"]
    rows = [
        (T, *(f"{100 * e[m]:.2f} %" for m in metrics), f"{e['firing_rate']:.3f}", f"{100 * e['energy_ratio']:.1f} %")
        for T, e in dev["by_time_steps"].items()
    ]
    print_table(("T", *metrics, "firing rate", "energy of float"), rows)
    typer.echo(
        f"the file answers as the model in torch on {100 * dev['agreement_with_torch']:.2f} % of {dev['rows']:,}"
    )
