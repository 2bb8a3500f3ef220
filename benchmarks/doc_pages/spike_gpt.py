"""The tables of docs/spike_gpt.md."""

from __future__ import annotations

from typing import Any

from .results import is_there, load, table


def wkv() -> str:
    result = load("wkv")
    head = ["tokens, batch, width", "at once", "loop over tokens", "the same, shortest", "causal attention"]
    rows = [
        [
            f"{row['tokens']}, {row['batch']}, {row['width']}",
            f"{row['at_once_ms']:.0f} ms",
            *(f"{row[name + '_ratio']:.1f}x" for name in ("loop", "short_loop", "attention")),
        ]
        for row in result["rows"]
    ]
    growth = ["width 256, batch 1", *(f"{row['tokens']} tokens" for row in result["growth"])]
    times = [
        [name, *(f"{row[key + '_us_a_token']:.0f} us" for row in result["growth"])]
        for name, key in (("at once, a token", "at_once"), ("causal attention, a token", "attention"))
    ]
    machine = result["machine"]
    return (
        table(head, rows)
        + "\n\n"
        + table(growth, times)
        + "\n\nForward and backward, one thread, processor time, the median of interleaved rounds;"
        f" torch {machine['versions']['torch']}, {machine['processor']}.\nThe loop is the published recurrence with its"
        " running maximum under autograd; the shortest has its exponentials before\nthe loop and no maximum. Largest"
        f" difference to the published one in float64: {result['largest_difference']:.1g}"
        "\n(`benchmarks/results/wkv.json`)."
    )


#: Kinds of runs, by the last word of a recipe's name.
_KINDS = {
    "float": "float", "spikes": "float, products read spikes", "ternary": "ternary", "binary": "binary", "rwkv": "RWKV",
}  # fmt: skip
_UNITS = {"bits_per_character": "bits per character", "accuracy": "accuracy"}


def _figure(run: dict[str, Any], metric: str) -> str:
    value = run["metrics"][metric]
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.3f}"


def _against(run: dict[str, Any], other: dict[str, Any] | None, metric: str) -> str:
    """Return a figure, and how far it is from that of another run: of an RWKV, which learns by heart, its best one."""
    if other is None or other is run:
        return _figure(run, metric)
    spiking = run["firing_rate"] is not None and other["firing_rate"] is None
    ours, theirs = run["metrics"][metric], other["best" if spiking else "metrics"][metric]
    apart = f"{100 * (ours - theirs):+.1f}" if metric == "accuracy" else f"{100 * (ours / theirs - 1):+.1f} %"
    return f"{_figure(run, metric)} ({apart})"


def _of_rwkv(run: dict[str, Any], metric: str) -> str:
    """Return its last figure, and the best of those measured on the way where it is another."""
    last, best = _figure(run, metric), _figure({"metrics": run["best"]}, metric)
    if last == best:
        return last
    step = next(entry["step"] for entry in run["dev"] if entry["dev"][metric] == run["best"][metric])
    return f"{last}; {best} after {step:,} steps"


def _before(all_runs: dict[str, Any], run: dict[str, Any]) -> str:
    """Return the steps of the run that one went on from."""
    return f" + {all_runs[run['start']]['steps']:,}" if run["start"] in all_runs else ""


def runs() -> str:
    if not is_there("spike_gpt_runs"):
        return "None of the recipes has been run to its end yet."
    result = load("spike_gpt_runs")
    rows = []
    for name, run in result["runs"].items():
        recipe, _, number = name.partition("-")
        task, _, kind = recipe.rpartition("_")
        last = f"-{number}" if number else ""
        metric = run["metric"]
        # Spikes are compared with the RWKV of their size, few bits with float weights.
        other = result["runs"].get(f"{task}_{'rwkv' if kind == 'float' else 'float'}{last}")
        perplexity = run["metrics"].get("perplexity")
        rows.append([
            f"{task.removesuffix('_gpt')}{', seed ' + str(run['seed']) if run['seed'] else ''}",
            _KINDS[kind],
            _UNITS.get(metric, metric),
            _of_rwkv(run, metric) if kind == "rwkv" else _against(run, other, metric),
            "-" if perplexity is None else f"{perplexity:.2f}",
            "-" if run["firing_rate"] is None else f"{run['firing_rate']:.3f}",
            f"{run['steps']:,}" + _before(result["runs"], run),
            "-" if run["tokens"] is None else f"{run['tokens'] / 1e6:.1f} M",
            f"{run['seconds_logged'] / 60:.0f} min",
            f"{run['parameters'] / 1e6:.2f} M",
            f"{run['state_numbers']:,}",
        ])  # fmt: skip
    head = [
        "text", "weights", "of the dev part", "figure (against)", "perplexity", "firing rate", "steps", "tokens",
        "time", "parameters", "state",
    ]  # fmt: skip
    return (
        table(head, rows)
        + "\n\nThe last model of each run. In brackets: float against the RWKV's best measurement, ternary and"
        " binary against float (accuracy in points).\nTernary and binary runs go on from the float one, whose steps are"
        " behind the plus; tokens and time are of the run alone.\nState: numbers of float32 a sequence"
        " (`benchmarks/results/spike_gpt_runs.json`)."
    )


