"""The tables of docs/spiking_bert.md."""

from __future__ import annotations

from typing import Any

from . import spiking_bert_training
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


def identity() -> str:
    rows = [
        [
            f"{row['student']}, T = {row['T']}",
            f"{row['predictions_different']} of {row['sentences']}",
            f"{row['largest_logit_difference']:.1g}" if row["largest_logit_difference"] else "0",
            " / ".join(f"{100 * row['accuracy'][name]:.1f} %" for name in ("rates", "spikes")),
        ]
        for row in load("synchronous_identity")["rows"]
    ]
    return (
        table(["student", "predictions different", "largest difference of a logit", "accuracy, rates / spikes"], rows)
        + "\n\nThe SST-2 dev set by one pass over rates and by T steps of spikes, trained students\n"
        "(`benchmarks/results/synchronous_identity.json`). Sums of float weights round; quantised ones are exact."
    )


_TIMED = "through time"


def _megabytes(row: dict[str, Any]) -> str:
    return "more than the limit" if row["bytes"] is None else f"{row['bytes'] / 1e6:.0f} MB"


def _cell(row: dict[str, Any], other: dict[str, Any]) -> str:
    ratio = f"{row['seconds'] / other['seconds']:.3f}x, {_megabytes(row)}"
    if row["bytes"] is None or other["bytes"] is None or row is other:
        return ratio
    return f"{ratio} ({row['bytes'] / other['bytes']:.3f}x)"


def cost() -> str:
    result = load("equilibrium_training")
    groups = {T: {row["way"]: row for row in rows} for T, rows in result["by_T"].items()}
    batches = {T: rows[_TIMED]["batch"] for T, rows in groups.items()}
    ways = list(next(iter(groups.values())))
    rows = [[way, *(_cell(rows[way], rows[_TIMED]) for rows in groups.values())] for way in ways]
    full = result["growth"][0]
    scaled = {T: found[_TIMED]["bytes"] * full["batch"] / batches[T] for T, found in groups.items()}
    needs = ", ".join(
        f"{size / 1e9:.0f} GB at T = {T} ({size / full['bytes']:.0f} times equilibrium's)" for T, size in scaled.items()
    )
    solved = groups["16"]
    evaluations = "; ".join(
        f"{way.partition(', ')[2]}: " + " and ".join(f"{n} {name}" for name, n in solved[way]["evaluations"].items())
        for way in ways
        if solved[way]["evaluations"]
    )
    radius = result["spectral_radius"]
    simulated = ", ".join(f"{value:.2g} (T = {T})" for T, value in radius["simulated"].items())
    return (
        table(["training", *(f"T = {T}, batch {batch}" for T, batch in batches.items())], rows)
        + "\n\nProcessor time and peak memory of forward and backward pass, and their ratios to backpropagation through"
        f" time.\nTernary weights, 6 layers of width 384, FFN {result['network']['ffn']}, {result['tokens']} tokens a"
        f" sentence.\nAt a batch of {full['batch']} through time needs, scaled by the batch,\n{needs}.\nFeedback from"
        " layer 6 to 0, W_fb from N(0, 0.01/hidden). Evaluations of the network at T = 16:\n"
        f"{evaluations}.\nρ(J) is {radius['steady']:.2g} at the steady state and, at simulated rates, {simulated}.\n"
        "(`benchmarks/results/equilibrium_training.json`; its script says how memory is measured.)"
    )


def growth() -> str:
    rows = load("equilibrium_training")["growth"]
    ways, steps = (list(dict.fromkeys(row[key] for row in rows)) for key in ("way", "T"))
    found = {(row["way"], row["T"]): row for row in rows}
    first = found[ways[0], steps[0]]
    cells = [
        [way, *(f"{found[way, T]['seconds'] / first['seconds']:.2f}x, {_megabytes(found[way, T])}" for T in steps)]
        for way in ways
    ]
    return (
        table(["training", *(f"T = {T}" for T in steps)], cells)
        + f"\n\nThe same network at batch {first['batch']}; time relative to the first figure. What the allocator keeps"
        "\nmakes the memory of simulations vary from run to run; it does not rise with T."
    )


def export() -> str:
    result = load("spiking_bert_export")
    names = {
        "teacher": "teacher, float32", "int8": "teacher, dynamic int8",
        "counts, reference": "counts, T = 16, reference", "counts, integer": "counts, T = 16, integer",
        "all steps, reference": "all steps, synchronous, T = 4, reference",
        "all steps, integer": "all steps, synchronous, T = 4, integer",
        "steps, integer": "step by step, T = 4, integer",
    }  # fmt: skip
    times = result["relative_to_teacher"]
    rows = []
    for key, name in names.items():
        found = result["verified"][key]
        native = [
            f"{times[tokens][f'{key}, native']:.2f}" if f"{key}, native" in times[tokens] else "" for tokens in times
        ]
        rows.append(
            [
                name,
                f"{result['bytes'][key] / 1e6:.1f} MB",
                f"{result['size_relative_to_int8'][key]:.2f}",
                f"{result['resident_bytes'][key] / 1e6:.0f} MB",
                *(f"{times[tokens][key]:.2f}" for tokens in times),
                *native,
                f"{found['different']:,} of {found['compared']:,}" if "compared" in found else "",
                f"{found['same_answers']} of {found['answers']}" if "answers" in found else "",
                f"{100 * found['accuracy']:.1f} %",
            ]
        )
    lengths = list(times)
    head = ["file", "bytes", "to int8's", "memory", *(f"{n} tokens" for n in lengths)]
    head += [*(f"{n}, native" for n in lengths), "counts or spikes that differ", "same answer", "SST-2 dev"]
    machine = result["machine"]
    logits = result["verified"]["counts, reference"]["logit_difference"]
    rates = ", ".join(
        f"{result['verified'][key]['firing_rate']:.2f} ({name})"
        for key, name in names.items()
        if key not in ("teacher", "int8")
    )
    taken = ", ".join(str(value) for value in result["teacher_milliseconds"].values())
    return (
        table(head, rows)
        + f"\n\nTime of a text relative to the float teacher's ({taken} ms), one thread, processor time, the median"
        f" of {result['rounds']}\ninterleaved runs; onnxruntime {machine['versions']['onnxruntime']},"
        f" {machine['processor']}. Students of 6 layers and width 384, ternary,\nembeddings of 4 bit, signed spikes,"
        f" trained on the synchronous schedule with T = 16, the one step by step on that schedule with T = 4."
        f" Firing rates:\n{rates}. Spikes: the dev set's\nfirst"
        f" {result['verified']['counts, reference']['texts']} sentences; answers: all of it"
        " (`benchmarks/results/spiking_bert_export.json`). Logits of the counts file of the\nreference profile differ"
        f" by up to {logits:.2g} of the largest."
    )


