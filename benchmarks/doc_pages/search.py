"""The tables of docs/search.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .results import is_there, load, table

_MODELS = {
    "search_sst2": "SpikeGPT, SST-2",
    "search_sst2_bert": "SpikingBERT, SST-2",
    "search_tinyshakespeare": "SpikeGPT, tinyshakespeare",
    "search_wikitext2": "SpikeGPT, WikiText-2",
    "search_digits": "digits",
}
_METHODS = {
    "search": "search", "plain": "QSLM as published", "uniform": "uniform", "greedy": "greedy by the sweep",
    "random_plans": "random", "tpe": "TPE (Optuna)",
}  # fmt: skip
#: What was measured on.
_TEXTS = {
    "search_tinyshakespeare": "the first 8,192 characters of the held-out tenth",
    "search_wikitext2": "the first 40,000 characters of the validation text",
}
#: QSLM's (2601.00679), of SpikeGPT-216M: the limits, and reduction and loss that are reported.
_PUBLISHED = (
    ("a1: SST-2", "2 points, 400 MB", "85.7 %", "1.3 points"),
    ("a2, a3: SST-2", "5 points, 400 and 420 MB", "86.5 %", "4.4 points"),
    ("b1: WikiText-2", "+1 perplexity, 400 MB", "68.7 %", "-1.9 (24.6 of 26.5)"),
    ("b2: WikiText-2", "+4 perplexity, 400 MB", "62.4 %", "-3.3"),
    ("b3: WikiText-2", "+4 perplexity, 420 MB", "68.7 %", "-2.1"),
)


def _results() -> Iterator[tuple[str, dict[str, Any]]]:
    return ((title, load(name)) for name, title in _MODELS.items() if is_there(name))


def _unit(row: dict[str, Any]) -> str:
    return "points" if row["metric"] == "accuracy" else "perplexity"


def _limits(row: dict[str, Any]) -> str:
    return f"{row['max_drop']:g} {_unit(row)}, {row['max_memory']}"


def _figures(row: dict[str, Any]) -> list[str]:
    if not row["feasible"]:
        near = [row[name] for name in ("least_memory", "least_drop") if name in row]
        return ["none", "; ".join(f"{p['drop']:+.2f} at {100 * p['saved']:.1f} %" for p in near) or "-", "-"]
    return [f"{100 * row['saved']:.1f} %", f"{row['drop']:+.2f} ({row['quality']:.2f})", f"{row['score']:.2f}"]


def cases() -> str:
    rows = [["published", case, limits, saved, loss, "-", "-"] for case, limits, saved, loss in _PUBLISHED]
    notes = []
    texts = "; ".join(f"{_MODELS[name]}: {text}" for name, text in _TEXTS.items() if is_there(name))
    for title, result in _results():
        for row in result["rows"]:
            if row["method"] == "search":
                cost = f"{row['evaluations']:.1f}"
                rows.append(["ours", title, _limits(row), *_figures(row), cost])
        notes.append(f"{title} {result['examples']:,}")
    head = ["", "model", "limits", "memory saved", "loss (quality)", "score", "evaluations"]
    return (
        table(head, rows)
        + "\n\nAfter training, without any polish; alpha 10. Limits of memory are shares of float32; where less costs"
        " little the score goes below them,\nand they do not bind."
        " Where there is no plan: the nearest ones on both sides.\nEvaluations are of all examples:"
        f" {', '.join(notes)} (of texts streams; {texts}).\n"
        "Published: of the 216M SpikeGPT (`benchmarks/results/search_*.json`)."
    )


def polished() -> str:
    """Return what the polish made of the plans that were found."""
    rows = []
    for title, result in _results():
        metric = result["rows"][0]["metric"]
        for entry in result.get("polished", ()):
            limits = _limits({**entry, "metric": metric})
            if "candidate" not in entry:
                rows.append([title, limits, "-", "-", "-", str(entry["steps"])])
                continue
            after, float_quality = entry["candidate"], result["rows"][0]["baseline"]
            lost = entry["before"] - float_quality if metric == "perplexity" else float_quality - entry["before"]
            then = f"{after['drop']:+.2f} ({after['quality']:.2f})" if entry["kept"] else "no better, left as it was"
            saved = f"{100 * after['saved']:.1f} %"
            rows.append([title, limits, saved, f"{lost:+.2f} ({entry['before']:.2f})", then, str(entry["steps"])])
    head = ["model", "limits", "memory saved", "loss before", "loss after", "steps"]
    return table(head, rows)


def rivals() -> str:
    rows = []
    for title, result in _results():
        others = [row for row in result["rows"] if row["method"] != "search"]
        if not others:
            continue
        ours = result["rows"][0]
        for row in (ours, *others):
            cost = [f"{row['evaluations']:.1f}", f"{row['examples']:,}", f"{row['evaluation_cpu_seconds']:.1f} s"]
            ratio = f"{row['evaluation_cpu_seconds'] / ours['evaluation_cpu_seconds']:.1f}x"
            rows.append([title, _limits(row), _METHODS[row["method"]], *_figures(row), *cost, ratio])
    head = [
        "model", "limits", "method", "memory saved", "loss (quality)", "score", "evaluations", "examples",
        "time of evaluations", "of the search's",
    ]  # fmt: skip
    machine = load("search_digits")["machine"]
    return (
        table(head, rows)
        + "\n\nProcessor time of one thread within evaluations, trials of reuse included; the machine was busy with"
        f" other work\n({machine['processor']}). QSLM as published takes as many evaluations as it needs; the"
        " others as many as the search, greedy its whole sweep."
    )


def alphas() -> str:
    rows = []
    for title, result in _results():
        found = {entry["alpha"]: entry for entry in result.get("alphas", ())}
        if found:
            found[10.0] = result["rows"][0]
        rows += [[title, _limits(row), f"{alpha:g}", *_figures(row)] for alpha, row in sorted(found.items())]
    return table(["model", "limits", "alpha", "memory saved", "loss (quality)", "score"], rows)


def roles() -> str:
    parts = []
    for title, result in _results():
        if not result.get("roles"):
            continue
        levels = sorted((float(level) for level in result["roles"][0]["drops"]), reverse=True)
        rows = [
            [entry["block"], entry["role"], *(_drop(entry["drops"], level) for level in levels)]
            for entry in result["roles"]
        ]
        unit = _unit(result["rows"][0])
        parts.append(
            table([f"{title}: block", "role", *(f"{level:g} bit" for level in levels)], rows) + f"\n\nLoss in {unit}."
        )
    return "\n\n".join(parts)


def _drop(drops: dict[str, float], level: float) -> str:
    value = {float(key): drop for key, drop in drops.items()}.get(level)
    return "-" if value is None else f"{value:+.2f}"


def memory() -> str:
    result = load("search_memory")
    rows = [
        [
            f"{row['bits']:g}",
            "-" if row["published_megabytes"] is None else f"{row['published_megabytes']} MB",
            f"{row['megabytes']:.0f} MB",
            f"{row['scales_megabytes']:.1f} MB",
            f"{100 * row['reduction']:.2f} %",
        ]
        for row in result["rows"]
    ]
    return (
        table(["bits", "published", "ours, codes and other parameters", "scales", "saved"], rows)
        + f"\n\nOf {result['float_megabytes']:.0f} MB in float32 ({result['parameters']:,} parameters), by arithmetic"
        " (`benchmarks/search_memory.py`)."
    )


#: By the name between their markers.
TABLES = {
    "search cases table": cases,
    "search polish table": polished,
    "search rivals table": rivals,
    "search alphas table": alphas,
    "search roles table": roles,
    "search memory table": memory,
}
