"""The tables of docs/spiking_bert.md."""

from __future__ import annotations

from typing import Any

from .results import load, table

_NAMES = {
    "threshold_per": lambda value: f"one threshold a {value}",
    "signed": lambda value: "signed" if value else "{0,1} spikes",
    "profile": lambda value: f"{value} profile",
    "weights": lambda value: (
        f"{value} weights" if isinstance(value, str) else f"{value['kind']} weights ({value['scale']})"
    ),
    "offset": lambda _: "offsets",
}


def _student(row: dict[str, Any]) -> str:
    parts = [f"T = {row['T']}", *(name(row[key]) for key, name in _NAMES.items() if key in row)]
    return ", ".join(parts)


def start() -> str:
    result = load("spiking_bert_start")
    rows = [
        [_student(row), f"{100 * row['accuracy']:.1f} %", f"{row['firing_rate']:.3f}"] for row in result["untrained"]
    ]
    return (
        table(["student before training", "SST-2 dev", "firing rate"], rows)
        + "\n\nFloat weights, signed spikes, a threshold for each channel, 6 layers of width 384, unless the row says"
        " otherwise;\nthe teacher has 89.7 %. Rates on T levels, which on the synchronous schedule is what T steps of"
        " spikes give;\nthe dev set's standard error is 1.1 points (`benchmarks/results/spiking_bert_start.json`)."
    )


def trained() -> str:
    result = load("spiking_bert_start")["trained"]
    rows = [
        [T, f"{100 * row['accuracy']:.1f} %", f"{row['firing_rate']:.3f}"] for T, row in result["by_time_steps"].items()
    ]
    steps = sum(stage["steps"] for stage in result["stages"])
    return (
        table(["T", "SST-2 dev", "firing rate"], rows)
        + f"\n\nThe recipe `sst2_ternary` cut to {steps} steps of 64 sentences, one seed, trained at T = 16, run at"
        " each T\n(`benchmarks/results/spiking_bert_start.json`)."
    )


#: By the name between their markers.
TABLES = {"start table": start, "trained table": trained}
