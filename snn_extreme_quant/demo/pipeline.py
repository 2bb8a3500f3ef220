"""The demo from end to end: train, quantise, train on, export, verify, time."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from snn_extreme_quant import Binary, Ternary, export_onnx, quantize_, verify
from snn_extreme_quant.config import Float, WeightConfig
from snn_extreme_quant.demo.data import Digits, over_time, split_digits
from snn_extreme_quant.demo.deployed import accuracy_by_steps, latencies_ms, output_spikes
from snn_extreme_quant.demo.figure import TITLES, draw
from snn_extreme_quant.demo.networks import Recipe, recipes
from snn_extreme_quant.demo.report import DemoReport, Row, print_report
from snn_extreme_quant.demo.training import STEPS, predict, reproducible, train

__all__ = ["FIGURE", "run_demo"]

FIGURE = "sxq_demo.png"
_VERIFY_BATCH = 180


@dataclass(frozen=True)
class _Effort:
    """How much to train and how often to time; learning rates are peaks of the schedule."""

    float_epochs: int = 12
    quantised_epochs: int = 8
    float_rate: float = 4e-3
    quantised_rate: float = 2e-3
    latency_rounds: int = 300


_QUICK = _Effort(float_epochs=2, quantised_epochs=1, latency_rounds=20)


@dataclass(frozen=True)
class _Trained:
    framework: str
    weights: str
    network: nn.Module


def _path(out: Path, framework: str, weights: str) -> Path:
    return out / f"digits_{framework}_{weights}.onnx"


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=14),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _train_all(recipe: Recipe, digits: Digits, seed: int, effort: _Effort, progress: Progress) -> list[_Trained]:
    """Train in float, then twice on from the float weights: with ternary and with binary weights in all layers."""

    def fit(network: nn.Module, config: WeightConfig, epochs: int, rate: float) -> _Trained:
        task = progress.add_task(f"{recipe.framework} {config.kind}", total=epochs, note="")

        def on_epoch(loss: float, accuracy: float) -> None:
            progress.update(task, advance=1, note=f"loss {loss:.4f}  accuracy {accuracy:.1%}")

        train(network, recipe.loss, digits, epochs=epochs, rate=rate, seed=seed, on_epoch=on_epoch)
        return _Trained(recipe.framework, config.kind, network)

    trained = [fit(recipe.build(seed), Float(), effort.float_epochs, effort.float_rate)]
    for config in (Ternary(), Binary()):
        network = recipe.build(seed)
        network.load_state_dict(trained[0].network.state_dict())
        quantize_(network, config)
        trained.append(fit(network, config, effort.quantised_epochs, effort.quantised_rate))
    return trained


def _deploy(trained: _Trained, digits: Digits, out: Path) -> tuple[Row, list[float], bool]:
    """Export and verify.

    Returns the row, not timed yet; the accuracy by number of steps; and whether torch classifies every image alike.
    """
    path = _path(out, trained.framework, trained.weights)
    exported = export_onnx(trained.network, over_time(digits.test_images[:1], STEPS), path)
    sequence = over_time(digits.test_images, STEPS)
    verified = verify(trained.network, path, torch.split(sequence, _VERIFY_BATCH, dim=1))
    spikes = output_spikes(path, sequence.numpy())
    curve = accuracy_by_steps(spikes, digits.test_labels.numpy())
    same = torch.equal(torch.from_numpy(spikes.sum(0).argmax(1)), predict(trained.network, digits.test_images))
    row = Row(
        framework=trained.framework,
        weights=trained.weights,
        accuracy=curve[-1],
        file_bytes=exported.file_bytes,
        spikes_compared=verified.spikes_compared,
        spikes_different=verified.spikes_different,
        firing_rate=verified.firing_rate,
        latency_ms=float("nan"),
    )
    return row, curve, same


def _timed(rows: list[Row], digits: Digits, out: Path, effort: _Effort, progress: Progress) -> list[Row]:
    """Return the rows with their latencies."""
    task = progress.add_task("time in turns", total=None, note="")
    paths = [_path(out, row.framework, row.weights) for row in rows]
    sequence = over_time(digits.test_images[:1], STEPS).numpy()
    latencies = latencies_ms(paths, sequence, effort.latency_rounds)
    progress.update(task, total=1, completed=1, note=f"{effort.latency_rounds} rounds")
    return [replace(row, latency_ms=latency) for row, latency in zip(rows, latencies, strict=True)]


def run_demo(out: Path, *, seed: int = 0, quick: bool = False, console: Console | None = None) -> DemoReport:
    """Run the demo and leave the .onnx files and the picture in ``out``.

    Args:
        out: an existing directory.
        seed: of initial weights, shuffling and augmentation; the test images are the same for every seed.
        quick: train for a few epochs only.
        console: where progress and the table are shown.

    Raises:
        PluginError: neither snnTorch nor SpikingJelly is installed.
        SxqError: export or verification failed.
    """
    start = time.perf_counter()
    # SpikingJelly's first forward pass makes torch log, amid the progress bars, that there is no Triton.
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    console = console or Console()
    found, missing = recipes()
    digits, effort = split_digits(), _QUICK if quick else _Effort()
    rows: list[Row] = []
    curves: dict[tuple[str, str], list[float]] = {}
    agree = 0
    with reproducible(), _progress(console) as progress:
        trained = [model for recipe in found for model in _train_all(recipe, digits, seed, effort, progress)]
        task = progress.add_task("export and verify", total=len(trained), note="")
        for model in trained:
            row, curve, same = _deploy(model, digits, out)
            rows.append(row)
            curves[model.framework, model.weights] = curve
            agree += same
            progress.update(task, advance=1, note=f"{row.spikes_different:,} spikes differ")
        rows = _timed(rows, digits, out, effort, progress)
        shown = trained[1]
        draw(out / FIGURE, f"{TITLES[shown.framework]}, {shown.weights} weights", shown.network, digits, curves)
    report = DemoReport(
        rows=tuple(rows),
        seed=seed,
        quick=quick,
        steps=STEPS,
        training_images=len(digits.train_labels),
        test_images=len(digits.test_labels),
        weights=sum(p.numel() for p in trained[0].network.parameters() if p.dim() > 1),
        torch_agrees=agree,
        left_out=tuple(missing),
        figure=out / FIGURE,
        seconds=time.perf_counter() - start,
    )
    print_report(report, console)
    return report
