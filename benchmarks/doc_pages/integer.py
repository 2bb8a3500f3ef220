"""The table of docs/integer.md."""

from __future__ import annotations

import statistics
from typing import Any

from .results import load, table


def integer_cost() -> str:
    result = load("integer_cost")
    head = [
        "leak", "float", "integer", "answers changed", "spikes changed, 15 bit leak", "8 bit", "24 bit",
        "different in the file",
    ]  # fmt: skip
    groups: dict[float, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        groups.setdefault(row["beta"], []).append(row)

    def changed(rows: list[dict[str, Any]], bits: int) -> str:
        parts = [part for row in rows for part in row["integers"] if part["decay_bits"] == bits]
        share = sum(p["spikes_different"] for p in parts) / sum(p["spikes"] for p in parts)
        return f"{1e6 * share:,.0f} per million"

    lines = []
    for beta, rows in groups.items():
        files = [part for row in rows for part in row["integers"] if "verified" in part]
        lines.append(
            [
                f"{beta:g}",
                f"{100 * statistics.mean(row['accuracy_float'] for row in rows):.2f} %",
                f"{100 * statistics.mean(part['accuracy'] for part in files):.2f} %",
                f"{sum(p['answers_different'] for p in files)} of {len(files) * result['images']:,}",
                *(changed(rows, bits) for bits in (15, 8, 24)),
                str(sum(p["different_in_file"] + p["different_in_torch"] for p in files)),
            ]
        )
    seeds = ", ".join(str(s) for s in sorted({row["seed"] for row in result["rows"]}))
    return (
        table(head, lines)
        + f"\n\nDense ternary networks on {result['images']} test digits, {result['steps']} time steps, means over"
        f" both frameworks and seeds {seeds};\na leak of 1 is an integrate-and-fire neuron, which has no leak to round."
        ' Accuracy and answers with a leak of 15 bits.\n"Changed" is against the float model in torch, "different in'
        ' the file" against the golden model and torch\n(`benchmarks/results/integer_cost.json`).'
    )


#: By the name between their markers.
TABLES = {
    "integer cost table": integer_cost,
}
