"""What the demo found, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from snn_extreme_quant.demo.deployed import LATENCY_THREADS

__all__ = ["DemoReport", "Row", "print_report", "write_json"]

_PACKAGES = ("snn-extreme-quant", "torch", "snntorch", "spikingjelly", "brevitas", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Row:
    """One network in one precision.

    Args:
        framework: ``"snntorch"`` or ``"spikingjelly"``.
        weights: ``"float"``, ``"ternary"`` or ``"binary"``.
        accuracy: of the file in onnxruntime on the test images, 0 to 1.
        file_bytes: size of the .onnx file.
        spikes_compared: spike or no spike of every neuron, step and test image, in torch and in onnxruntime.
        spikes_different: how many of them differ.
        firing_rate: mean spikes a neuron and step.
        latency_ms: median time of one image (batch 1, all steps) in onnxruntime.
    """

    framework: str
    weights: str
    accuracy: float
    file_bytes: int
    spikes_compared: int
    spikes_different: int
    firing_rate: float
    latency_ms: float


@dataclass(frozen=True)
class DemoReport:
    """What :func:`~snn_extreme_quant.demo.run_demo` found.

    Args:
        rows: one for each network.
        seed: the seed it ran with.
        quick: whether training was cut short.
        steps: T, time steps an image.
        training_images: how many images were trained on.
        test_images: how many other images were tested on.
        weights: weights of one network, biases not counted.
        torch_agrees: for how many rows torch puts every test image into the same class as the file.
        left_out: a sentence for each framework that is not installed.
        figure: the picture.
        seconds: time of the whole run.
    """

    rows: tuple[Row, ...]
    seed: int
    quick: bool
    steps: int
    training_images: int
    test_images: int
    weights: int
    torch_agrees: int
    left_out: tuple[str, ...]
    figure: Path
    seconds: float

    @property
    def exact(self) -> bool:
        """Whether every spike of every quantised network is the same in torch and in the file."""
        return all(row.spikes_different == 0 for row in self.rows if row.weights != "float")


def _table(report: DemoReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("framework", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    for heading in ("test\naccuracy", "file\nbytes", "spikes\ncompared", "spikes\ndiffer"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("firing\nrate", "latency\nms", "vs\nfloat"):
        table.add_column(heading, justify="right", no_wrap=True)
    floats = {row.framework: row for row in report.rows if row.weights == "float"}
    for row in report.rows:
        exact = row.spikes_different == 0
        table.add_row(
            row.framework,
            row.weights,
            f"{row.accuracy:.2%}",
            f"{row.file_bytes:,}",
            f"{row.spikes_compared:,}",
            Text(f"{row.spikes_different:,}", style="bold green" if exact else "bold yellow"),
            f"{row.firing_rate:.3f}",
            f"{row.latency_ms:.2f}",
            f"{row.latency_ms / floats[row.framework].latency_ms:.2f}x",
            end_section=row.weights == "binary",
        )
    return table


def _notes(report: DemoReport) -> tuple[str, ...]:
    return (
        (
            f"Data: scikit-learn's digits, {report.training_images:,} images for training and {report.test_images}"
            f" others for the test, stratified; {report.steps} time steps, the same image at each."
        ),
        f"Network: {report.weights:,} weights, all of them quantised, first and last layer included.",
        (
            "Input: pixels are sixteenths, and FixedPointInput(bits=8, fraction=4) keeps them on that grid, where sums"
            " are exact in any order: so the first layer is exact too."
        ),
        (
            "Accuracy: of the file in onnxruntime; torch puts every test image into the same class for"
            f" {report.torch_agrees} of {len(report.rows)} networks. Spikes: of all layers, steps and test images."
        ),
        (
            f"Latency: one image (batch 1, {report.steps} steps), onnxruntime on the CPU, {LATENCY_THREADS} thread,"
            " median, all files taking turns in one process."
        ),
        (
            "Float networks sum real numbers, which torch and onnxruntime may add in another order: there a spike may"
            " differ."
        ),
    )


def print_report(report: DemoReport, console: Console) -> None:
    """Print the table and what must be known to read it."""
    console.print(_table(report))
    for note in _notes(report):
        console.print(note, highlight=False)
    if report.quick:
        console.print(
            "--quick: trained for a few epochs only, so the accuracies mean nothing.", style="yellow", highlight=False
        )
    for sentence in report.left_out:
        console.print(Text(sentence, style="yellow"))
    console.print(
        f"{report.figure} and digits_*.onnx written. Seed {report.seed}, {report.seconds:.0f} s.",
        highlight=False,
        soft_wrap=True,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_json(report: DemoReport, path: Path) -> None:
    """Write the rows, and what they were measured with."""
    machine = {"platform": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()}
    facts = asdict(report) | {
        "figure": str(report.figure),
        "latency": {"batch": 1, "threads": LATENCY_THREADS, "statistic": "median", "runtime": "onnxruntime, CPU"},
        "versions": {"python": platform.python_version(), **{package: _version(package) for package in _PACKAGES}},
        "machine": machine,
    }
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
