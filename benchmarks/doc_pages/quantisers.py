"""The table of docs/quantisers.md."""

from __future__ import annotations

from .results import load, table

_GPTQ = ("rounded", "gptq", "gptq_first_step_only")


def gptq() -> str:
    result = load("gptq")
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
        table(head, lines)
        + f"\n\nSquared error of the output potentials against the float network's, relative to their variance, on"
        f"\n{result['held_out_images']} images that neither training nor GPTQ saw; seeds {seeds}; float accuracy"
        f" {floats} %\n(`benchmarks/results/gptq.json`)."
    )


#: By the name between their markers.
TABLES = {
    "gptq table": gptq,
}
