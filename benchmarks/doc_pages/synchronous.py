"""The table of docs/synchronous.md."""

from __future__ import annotations

from .results import load, table


def count_execution() -> str:
    result = load("count_execution")
    head = ["network", "time", "relative to float", "file"]
    names = {"float": "float32, T = 1", "stock": "counts, T = 16, stock", "native": "counts, T = 16, native neurons"}
    rows = [
        [
            name,
            f"{result['milliseconds'][key]:.1f} ms",
            f"{result['relative_to_float'][key]:.3f}",
            f"{result['bytes']['float' if key == 'float' else 'counts'] / 1e6:.1f} MB",
        ]
        for key, name in names.items()
    ]
    machine = result["machine"]
    return (
        table(head, rows)
        + f"\n\n{result['blocks']} blocks of an encoder of width {'/'.join(map(str, result['width']))}, ternary"
        f" weights, S = {result['positions']}, one thread, its processor time, interleaved\nruns, the fastest of each;"
        " onnxruntime"
        f" {machine['versions']['onnxruntime']}, {machine['processor']}. {result['counts_different']} of"
        f" {result['counts_compared']:,} counts differ from torch's; mean rate\n{result['mean_rate']:.2f}"
        " (`benchmarks/results/count_execution.json`)."
    )


def alternatives() -> str:
    result = load("count_execution_alternatives")
    ratios = {name: f"{ratio:.2g}" for name, ratio in result["relative_to_float"].items()}
    return (
        f"Of {result['blocks']} such blocks on {result['runtime']} onnxruntime, relative to the float network: counts"
        f" {ratios['folded']}; without folding, with\nscale, bias and threshold one by one and attention in floats,"
        f" {ratios['not folded']}; the same network spike by spike, T = 16,\n{ratios['spike by spike']}"
        " (`benchmarks/results/count_execution_alternatives.json`)."
    )


#: By the name between their markers.
TABLES = {
    "count execution table": count_execution,
    "count execution alternatives": alternatives,
}