def equal_steps() -> str:
    """Return spiking and RWKV runs of one recipe side by side, after the same tokens."""
    found, rows = load("spike_gpt_runs")["runs"] if is_there("spike_gpt_runs") else {}, []
    for name, run in found.items():
        rwkv = found.get(f"{name.removesuffix('_float')}_rwkv")
        if not name.endswith("_float") or rwkv is None or run["tokens"] is None:
            continue
        metric, a_step = run["metric"], run["tokens"] / run["steps"]
        theirs = {line["step"]: line["dev"][metric] for line in rwkv["dev"]}
        for line in run["dev"]:
            if line["step"] in theirs:
                ours, other = line["dev"][metric], theirs[line["step"]]
                apart = f"{100 * (ours / other - 1):+.1f} %"
                tokens = f"{line['step'] * a_step / 1e6:.1f} M"
                rows.append([run["task"], f"{line['step']:,}", tokens, f"{ours:.3f}", f"{other:.3f}", apart])
    return table(["text", "steps", "tokens", "SpikeGPT", "RWKV", "apart"], rows)


def precision() -> str:
    if not is_there("spike_gpt_precision"):
        return "This has not been measured yet."
    parts, result = [], load("spike_gpt_precision")
    first = "" if result["characters"] is None else f"The first {result['characters']:,} characters of the "
    for name, run in result["runs"].items():
        whole = run["rows"][0]
        rows = [
            [
                row["weights"] + (", GPTQ" if row["gptq"] else ""),
                f"{row['perplexity']:.2f}",
                f"{row['bits_per_character']:.3f}",
                f"{100 * (row['bits_per_character'] / whole['bits_per_character'] - 1):+.1f} %",
                f"{row['bytes'] / 1e3:,.0f} kB",
            ]
            for row in run["rows"]
        ]
        head = [name, "perplexity", "bits per character", "against float", "file"]
        parts.append(table(head, rows))
    return (
        "\n\n".join(parts) + f"\n\n{first or 'The whole '}dev text, no training after quantising"
        " (`benchmarks/results/spike_gpt_precision.json`)."
    )


