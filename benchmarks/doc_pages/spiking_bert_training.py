"""The tables of docs/spiking_bert.md on trained models."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

from .results import load, table

#: The runs on SST-2 and the dev accuracy, in percent, that was to be reached.
_SST2 = {
    "sst2_float": ("float", 89.0),
    "sst2_ternary": ("ternary", 88.3),
    "sst2_binary": ("binary", 87.0),
    "sst2_ternary_01": ("ternary, {0,1} spikes with offsets", 86.5),
    "sst2_ternary_integer": ("ternary, integer profile", 86.5),
}
#: The least part of the teacher's figure, in percent.
_SMALL = {"mrpc": ("MRPC", 91), "stsb": ("STS-B", 88), "rte": ("RTE", 90), "cola": ("CoLA", 75)}
_STEPS = ("4", "8", "16", "32", "64")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _emphasised(T: str, value: float) -> str:
    return f"**{_percent(value)}**" if T == "16" else _percent(value)


def sst2() -> str:
    result = load("training_runs")
    teacher = result["teachers"]["sst2"]["accuracy"]
    rows = []
    for name, (words, asked) in _SST2.items():
        if name not in result["runs"]:
            continue
        run = result["runs"][name]
        rows.append([
            words,
            f"{asked:.1f} %",
            _percent(run["metrics"]["accuracy"] / teacher),
            *(_emphasised(T, run["by_time_steps"][T]["accuracy"]) for T in _STEPS),
            f"{run['firing_rate']:.3f}",
            f"{sum(stage['steps'] for stage in run['stages']):,}{_before(name)}",
            f"{run['seconds_logged'] / 60:,.0f} min",
        ])  # fmt: skip
    steps = [f"T = {T}" for T in _STEPS]
    head = ["weights", "asked at T = 16", "of the teacher", *steps, "firing rate", "steps", "time"]
    return (
        table(head, rows) + f"\n\nSST-2 dev, the last model of one run each (seed 0), simulated in float32; the teacher"
        f" has {_percent(teacher)}. The integer\nstudent starts from the ternary one, the binary one, of the"
        " integer profile too, from that: behind the plus\nare the steps of the runs before. Batch 64, one core of a"
        " shared machine: times of equal steps differ up to threefold. Without offsets\n{0,1} spikes were only"
        " tried for 263 steps ([ablations](#ablations)). The dev set's standard error is 1.1 points"
        " (`benchmarks/results/training_runs.json`)."
    )


def _before(name: str) -> str:
    """Return the steps of the runs that a run goes on from."""
    chain = ("sst2_ternary", "sst2_ternary_integer", "sst2_binary")
    runs = load("training_runs")["runs"]
    earlier = chain[: chain.index(name)] if name in chain else ()
    return "".join(f" + {sum(s['steps'] for s in runs[other]['stages']):,}" for other in reversed(earlier))


def small() -> str:
    result = load("training_runs")
    rows = []
    for task, (name, asked) in _SMALL.items():
        runs = [run for _, run in sorted(result["runs"].items()) if run["task"] == task]
        if not runs:
            continue
        metric = runs[0]["metric"]
        teacher = result["teachers"][task][metric]
        found = [run["metrics"][metric] for run in runs]
        spread = f" ± {100 * stdev(found):.1f}" if len(found) > 1 else ""
        rows.append([
            f"{name}, {metric}",
            f"{100 * teacher:.1f}",
            " / ".join(f"{100 * value:.1f}" for value in found),
            f"{100 * fmean(found):.1f}{spread}",
            f"**{_percent(fmean(found) / teacher)}**",
            f"{asked} %",
            " / ".join(f"{100 * _mean_at(runs, T, metric):.1f}" for T in _STEPS),
        ])  # fmt: skip
    head = ["task", "teacher", "by seed", "mean", "of the teacher", "asked", "mean at T = " + " / ".join(_STEPS)]
    return (
        table(head, rows) + "\n\nDev figures times 100 of ternary students with signed spikes, the last model of each"
        " run, by rising seed, T = 16; the mean with the standard\ndeviation. RTE's teacher is hardly above the larger"
        " class (52.7), so is the student, and its share says little (`benchmarks/results/training_runs.json`)."
    )


def _mean_at(runs: list[dict[str, Any]], T: str, metric: str) -> float:
    return fmean(run["by_time_steps"][T][metric] for run in runs)


def ablations() -> str:
    result = load("ablations")
    base = result["rows"]["as it is"]["accuracy"]
    rows = [
        [
            name,
            " ".join(f"`{change}`" for change in row["changes"]),
            _percent(row["accuracy"]),
            "" if name == "as it is" else f"{100 * (row['accuracy'] - base):+.1f}",
            " / ".join(f"{100 * row['by_time_steps'][T]['accuracy']:.1f}" for T in _STEPS),
            f"{row['firing_rate']:.3f}",
        ]
        for name, row in result["rows"].items()
    ]
    head = [f"`{result['recipe']}`", "`--set`", "SST-2 dev", "points", "at T = " + " / ".join(_STEPS), "firing rate"]
    steps = result["rows"]["as it is"]["steps"]
    steady = "".join(
        f"\nWhat was trained at equilibrium has {_percent(row['accuracy_at_equilibrium'])} there, without simulation:"
        " simulated spikes of the step schedule do not come near those rates within 64 time steps."
        for row in result["rows"].values()
        if "accuracy_at_equilibrium" in row
    )
    return (
        table(head, rows) + f"\n\nOne change at a time, {steps:,} steps each, one seed; the last model, simulated in"
        " float32 at T = 16 (`benchmarks/results/ablations.json`).\nThe dev set's standard error is 1.1 points: smaller"
        f" differences say nothing.{steady}"
    )


def score_loss() -> str:
    result = load("score_loss")
    ratio, kept = result["ratio_to_kept_outputs"], result["kept_bytes"]
    named = {
        "kept outputs": ("hidden, logits; outputs that were kept", kept["hidden"]),
        "teacher in each step": ("hidden, logits; the teacher runs in each step", 0),
        "with scores": ("hidden, logits, scores; the teacher runs in each step", 0),
    }
    rows = [
        [text, f"{ratio[name]:.2f}x", f"{size / 1e9:.1f} GB" if size else "none"]
        for name, (text, size) in named.items()
    ]
    return (
        table(["losses", "time of a step", "kept on disk"], rows)
        + f"\n\nMedians of {result['batches']} batches of {result['batch']}, one thread, on a busy machine. Scores of"
        f" all {result['sentences']:,} sentences ({result['mean_tokens']:.1f} tokens in the\nmean) would take"
        f" {kept['scores'] / 1e9:.1f} GB more; those of one batch in memory take up to"
        f" {result['largest_batch_scores_bytes'] / 1e6:.0f} MB (`benchmarks/results/score_loss.json`)."
    )


TABLES = {
    "sst2 results table": sst2,
    "small tasks table": small,
    "ablations table": ablations,
    "score loss table": score_loss,
}