def integer() -> str:
    result = load("spiking_bert_integer")
    names = {
        "counts": "counts, float constants", "counts, integer": "counts, integers",
        "sequence, integer": "all steps, integers",
    }  # fmt: skip
    times = result["milliseconds"]
    rows = []
    for key, name in names.items():
        found = result["files"][key]
        trained = "of_float" in found
        share = 100 * found["of_float"] / found["of_float_compared"] if trained else 0.0
        whole = found["texts"] == result["files"]["counts"]["texts"]
        rows.append([
            name, f"{found['bytes'] / 1e6:.1f} MB", f"{found['different']:,} of {found['compared']:,}",
            f"{share:.2g} %" if trained else "",
            f"{found['same_answer'] if trained else found['answers_as_torch']} of {found['texts']}",
            f"{100 * found['accuracy']:.1f} %" if whole else "",
            *(f"{taken[key] / taken['counts']:.3g}" for taken in times.values()),
        ])  # fmt: skip
    head = ["file", "bytes", "counts or spikes that differ", "from the trained model", "same answer", "accuracy"]
    first = ", ".join(f"{taken['counts']:.3g}" for taken in times.values())
    few = result["files"]["sequence, integer"]["texts"]
    return (
        table([*head, *(f"{tokens} tokens" for tokens in times)], rows)
        + f"\n\nA trained student of {result['layers']} layers and width {result['hidden']}, ternary, T = {result['T']}"
        f" (embeddings packed to 4 bit); the dev\nset's first {result['files']['counts']['texts']} sentences, of which"
        f" the last row has {few}. Time of a text on stock onnxruntime, one thread, relative to the\nfirst row's"
        f' ({first} ms). "Differ": file, golden model and torch in whole numbers.'
        f" {result['changed_channels']} of {result['channels']:,} constants have a sum of\nwhich torch gives another"
        " count (`benchmarks/results/spiking_bert_integer.json`)."
    )


def packed_tables() -> str:
    result = load("packed_embeddings")
    rows = []
    for case in result["cases"]:
        name = "float32" if case["bits"] == 32 else f"{case['bits']} bit"
        rule = {"": "", "mse": "least squares", "max": "largest"}[case["scale"]]
        rows.append([
            name, rule, f"{case['relative_squared_error']:.2g}", f"{100 * case['accuracy']:.2f} %",
            f"{100 * case['answers_as_float']:.1f} %", f"{case['bytes'] / 1e6:.2f} MB",
        ])  # fmt: skip
    return (
        table(["words", "scale of a row", "error", "SST-2 dev", "answers as with float32", "weights"], rows)
        + f"\n\nA student of 6 layers and width 384 with ternary weights, T = {result['T']}, packed after training;"
        " error: of the words' table,\nsquared, relative. Positions and types have 8 bit at least"
        " (`benchmarks/results/packed_embeddings.json`)."
    )


def early_exit() -> str:
    result = load("early_exit")
    head = ["policy", "SST-2 dev", "mean T", "steps spent", "estimated energy of a float BERT's"]
    policies = [
        *((f"T = {T}", row) for T, row in result["by_time_steps"].items()),
        *((f"early exit, margin {margin}", row) for margin, row in result["by_margin"].items()),
    ]
    rows = [
        [
            name, f"{100 * row['accuracy']:.2f} %", f"{row['mean_time_steps']:.2f}", f"{row['mean_steps_spent']:.2f}",
            f"{100 * row['energy_ratio']:.1f} %",
        ]
        for name, row in policies
    ]  # fmt: skip
    earnest = result["run_in_earnest"]
    return (
        table(head, rows)
        + f"\n\n`{result['model']}`, {result['texts']} texts, stock onnxruntime. Early exit starts at T ="
        f" {min(map(int, result['by_time_steps']))} and goes up to {result['trained_time_steps']}.\nIts rows follow"
        f" from the runs at each T; with margin {earnest['margin']} it was run in earnest, with the same label and"
        f" T\nfor {100 * earnest['same_answer_and_steps']:.1f} % of the texts (`benchmarks/results/early_exit.json`)."
    )


#: By the name between their markers.
TABLES = {
    **spiking_bert_training.TABLES,
    "start table": start,
    "trained table": trained,
    "identity table": identity,
    "cost table": cost,
    "growth table": growth,
    "export table": export,
    "integer table": integer,
    "packed tables": packed_tables,
    "early exit table": early_exit,
}
