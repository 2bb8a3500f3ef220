"""Tables of docs/runtimes.md."""

from __future__ import annotations

from typing import Any

from .results import load, table


def _runs(result: dict[str, Any]) -> str:
    head = ["runtime", "runs", "failed", "spikes compared", "other values", "different"]
    rows = [
        [
            row["runtime"],
            f"{row['files']}",
            f"{len(row['failed'])}",
            f"{row['spikes']:,}",
            f"{row['values'] - row['spikes']:,}",
            f"{row['different']:,}",
        ]
        for row in result["rows"]
    ]
    return table(head, rows)


def runtimes() -> str:
    result = load("runtime_matrix")
    return (
        _runs(result)
        + f"\n\n{result['networks']} networks, each as it is exported and once more with the spikes of all its neuron"
        " layers as outputs, an integer file\nalso with the sums of its layers, a streaming one step by step; expected"
        f" is what onnxruntime {result['machine']['versions']['onnxruntime']} gave\nafter `sxq.verify` found no"
        " difference from torch (`benchmarks/results/runtime_matrix.json`)."
    )


def form_runtimes() -> str:
    result = load("runtime_matrix_forms")
    return (
        _runs(result)
        + f"\n\n{result['networks']} networks: integers only, streaming, the synchronous schedule on counts and"
        " spike by spike, SpikingBERT; expected is what\nonnxruntime"
        f" {result['machine']['versions']['onnxruntime']} gave after `sxq.verify` found no difference"
        " (`benchmarks/results/runtime_matrix_forms.json`)."
    )


def pattern_runtimes() -> str:
    result = load("runtime_matrix_patterns")
    return (
        _runs(result) + f"\n\n{result['networks']} networks; expected is what onnxruntime"
        f" {result['machine']['versions']['onnxruntime']} gave after `sxq.verify` found no difference\n"
        "(`benchmarks/results/runtime_matrix_patterns.json`)."
    )


#: By the name between their markers.
TABLES = {
    "runtime table": runtimes,
    "form runtime table": form_runtimes,
    "pattern runtime table": pattern_runtimes,
}
