"""Tables of docs/speed.md."""

from __future__ import annotations

from .results import SHAPES, load, table

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


def encoder() -> str:
    """Ratios of time to the float network, by tokens and steps; files, memory and loading."""
    result = load("encoder")
    ratios = {(row["S"], row["T"], row["threads"]): row["ratio to float32"] for row in result["rows"]}
    cases = sorted(ratios, key=lambda case: (case[2], -case[0], case[1]))
    head = ["network", *(f"S {s}, T {t}, {threads} thread{'s'[: threads - 1]}" for s, t, threads in cases)]
    lines = [[name, *(f"{ratios[case][name]:.3f}" for case in cases)] for name in ratios[cases[0]]]
    machine = result["machine"]
    density = [value for found in result["density"].values() for value in found.values()]
    return (
        table(head, lines) + f"\n\nTime relative to the float32 network: {result['layers']} layers, onnxruntime"
        f" {machine['versions']['onnxruntime']}, {result['kernels']} kernels,\n{machine['processor']},"
        f" {machine['cores']} cores shared with other work. One thread: its processor time; two: by the clock. Share of"
        f"\nneurons that fire: {min(density):.3f} to {max(density):.3f} (`benchmarks/results/encoder.json`)."
    )


def encoder_sizes() -> str:
    """File, memory and loading, relative to the float network."""
    result = load("encoder")
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
        table(head, lines)
        + f"\n\nRelative to the float32 network, whose file has {files['float'] / 1e6:.0f} MB, which holds"
        f" {base['loaded'] / 1e6:.0f} MB when loaded, {base[held] / 1e6:.0f} MB after\n`malloc_trim`, and loads in"
        f" {loads['float32']:.0f} ms. Registering the kernels takes {result['registering milliseconds']:.1f} ms."
    )


def encoder_spikes() -> str:
    """Output spikes that differ from the exact ones."""
    result = load("encoder")
    rows = [row for row in result["rows"] if row["threads"] == 1]
    head = ["network", *(f"S {row['S']}, T {row['T']}" for row in rows)]
    lines = [
        [name, *(f"{row['output spikes different'][name]:,} of {row['output spikes']:,}" for row in rows)]
        for name in rows[0]["output spikes different"]
    ]
    return table(head, lines)


def encoder_products() -> str:
    """The encoder's products alone."""
    result = load("encoder_products")
    rows = [[f"{row['rows']:,}", f"{row['ratio']:.3f}"] for row in result["rows"]]
    machine = result["machine"]
    return (
        table(["T x S", "integer products relative to float32"], rows)
        + f"\n\nonnxruntime {machine['versions']['onnxruntime']}, {machine['processor']}, one thread"
        " (`benchmarks/results/encoder_products.json`)."
    )


def signed_spikes() -> str:
    """Time of products of signed spikes."""
    result = load("signed_spikes")
    head = ["rows", *(f"{k} x {n}" for k, n in SHAPES)]
    found = {(row["K"], row["N"], row["M"]): row["ratio to spikes"] for row in result["results"]}
    lines = [
        [str(m), *(f"{found[k, n, m]['signed spikes']:.2f}" for k, n in SHAPES)]
        for m in sorted({row["M"] for row in result["results"]})
    ]
    machine = result["machine"]
    return (
        table(head, lines)
        + f"\n\nStock onnxruntime {machine['versions']['onnxruntime']}, {machine['processor']}, one thread"
        " (`benchmarks/results/signed_spikes.json`)."
    )


#: By the name between their markers.
TABLES = {
    "encoder table": encoder,
    "encoder sizes table": encoder_sizes,
    "encoder spikes table": encoder_spikes,
    "encoder products table": encoder_products,
    "signed table": signed_spikes,
}
