"""Tables of README.md."""

from __future__ import annotations

import statistics
from typing import Any

from .results import load, table


def demo() -> str:
    result = load("demo_table")
    head = ["framework", "weights", "test accuracy", "file", "spikes compared", "different", "firing rate", "latency"]
    rows = []
    for index, first in enumerate(result["runs"][0]["rows"]):
        same = [run["rows"][index] for run in result["runs"]]
        floats = [run["rows"][index - index % 3]["latency_ms"] for run in result["runs"]]
        accuracies = " / ".join(f"{100 * row['accuracy']:.1f}" for row in same)
        ratio = statistics.median(row["latency_ms"] / f for row, f in zip(same, floats, strict=True))
        rows.append(
            [
                first["framework"],
                first["weights"],
                f"{accuracies} %",
                f"{first['file_bytes'] / 1000:.1f} kB",
                f"{sum(row['spikes_compared'] for row in same):,}",
                f"{sum(row['spikes_different'] for row in same):,}",
                f"{statistics.mean(row['firing_rate'] for row in same):.3f}",
                f"{statistics.median(row['latency_ms'] for row in same):.2f} ms ({ratio:.2f}x)",
            ]
        )
    machine = result["machine"]
    seeds = ", ".join(str(run["seed"]) for run in result["runs"])
    seconds = " / ".join(f"{run['seconds']:.0f}" for run in result["runs"])
    return (
        table(head, rows)
        + f"\n\nSeeds {seeds}; spikes are summed over them; latency is one image (8 time steps) on stock onnxruntime"
        f" {machine['versions']['onnxruntime']},\none thread, median, files interleaved, with the ratio to float."
        f" The whole demo took {seconds} s on {machine['cores']} cores\nof {machine['processor']}"
        f" (`benchmarks/results/demo_table.json`).\n"
        "Float networks sum real numbers, where a spike may differ. At this size stock onnxruntime runs packed weights"
        "\nno faster than float ones."
    )


def exactness() -> str:
    result = load("real_valued_input")
    head = ["weights", "input of the first layer", "guaranteed", "spikes compared", "different"]
    totals: dict[tuple[str, str], list[Any]] = {}
    for row in result["rows"]:
        total = totals.setdefault((row["weights"], row["input"]), [row["guaranteed"], 0, 0])
        total[1] += row["spikes_compared"]
        total[2] += row["spikes_different"]
    rows = [
        [weights, source, "yes" if sure else "no", f"{compared:,}", f"{different:,}"]
        for (weights, source), (sure, compared, different) in totals.items()
    ]
    return (
        table(head, rows)
        + "\n\nThree layers, 16 steps, half of the networks with weights that put membrane potentials on thresholds"
        '\n(`benchmarks/real_valued_input.py`). The rows "scale folded in" are what multiplying the scale into the'
        "\nweights gives, as quantisation libraries usually do."
    )


#: By the name between their markers.
TABLES = {
    "demo table": demo,
    "exactness table": exactness,
}