def _apart(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return rows with figures against the first one's."""
    first = rows[0]

    def against(row: dict[str, Any], figure: str) -> str:
        return "" if row is first else f"{100 * (row[figure] / first[figure] - 1):+.2f} %"

    return [
        [
            row["what"],
            f"{row['bits_per_character']:.4f}",
            against(row, "bits_per_character"),
            f"{row['perplexity']:.3f}",
            against(row, "perplexity"),
        ]
        for row in rows
    ]


def integer_profile() -> str:
    if not is_there("spike_gpt_integer"):
        return "This has not been measured yet."
    found = load("spike_gpt_integer")["runs"]
    head = ["bits per character", "against", "perplexity", "against"]
    texts = []
    for name, run in found.items():
        rows = list(run["rows"])
        if "trained" in run:
            after = run["trained"]
            what = f"{after['what']} for {after['steps']} steps of {after['tokens_a_step']:,} tokens"
            rows.append({**after, "what": what})
        texts.append(table([name, *head], _apart(rows)))
    for name, run in found.items():
        if "parts" in run:
            parts = run["parts"]
            characters = f"{parts['characters']:,} characters"
            texts.append(table([f"{name}, {characters}: in whole numbers", *head], _apart(parts["rows"])))
    texts.append(
        "Trained in the reference profile; the weights were taken over as they are, unless it says how long they were"
        " trained on. The whole\ndev text, or its first characters with one part at a time in whole numbers, the rest"
        " as in the reference profile. Spikes that flip at a\nthreshold make about a thousandth either way"
        " (`benchmarks/results/spike_gpt_integer.json`)."
    )
    return "\n\n".join(texts)


def integer_decode() -> str:
    if not is_there("spike_gpt_integer_decode"):
        return "This has not been measured yet."
    found = load("spike_gpt_integer_decode")
    names = {
        "integer native": "integer, native",
        "integer without": "..., without their kernels",
        "integer stock": "integer, stock",
        "reference native": "reference, native",
        "reference stock": "reference, stock",
    }
    rows = []
    for row in found["rows"]:
        seconds, tokens = row["seconds"], row["tokens"]
        what = f"{row['layers']} layers of width {row['width']}, {tokens} token{'s' if tokens > 1 else ''}"
        least = seconds["integer native"]
        rows.append([what, *(f"{1e3 * seconds[kind]:.2f} ms ({seconds[kind] / least:.1f}x)" for kind in names)])
    machine = found["machine"]
    return (
        table(["a run of", *names.values()], rows)
        + "\n\nTernary weights, random; one thread, its processor time, medians of interleaved rounds on a machine that"
        " was busy with other work;\nthe logits of one profile are the same bits. Stock: onnxruntime alone. Without:"
        f" other native kernels alone. {found['instruction_set']} kernels,\nonnxruntime"
        f" {machine['versions']['onnxruntime']}, {machine['processor']}"
        " (`benchmarks/results/spike_gpt_integer_decode.json`)."
    )


def decode() -> str:
    found = load("spike_gpt_decode")
    decoding, size, memory = found["decoding"], found["file_bytes"], found["peak_mb"]
    opening = found.get("opening_seconds")  # older results have none, nor stock onnxruntime
    names = {"float": "float32", "native": "ternary, native kernels", "stock": "ternary, stock onnxruntime"}
    rows = [
        [
            name,
            f"{size[kind] / 1e6:.1f} MB ({size[kind] / size['float']:.3f}x)",
            f"{memory[kind]:.0f} MB ({memory[kind] / memory['float']:.3f}x)",
            *([f"{opening[kind]:.1f} s"] if opening else []),
            f"{decoding[kind]['seconds'] * 1e3:.1f} ms",
            f"{1 / decoding[kind]['seconds']:.0f} ({decoding['float']['seconds'] / decoding[kind]['seconds']:.1f}x)",
        ]
        for kind, name in names.items()
        if kind in decoding
    ]
    columns = ["weights", "file", "memory", *(["opens in"] if opening else []), "a token", "tokens a second"]
    plain = (
        f" Without `enable_mem_reuse=False` stock onnxruntime opens the file in {opening['plain']:.1f} s."
        if opening
        else ""
    )
    head, shape, machine = found["head"], found["shape"], found["machine"]
    emb = head["binary8"]["embedding_bytes"]
    without = size["native"] - head["ternary4"]["head_bytes"] - emb
    bits = {"binary8": "1", "ternary4": "1.58, in 2", "int4": "4", "int8": "8"}
    costs = [
        [
            words,
            f"{head[layout]['head_bytes'] / 1e6:.1f} MB",
            f"{head[layout]['head_bytes'] / (without + head[layout]['head_bytes'] + emb):.2f}",
            f"{head[layout]['seconds'] * 1e3:.2f} ms",
            f"{head[layout]['embedding_bytes'] / 1e6:.1f} MB",
        ]
        for layout, words in bits.items()
    ]
    return (
        table(columns, rows)
        + f"\n\n{shape['layers']} layers of width {shape['width']}, {shape['vocab']:,} tokens, random weights; one"
        " thread, its processor time, medians of\ninterleaved rounds. Memory: the largest resident set of a process"
        " that opens the file and makes three tokens,\nof which Python with onnxruntime alone takes"
        f" {found['empty_mb']:.0f} MB.{plain} The float file has plain operators, MatMul to Sigmoid.\n\n"
        + table(["bits", "head", "its share of the file", "its product, native", "embedding"], costs)
        + "\n\nThe share is of a file whose other matrices are ternary and whose embedding is one bit an entry,"
        " which is lossless where\nit is binarised; wider ones are for `binary_embedding=False`. Looking up a row costs"
        f" next to nothing at any precision.\n{found['instruction_set']} kernels,"
        f" onnxruntime {machine['versions']['onnxruntime']}, {machine['processor']}"
        " (`benchmarks/results/spike_gpt_decode.json`)."
    )


def classifier_files() -> str:
    if not is_there("spike_gpt_classifier"):
        return "This has not been measured yet."
    rows, found = [], load("spike_gpt_classifier")
    for name, file in found["files"].items():
        for where, words in (("stock", "stock onnxruntime"), ("native", "native kernels")):
            if (compared := file["compared"].get(where)) is None:
                continue
            rows.append([
                name,
                words,
                f"{compared['sentences']:,}",
                f"{compared['spikes']:,}",
                f"{compared['different_spikes']:,}",
                "all the same" if compared["logits_differ_by"] == 0 else f"{compared['logits_differ_by']:.1e} apart",
                f"{100 * compared['accuracy']:.2f} %",
                f"{100 * file['accuracy_in_torch']:.2f} %",
                f"{file['file_bytes'] / 1e3:,.0f} kB",
                f"{file['weight_bytes'] / 1e3:,.1f} kB",
                f"{file['predicted_weight_bytes'] / 1e3:,.1f} kB",
            ])  # fmt: skip
    head = [
        "run", "on", "dev sentences", "spikes compared", "different", "logits", "accuracy of the file", "of the run",
        "file", "its weights", "predicted",
    ]  # fmt: skip
    return (
        table(head, rows)
        + "\n\nThe last model of each run: every dev sentence through torch and the file in batches of 32, and the"
        " labels that the file gives by itself, of texts.\nPredicted: `sxq.accounting.weight_memory`; onnxruntime"
        f" {found['machine']['versions']['onnxruntime']}, {found['machine']['processor']}"
        " (`benchmarks/results/spike_gpt_classifier.json`)."
    )


#: By the name between their markers.
TABLES = {
    "classifier files table": classifier_files,
    "wkv table": wkv,
    "runs table": runs,
    "equal steps table": equal_steps,
    "precision table": precision,
    "integer profile table": integer_profile,
    "spike_gpt decode table": decode,
    "integer decode table": integer_decode,
}
