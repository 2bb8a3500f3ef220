"""Writes the tables of README and docs from the results; a test checks that they fit.

Usage: python benchmarks/doc_tables.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]


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


def batch_norm() -> str:
    result = _load("batch_norm_folding")
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
        _table(head, lines)
        + f"\n\nAccuracy on 540 test digits, seeds {seeds}; {result['epochs']} epochs in float, then"
        f" {result['fine_tuning_epochs']} quantisation-aware.\n"
        '"Changed" is by folding, between two runs in torch (`benchmarks/results/batch_norm_folding.json`).'
    )


def gptq() -> str:
    result = _load("gptq")
    head = ["precision", "nearest codes", "GPTQ", "GPTQ, first step only", "accuracy, nearest codes", "accuracy, GPTQ"]
    lines = []
    for index, first in enumerate(result["runs"][0]["rows"]):
        rows = [run["rows"][index] for run in result["runs"]]
        errors = (" / ".join(f"{r[k]['output_error']:.3f}" for r in rows) for k in _GPTQ)
        rates = (" / ".join(f"{100 * r[k]['accuracy']:.1f}" for r in rows) + " %" for k in _GPTQ[:2])
        lines.append([f"`{first['precision']}`", *errors, *rates])
    floats = " / ".join(f"{100 * run['float_accuracy']:.1f}" for run in result["runs"])
    seeds = ", ".join(str(run["seed"]) for run in result["runs"])
    return (
        _table(head, lines)
        + f"\n\nSquared error of the output potentials against the float network's, relative to their variance, on"
        f"\n{result['held_out_images']} images that neither training nor GPTQ saw; seeds {seeds}; float accuracy"
        f" {floats} %\n(`benchmarks/results/gptq.json`)."
    )


_GPTQ = ("rounded", "gptq", "gptq_first_step_only")


def file_size() -> str:
    result = _load("file_size")
    head = ["weights", "file", "relative to float32", "bits a weight, all included"]
    rows = [
        [row["weights"], f"{row['bytes'] / 1e6:.2f} MB", f"{row['ratio']:.4f}", f"{row['bits a weight']:.3f}"]
        for row in result["results"]
    ]
    return (
        _table(head, rows)
        + f"\n\nAn encoder of {result['layers']} layers, width {result['width']}/{result['inner']}, scales by channel,"
        " with its graph, bodies and metadata\n(`benchmarks/results/file_size.json`)."
    )


def native_matmul() -> str:
    """Ratios to float32 MatMul at 15 % density, one thread."""
    result = _load("native_matmul")
    found = {
        (row["K"], row["N"], row["M"], row["layers"]): row["ratio to float32"]
        for row in reversed(result["results"])
        if row["density"] == 0.15 and row["threads"] == 1
    }
    cases = [(1, 1), (1, 8), (16, 1), (128, 1), (128, 8), (1024, 1)]
    head = ["rows", "layers", *(f"{k} x {n}" for k, n in _SHAPES)]
    lines = []
    for rows, layers in cases:
        ratios = (found[k, n, rows, layers] for k, n in _SHAPES)
        cells = (f"{r['ternary native']:.3f} / {r['binary native']:.3f}" for r in ratios)
        lines.append([str(rows), str(layers), *cells])
    machine = result["machine"]
    return (
        _table(head, lines)
        + f"\n\nTime of a layer, ternary / binary, relative to onnxruntime's float32 MatMul of that shape; 15 % of the"
        f" inputs spike;\n{result['kernels']} kernels, onnxruntime {machine['versions']['onnxruntime']},"
        f" {machine['processor']}; one thread, its\nprocessor time; interleaved runs, the fastest of each. One row in a"
        " graph of one layer is mostly onnxruntime's own 2 us a\nrun; eight layers in a graph show what a layer adds"
        " (`benchmarks/results/native_matmul.json`).\n\n"
        f"{_signed(result)}\n{_densities(result)}\n{_two_threads(result)}"
    )


def native_conv() -> str:
    """Ratios of the kernels to the bodies of the same operators, by density."""
    result = _load("native_conv")
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
        _table(["channels, image", *(f"{100 * d:.0f} % spike" for d in densities)], lines)
        + "\n\nTime of `TernaryConv` / `TernaryConvInteger`, 3 x 3, relative to the operator's own body (a float32"
        f" `Conv`, a `ConvInteger`);\n{result['images']} images, {result['kernels']} kernels, onnxruntime"
        f" {machine['versions']['onnxruntime']}, {machine['processor']}; one thread, its processor time;"
        "\ninterleaved runs, the fastest of each (`benchmarks/results/native_conv.json`, which has binary codes too)."
    )


def streaming() -> str:
    """A step's time relative to that of a float step file on stock onnxruntime."""
    result = _load("streaming")
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
        _table(head, lines)
        + f"\n\nTime of one step of one sample, relative to a float step file on stock onnxruntime; a sequence of"
        f" {result['steps']} steps, by step.\nLIF neurons; {result['kernels']} kernels, onnxruntime"
        f" {machine['versions']['onnxruntime']}, {machine['processor']}; one thread, its processor time;\ninterleaved"
        " runs, the fastest of each (`benchmarks/results/streaming.json`). A step of small layers is mostly\n"
        "onnxruntime's own time for a run and for each operator."
    )


