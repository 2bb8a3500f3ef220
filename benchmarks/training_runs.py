"""Records what runs of `sxq train` gave: recipe, seed, steps, time, dev figures at each T, and the teacher's.

    python benchmarks/training_runs.py [--teacher TASK=FOLDER_OR_NUMBER ...] NAME=FOLDER ...

Figures are those of a run's last model, which no dev figure chose. Runs of one student that differ in their seed take
names as mrpc-0, mrpc-1. Runs recorded before are kept; the same name replaces. A folder of a teacher's run takes part
as --teacher, its dev figure is what retention divides by.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record

from snn_extreme_quant.training.run_folder import logged_seconds

_NAME = "training_runs"


def files_of(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what came of a finished run, and the lines of its log."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return json.loads((folder / "result.json").read_text()), [json.loads(line) for line in lines]


def stages_of(recipe: dict[str, Any], log: list[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the stages of a run with their steps, losses, and some of their other fields."""
    steps = {line["stage"]: line["step"] for line in log}
    return [
        {
            "name": stage["name"],
            "steps": steps[stage["name"]],
            **{name: stage[name] for name in names},
            "loss": {name: value for name, value in stage["loss"].items() if value},
        }
        for stage in recipe["stages"]
    ]


def run(folder: Path) -> dict[str, Any]:
    """Return the record of a finished run."""
    outcome, log = files_of(folder)
    recipe = outcome["recipe"]
    return {
        "task": recipe["task"]["name"],
        "metric": recipe["task"]["metrics"][0],
        "seed": recipe["train"]["seed"],
        "batch": recipe["train"]["batch"],
        "student": recipe["student"],
        "from_another_student": recipe.get("start") is not None,
        "stages": stages_of(recipe, log, ("epochs", "lr", "threshold_lr", "weights", "mode")),
        "seconds_logged": round(logged_seconds(log)),
        "metrics": outcome["metrics"],
        "firing_rate": outcome["firing_rate"],
        "by_time_steps": outcome["by_time_steps"],
        "dev": [{name: line[name] for name in ("stage", "step", "dev")} for line in log],
    }


def _teacher(source: str) -> dict[str, float]:
    try:
        return {"accuracy": float(source)}
    except ValueError:
        metrics: dict[str, float] = json.loads((Path(source) / "result.json").read_text())["metrics"]
        return metrics


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--teacher", action="append", default=[], metavar="TASK=FOLDER_OR_NUMBER")
    arguments = parser.parse_args()
    path = record.RESULTS / f"{_NAME}.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    teachers = {
        **known.get("teachers", {}),
        **{t: _teacher(f) for t, _, f in (x.partition("=") for x in arguments.teacher)},
    }
    runs = {**known.get("runs", {}), **{n: run(Path(f)) for n, _, f in (x.partition("=") for x in arguments.runs)}}
    record.write(_NAME, {"teachers": dict(sorted(teachers.items())), "runs": dict(sorted(runs.items()))})


if __name__ == "__main__":
    main()
