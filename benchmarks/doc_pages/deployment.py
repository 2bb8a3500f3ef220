"""Tables of docs/deployment.md."""

from __future__ import annotations

from typing import Any

from .results import load, table


def batch_norm() -> str:
    result = load("batch_norm_folding")
    head = [
        "framework", "weights", "float", "torch's batch norm", "file", "answers changed", "spikes changed",
        "spikes different in the file",
    ]  # fmt: skip
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        groups.setdefault((row["framework"], row["precision"]), []).append(row)

    def accuracies(rows: list[dict[str, Any]], key: str) -> str:
        return " / ".join(f"{100 * row[key]:.1f}" for row in rows) + " %"

    lines = [
        [
            framework,
            precision,
            accuracies(rows, "float"),
            accuracies(rows, "accuracy_torch_batch_norm"),
            accuracies(rows, "accuracy_file"),
            f"{sum(r['answers_changed_by_folding'] for r in rows)} of {sum(r['samples'] for r in rows):,}",
            f"{sum(r['spikes_changed_by_folding'] for r in rows)} of {sum(r['spikes'] for r in rows):,}",
            f"{sum(r['spikes_different_in_file'] for r in rows)}",
        ]
        for (framework, precision), rows in groups.items()
    ]
    seeds = ", ".join(str(s) for s in sorted({row["seed"] for row in result["rows"]}))
    return (
        table(head, lines) + f"\n\nAccuracy on 540 test digits, seeds {seeds}; {result['epochs']} epochs in float, then"
        f" {result['fine_tuning_epochs']} quantisation-aware.\n"
        '"Changed" is by folding, between two runs in torch (`benchmarks/results/batch_norm_folding.json`).'
    )


def file_size() -> str:
    result = load("file_size")
    head = ["weights", "file", "relative to float32", "bits a weight, all included"]
    rows = [
        [row["weights"], f"{row['bytes'] / 1e6:.2f} MB", f"{row['ratio']:.4f}", f"{row['bits a weight']:.3f}"]
        for row in result["results"]
    ]
    return (
        table(head, rows)
        + f"\n\nAn encoder of {result['layers']} layers, width {result['width']}/{result['inner']}, scales by channel,"
        " with its graph, bodies and metadata\n(`benchmarks/results/file_size.json`)."
    )


def streaming() -> str:
    """A step's time relative to that of a float step file on stock onnxruntime."""
    result = load("streaming")
    head = ["layers", "weights", "step, stock", "step, native", "step of a sequence, stock", "the same, native"]
    lines = []
    for row in result["results"]:
        ratios = row["ratio to a float step"]
        for weights in ("ternary", "binary", "float"):
            cells = [
                f"{ratios[f'{weights} {form} {runtime}']:.2f}"
                for form in ("streaming", "sequence")
                for runtime in ("stock", "native")
            ]
            lines.append([" - ".join(map(str, row["widths"])), weights, *cells])
    machine = result["machine"]
    return (
        table(head, lines)
        + f"\n\nTime of one step of one sample, relative to a float step file on stock onnxruntime; a sequence of"
        f" {result['steps']} steps, by step.\nLIF neurons; {result['kernels']} kernels, onnxruntime"
        f" {machine['versions']['onnxruntime']}, {machine['processor']}; one thread, its processor time;\ninterleaved"
        " runs, the fastest of each (`benchmarks/results/streaming.json`). A step of small layers is mostly\n"
        "onnxruntime's own time for a run and for each operator."
    )


#: By the name between their markers.
TABLES = {
    "batch norm table": batch_norm,
    "file size table": file_size,
    "streaming table": streaming,
}