def count_execution() -> str:
    result = _load("count_execution")
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
        _table(head, rows)
        + f"\n\n{result['blocks']} blocks of an encoder of width {'/'.join(map(str, result['width']))}, ternary"
        f" weights, S = {result['positions']}, one thread, its processor time, interleaved\nruns, the fastest of each;"
        " onnxruntime"
        f" {machine['versions']['onnxruntime']}, {machine['processor']}. {result['counts_different']} of"
        f" {result['counts_compared']:,} counts differ from torch's; mean rate\n{result['mean_rate']:.2f}"
        " (`benchmarks/results/count_execution.json`)."
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
        ratios = [found[density, k, n] for k, n in _SHAPES]
        pairs = (("ternary native", "binary native"), ("ternary native, signed", "binary native, signed"))
        cells = (f"{r[ternary]:.3f} / {r[binary]:.3f}" for ternary, binary in pairs for r in ratios)
        lines.append([f"{100 * density:.0f} %", *cells])
    shapes = [f"{k} x {n}" for k, n in _SHAPES]
    table = _table(["inputs that spike", *shapes, *(f"{shape}, signed" for shape in shapes)], lines)
    copies = (
        f"{operator.removesuffix('LinearInteger').lower()}, {_copied_from(sizes)}"
        for operator, sizes in result["copied bytes"].items()
    )
    return (
        f"\nBy density, 128 rows, one layer, ternary / binary:\n\n{table}\n\nThe second copy of 768 x 768 codes:\n"
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


def encoder() -> str:
    """Ratios of time to the float network, by tokens and steps; files, memory and loading."""
    result = _load("encoder")
    ratios = {(row["S"], row["T"], row["threads"]): row["ratio to float32"] for row in result["rows"]}
    cases = sorted(ratios, key=lambda case: (case[2], -case[0], case[1]))
    head = ["network", *(f"S {s}, T {t}, {threads} thread{'s'[: threads - 1]}" for s, t, threads in cases)]
    lines = [[name, *(f"{ratios[case][name]:.3f}" for case in cases)] for name in ratios[cases[0]]]
    machine = result["machine"]
    density = [value for found in result["density"].values() for value in found.values()]
    return (
        _table(head, lines) + f"\n\nTime relative to the float32 network: {result['layers']} layers, onnxruntime"
        f" {machine['versions']['onnxruntime']}, {result['kernels']} kernels,\n{machine['processor']},"
        f" {machine['cores']} cores shared with other work. One thread: its processor time; two: by the clock. Share of"
        f"\nneurons that fire: {min(density):.3f} to {max(density):.3f} (`benchmarks/results/encoder.json`)."
    )


def encoder_sizes() -> str:
    """File, memory and loading, relative to the float network."""
    result = _load("encoder")
    files, memory, loads = result["file bytes"], result["memory bytes"], result["load milliseconds"]
    held = "loaded, freed pages given back"
    head = ["network", "file", "memory when loaded", "freed pages given back", "loading"]
    lines = [
        [
            name,
            f"{files[ENCODER_FILES[name]] / files['float']:.4f}",
            f"{memory[name]['loaded'] / memory['float32']['loaded']:.3f}",
            f"{memory[name][held] / memory['float32'][held]:.3f}",
            f"{loads[name] / loads['float32']:.2f}",
        ]
        for name in memory
    ]
    base = memory["float32"]
    return (
        _table(head, lines)
        + f"\n\nRelative to the float32 network, whose file has {files['float'] / 1e6:.0f} MB, which holds"
        f" {base['loaded'] / 1e6:.0f} MB when loaded, {base[held] / 1e6:.0f} MB after\n`malloc_trim`, and loads in"
        f" {loads['float32']:.0f} ms. Registering the kernels takes {result['registering milliseconds']:.1f} ms."
    )


def encoder_spikes() -> str:
    """Output spikes that differ from the exact ones."""
    result = _load("encoder")
    rows = [row for row in result["rows"] if row["threads"] == 1]
    head = ["network", *(f"S {row['S']}, T {row['T']}" for row in rows)]
    lines = [
        [name, *(f"{row['output spikes different'][name]:,} of {row['output spikes']:,}" for row in rows)]
        for name in rows[0]["output spikes different"]
    ]
    return _table(head, lines)


def signed_spikes() -> str:
    """Time of products of signed spikes."""
    result = _load("signed_spikes")
    head = ["rows", *(f"{k} x {n}" for k, n in _SHAPES)]
    found = {(row["K"], row["N"], row["M"]): row["ratio to spikes"] for row in result["results"]}
    lines = [
        [str(m), *(f"{found[k, n, m]['signed spikes']:.2f}" for k, n in _SHAPES)]
        for m in sorted({row["M"] for row in result["results"]})
    ]
    machine = result["machine"]
    return (
        _table(head, lines)
        + f"\n\nStock onnxruntime {machine['versions']['onnxruntime']}, {machine['processor']}, one thread"
        " (`benchmarks/results/signed_spikes.json`)."
    )


#: The file of each variant of the encoder.
ENCODER_FILES = {
    "float32": "float",
    "ternary, stock": "ternary",
    "ternary, native": "ternary",
    "binary, stock": "binary",
    "binary, native": "binary",
    "ternary in 1.6 bit, stock": "ternary5",
    "dynamic int8": "int8",
    "MatMulNBits 2 bit": "nbits2",
    "MatMulNBits 4 bit": "nbits4",
}
_SHAPES = [(768, 768), (768, 3072), (3072, 768)]


def runtimes() -> str:
    result = _load("runtime_matrix")
    head = ["runtime", "files that run", "spikes compared", "other values", "different"]
    rows = [
        [
            row["runtime"],
            f"{row['files']} of {2 * result['networks']}",
            f"{row['spikes']:,}",
            f"{row['values'] - row['spikes']:,}",
            f"{row['different']:,}",
        ]
        for row in result["rows"]
    ]
    return (
        _table(head, rows)
        + f"\n\n{result['networks']} networks, each as it is exported and once more with the spikes of all its neuron"
        " layers as outputs; expected is\nwhat onnxruntime"
        f" {result['machine']['versions']['onnxruntime']} gave after `sxq.verify` found no difference from torch"
        " (`benchmarks/results/runtime_matrix.json`)."
    )


def form_runtimes() -> str:
    result = _load("runtime_matrix_forms")
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
    return (
        _table(head, rows)
        + f"\n\n{result['networks']} networks: integers only, streaming, and the synchronous schedule on counts and"
        " spike by spike; expected is what\nonnxruntime"
        f" {result['machine']['versions']['onnxruntime']} gave after `sxq.verify` found no difference"
        " (`benchmarks/results/runtime_matrix_forms.json`)."
    )


def integer_cost() -> str:
    result = _load("integer_cost")
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
        _table(head, lines)
        + f"\n\nDense ternary networks on {result['images']} test digits, {result['steps']} time steps, means over"
        f" both frameworks and seeds {seeds};\na leak of 1 is an integrate-and-fire neuron, which has no leak to round."
        ' Accuracy and answers with a leak of 15 bits.\n"Changed" is against the float model in torch, "different in'
        ' the file" against the golden model and torch\n(`benchmarks/results/integer_cost.json`).'
    )


#: The tables of each page, by the name between their markers.
PAGES = {
    "README.md": {"demo table": demo, "exactness table": exactness},
    "docs/deployment.md": {
        "batch norm table": batch_norm,
        "file size table": file_size,
        "streaming table": streaming,
    },
    "docs/integer.md": {"integer cost table": integer_cost},
    "docs/native.md": {"native matmul table": native_matmul, "native conv table": native_conv},
    "docs/runtimes.md": {"runtime table": runtimes, "form runtime table": form_runtimes},
    "docs/quantisers.md": {"gptq table": gptq},
    "docs/synchronous.md": {"count execution table": count_execution},
    "docs/speed.md": {
        "encoder table": encoder,
        "encoder sizes table": encoder_sizes,
        "encoder spikes table": encoder_spikes,
        "signed table": signed_spikes,
    },
}


def render(page: str) -> str:
    """Return a page's text with the tables put between their markers."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, table in PAGES[page].items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        after = rest.partition(end)[2] if end in rest else rest
        text = f"{before}{start}\n{table()}\n{end}{after}"
    return text


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(render(page), encoding="utf-8")
