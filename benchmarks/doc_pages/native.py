"""Tables of docs/native.md."""

from __future__ import annotations

import statistics
from typing import Any

from .results import SHAPES, load, table


def native_matmul() -> str:
    """Ratios to float32 MatMul at 15 % density, one thread."""
    result = load("native_matmul")
    found = {
        (row["K"], row["N"], row["M"], row["layers"]): row["ratio to float32"]
        for row in reversed(result["results"])
        if row["density"] == 0.15 and row["threads"] == 1
    }
    cases = [(1, 1), (1, 8), (16, 1), (128, 1), (128, 8), (1024, 1)]
    head = ["rows", "layers", *(f"{k} x {n}" for k, n in SHAPES)]
    lines = []
    for rows, layers in cases:
        ratios = (found[k, n, rows, layers] for k, n in SHAPES)
        cells = (f"{r['ternary native']:.3f} / {r['binary native']:.3f}" for r in ratios)
        lines.append([str(rows), str(layers), *cells])
    machine = result["machine"]
    return (
        table(head, lines)
        + f"\n\nTime of a layer, ternary / binary, relative to onnxruntime's float32 MatMul of that shape; 15 % of the"
        f" inputs spike;\n{result['kernels']} kernels, onnxruntime {machine['versions']['onnxruntime']},"
        f" {machine['processor']}; one thread, its\nprocessor time; interleaved runs, the fastest of each. One row in a"
        " graph of one layer is mostly onnxruntime's own time for a\nrun; eight layers in a graph show what a layer"
        " adds (`benchmarks/results/native_matmul.json`).\n\n"
        f"{_signed(result)}\n{_densities(result)}\n{_two_threads(result)}"
    )


def _median_ratio(rows: list[dict[str, Any]], name: str, to: str) -> str:
    ratios = [row["microseconds"][name] / row["microseconds"][to] for row in rows]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _signed(result: dict[str, Any]) -> str:
    rows = [row for row in result["results"] if row["threads"] == 1 and row["M"] >= 16]
    ternary, binary = (
        _median_ratio(rows, f"{kind} native, signed", f"{kind} native") for kind in ("ternary", "binary")
    )
    return (
        "Spikes of either sign, 16 rows and more: ternary " + ternary + ", binary " + binary + " of the time of"
        "\nas many spikes of one sign (median of the cases, least and most)."
    )


def _densities(result: dict[str, Any]) -> str:
    """One thread, 128 rows: a table by density, and what the copy for dense inputs takes."""
    found = {
        (row["density"], row["K"], row["N"]): row["ratio to float32"]
        for row in result["results"]
        if (row["M"], row["layers"], row["threads"]) == (128, 1, 1)
    }
    densities = sorted({density for density, _, _ in found})
    lines = []
    for density in densities:
        ratios = [found[density, k, n] for k, n in SHAPES]
        pairs = (("ternary native", "binary native"), ("ternary native, signed", "binary native, signed"))
        cells = (f"{r[ternary]:.3f} / {r[binary]:.3f}" for ternary, binary in pairs for r in ratios)
        lines.append([f"{100 * density:.0f} %", *cells])
    shapes = [f"{k} x {n}" for k, n in SHAPES]
    rows = table(["inputs that spike", *shapes, *(f"{shape}, signed" for shape in shapes)], lines)
    copies = (
        f"{operator.removesuffix('LinearInteger').lower()}, {_copied_from(sizes)}"
        for operator, sizes in result["copied bytes"].items()
    )
    return (
        f"\nBy density, 128 rows, one layer, ternary / binary:\n\n{rows}\n\nThe second copy of 768 x 768 codes:\n"
        + ";\n".join(copies)
        + ".\n"
    )


def _copied_from(sizes: dict[str, int]) -> str:
    copies = {float(name.removeprefix("copy at ")): size for name, size in sizes.items() if name.startswith("copy")}
    first = min(density for density, size in copies.items() if size)
    return f"{sizes['packed']} bytes in the file, and {copies[first]} more once {100 * first:.0f} % of the inputs spike"


