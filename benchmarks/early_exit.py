"""Accuracy of a model folder over its time steps, and with early exit over the margin, on a whole dev set.

Usage: python benchmarks/early_exit.py DATA [--model sst2-ternary]. DATA is a folder with the task's dev split
(dev.tsv or dev.tsv.gz). The file is run once at each T; what early exit does with a margin follows from the
probabilities of these runs, and is run in earnest for one margin, which has to give the same. The result goes to
results/early_exit.json unless another model is named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from record import parser, write

from snn_extreme_quant.data import read_rows
from snn_extreme_quant.deploy import Answer, Classifier
from snn_extreme_quant.deploy.model_folders.folder import DEFAULT_MODEL
from snn_extreme_quant.errors import ModelFileError

MARGINS = [0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99]
RUN_MARGIN = 0.9


def figures(rows: list[list[Answer]], right: list[list[bool]]) -> dict[str, float]:
    """Return the figures of one policy: for each text all its runs, the last of which answers."""
    spiking = sum(run.energy.spiking.joules for runs in rows for run in runs if run.energy is not None)
    dense = sum(runs[0].energy.dense.joules for runs in rows if runs[0].energy is not None)
    return {
        "accuracy": float(np.mean([row[len(runs) - 1] for row, runs in zip(right, rows, strict=True)])),
        "mean_time_steps": float(np.mean([runs[-1].time_steps for runs in rows])),
        "mean_steps_spent": float(np.mean([sum(run.time_steps for run in runs) for runs in rows])),
        "energy_ratio": spiking / dense,
    }


def until(runs: list[Answer], margin: float) -> list[Answer]:
    """Return the runs that early exit makes."""
    stop = next((i for i, run in enumerate(runs) if run.margin >= margin), len(runs) - 1)
    return runs[: stop + 1]


def measure(source: str, data: Path) -> dict[str, Any]:
    """Run the file at each T on the dev set."""
    classifier = Classifier(source, native=False)
    if classifier.folder.task is None:
        raise ModelFileError(f"{source} does not say what its task is; give a folder of sxq pack.")
    rows = read_rows(classifier.folder.task, data, "dev")
    by_steps = {T: classifier.classify(rows.texts, rows.pairs, time_steps=T) for T in classifier.offered}
    labels = [classifier.labels[int(label)] for label in rows.labels]
    alone = {}
    for T, answers in by_steps.items():
        right = [[answer.label == label] for answer, label in zip(answers, labels, strict=True)]
        rate = {"firing_rate": float(np.mean([answer.firing_rate for answer in answers]))}
        alone[str(T)] = figures([[answer] for answer in answers], right) | rate
    # Early exit goes up to the T that the model was trained with.
    ladder = [T for T in classifier.offered if classifier.time_steps >= T]
    runs = [list(row) for row in zip(*(by_steps[T] for T in ladder), strict=True)]
    right = [[run.label == label for run in row] for row, label in zip(runs, labels, strict=True)]
    exits = {str(margin): figures([until(row, margin) for row in runs], right) for margin in MARGINS}
    earnest = classifier.classify(rows.texts, rows.pairs, early_exit=RUN_MARGIN)
    expected = [until(row, RUN_MARGIN)[-1] for row in runs]
    same = [(a.label, a.time_steps) == (b.label, b.time_steps) for a, b in zip(earnest, expected, strict=True)]
    return {
        "model": classifier.folder.name,
        "runtime": classifier.runtime,
        "texts": len(rows),
        "trained_time_steps": classifier.time_steps,
        "by_time_steps": alone,
        "by_margin": exits,
        "run_in_earnest": {"margin": RUN_MARGIN, "same_answer_and_steps": float(np.mean(same))},
    }


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("data", type=Path)
    options.add_argument("--model", default=DEFAULT_MODEL)
    arguments = options.parse_args()
    write("early_exit", measure(arguments.model, arguments.data), keep=arguments.model == DEFAULT_MODEL)
