"""Writes the README's tables from the results; a test checks that they fit.

Usage: python benchmarks/readme_tables.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"


def _load(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def demo() -> str:
    result = _load("demo_table")
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
        _table(head, rows)
        + f"\n\nSeeds {seeds}; spikes are summed over them; latency is one image (8 time steps) on stock onnxruntime"
        f" {machine['versions']['onnxruntime']},\none thread, median, files interleaved, with the ratio to float."
        f" The whole demo took {seconds} s on {machine['cores']} cores\nof {machine['processor']}"
        f" (`benchmarks/results/demo_table.json`).\n"
        "Float networks sum real numbers, where a spike may differ. At this size stock onnxruntime runs packed weights"
        "\nno faster than float ones."
    )


def exactness() -> str:
    result = _load("real_valued_input")
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
        _table(head, rows)
        + "\n\nThree layers, 16 steps, half of the networks with weights that put membrane potentials on thresholds"
        '\n(`benchmarks/real_valued_input.py`). The rows "scale folded in" are what multiplying the scale into the'
        "\nweights gives, as quantisation libraries usually do."
    )


TABLES = {"demo table": demo, "exactness table": exactness}


def render(text: str) -> str:
    """Return README text with the tables put between their markers."""
    for name, table in TABLES.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        after = rest.partition(end)[2] if end in rest else rest
        text = f"{before}{start}\n{table()}\n{end}{after}"
    return text


if __name__ == "__main__":
    README.write_text(render(README.read_text(encoding="utf-8")), encoding="utf-8")