def _two_threads(result: dict[str, Any]) -> str:
    rows = [row for row in result["results"] if row["threads"] == 2 and row["M"] == 128]
    parts = (
        f"{r['K']} x {r['N']}, {r['M']} rows: {r['ratio to float32']['ternary native']:.3f} /"
        f" {r['ratio to float32']['binary native']:.3f}"
        for r in rows
    )
    return f"Two threads, by the clock:\n{'; '.join(parts)}."


def native_conv() -> str:
    """Ratios of the kernels to the bodies of the same operators, by density."""
    result = load("native_conv")
    found: dict[tuple[int, int, int], dict[float, dict[str, float]]] = {}
    for row in result["results"]:
        shape = row["channels"], row["outputs"], row["size"]
        found.setdefault(shape, {})[row["density"]] = row["ratio to body"]
    densities = sorted(next(iter(found.values())))
    lines = [
        [f"{channels} to {outputs}, {size} x {size}"]
        + [f"{ratios[d]['Ternary']:.2f} / {ratios[d]['Ternary integer']:.2f}" for d in densities]
        for (channels, outputs, size), ratios in found.items()
    ]
    machine = result["machine"]
    return (
        table(["channels, image", *(f"{100 * d:.0f} % spike" for d in densities)], lines)
        + "\n\nTime of `TernaryConv` / `TernaryConvInteger`, 3 x 3, relative to the operator's own body (a float32"
        f" `Conv`, a `ConvInteger`);\n{result['images']} images, {result['kernels']} kernels, onnxruntime"
        f" {machine['versions']['onnxruntime']}, {machine['processor']}; one thread, its processor time;"
        "\ninterleaved runs, the fastest of each (`benchmarks/results/native_conv.json`, which has binary codes too)."
    )


def native_runtimes() -> str:
    """Differences of one build of the library on several versions of onnxruntime."""
    result = load("native_runtimes")
    head = ["runtime", "runs", "failed", "kernels that ran", "spikes compared", "other values", "different"]
    rows = [
        [
            row["runtime"],
            f"{row['files']}",
            f"{len(row['failed'])}",
            f"{len(row['kernels'])}",
            f"{row['spikes']:,}",
            f"{row['values'] - row['spikes']:,}",
            f"{row['different']:,}",
        ]
        for row in result["rows"]
    ]
    return (
        table(head, rows)
        + f"\n\n{result['files']} files, opened as a native session opens them, with {result['fused nodes']} fused"
        " nodes; expected is what their functions give on\nonnxruntime"
        f" {result['machine']['versions']['onnxruntime']}; one build of the library, {result['kernels']} kernels"
        " (`benchmarks/results/native_runtimes.json`)."
    )


def native_fusion() -> str:
    """Fused chains relative to the same kernels as two nodes."""
    result = load("native_fusion")
    rows = result["results"]
    ratios = [row["ratio"] for row in rows]
    chains = len(rows[0]["widths"]) - 1
    said = {key: sorted({row[key] for row in rows}) for key in ("rows", "T")}
    widths = sorted({width for row in rows for width in row["widths"]})
    machine = result["machine"]
    return (
        f"Relative to the same kernels as two nodes, with floats between, {chains} layers take {min(ratios):.2f} to"
        f" {max(ratios):.2f} of the\ntime (median {statistics.median(ratios):.2f}; {_listed(said['rows'])} rows,"
        f" {_listed(said['T'])} steps, widths {_listed(widths)}; {result['kernels']} kernels,\nonnxruntime"
        f" {machine['versions']['onnxruntime']}, {machine['processor']}, one thread;"
        " `benchmarks/results/native_fusion.json`)."
    )


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values[:-1])) + f" and {values[-1]}"


#: By the name between their markers.
TABLES = {
    "native runtimes": native_runtimes,
    "native matmul table": native_matmul,
    "native conv table": native_conv,
    "native fusion figures": native_fusion,
}
