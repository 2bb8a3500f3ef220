"""Records what runs of `sxq train` with [gpt] gave: seed, data, steps, tokens, time, size of the state, dev figures.

    python benchmarks/spike_gpt_runs.py NAME=FOLDER ...

A name is that of the recipe, as tinyshakespeare_ternary; runs of other seeds take -1, -2 behind it. What a run went on
from is known by the name of that run's folder, which is to be the same. Figures are those
of a run's last model, which no dev figure chose. Runs recorded before are kept; the same name replaces. The data's
files must be where the run read them: their SHA-256 is recorded, of what is in them where they are compressed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import record
from training_runs import files_of, stages_of

from snn_extreme_quant.models import SpikeGPT
from snn_extreme_quant.models.gpt.state import state_shapes
from snn_extreme_quant.training.run_folder import logged_seconds

_NAME = "spike_gpt_runs"
_ENDINGS = ("tsv", "csv", "tsv.gz", "csv.gz")


def _data(recipe: dict[str, Any]) -> dict[str, str]:
    """Return the hashes of the files that a run read."""
    folder, text, holdout = Path(recipe["data"]), recipe["text"], recipe["holdout"]
    if text is not None:
        files = [folder / name for name in (text["train"], text["dev"]) if name]
    else:
        tables = ["train", recipe["task"]["dev"]] if holdout is None else [holdout["table"]]
        files = [next(filter(Path.is_file, (folder / f"{table}.{end}" for end in _ENDINGS))) for table in tables]
    found = {}
    for path in files:
        raw = path.read_bytes()
        found[path.name] = hashlib.sha256(gzip.decompress(raw) if path.suffix == ".gz" else raw).hexdigest()
    return found


def run(folder: Path) -> dict[str, Any]:
    """Return the record of a finished run."""
    outcome, log = files_of(folder)
    recipe = outcome["recipe"]
    stages = stages_of(recipe, log, ("epochs", "lr", "weights"))
    model = SpikeGPT.from_pretrained(folder / "last")
    steps, batch, text = sum(stage["steps"] for stage in stages), recipe["train"]["batch"], recipe["text"]
    start = recipe["start"]
    return {
        "task": recipe["task"]["name"] if text is None else Path(recipe["data"]).name,
        "metric": recipe["task"]["metrics"][0],
        "seed": recipe["train"]["seed"],
        "gpt": recipe["gpt"],
        "vocab": model.config.vocab,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "state_numbers": sum(math.prod(shape) for shape in state_shapes(model.config).values()),
        "data_sha256": _data(recipe),
        "holdout": recipe["holdout"] if text is None else text["holdout"] if not text["dev"] else None,
        "start": Path(start["path"]).parent.name if start else None,
        "taught": any(stage["loss"].get("logits") for stage in stages),
        "steps": steps,
        "batch": batch,
        "tokens": steps * batch * text["context"] if text is not None else None,
        "stages": stages,
        "seconds_logged": round(logged_seconds(log)),
        "metrics": outcome["metrics"],
        "firing_rate": outcome["firing_rate"],
        "best": outcome["best"],
        "dev": [{name: line[name] for name in ("stage", "step", "losses", "dev")} for line in log],
    }


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER")
    arguments = parser.parse_args()
    path = record.RESULTS / f"{_NAME}.json"
    known = json.loads(path.read_text())["runs"] if path.is_file() else {}
    added = {name: run(Path(folder)) for name, _, folder in (given.partition("=") for given in arguments.runs)}
    record.write(_NAME, {"runs": dict(sorted({**known, **added}.items()))})


if __name__ == "__main__":
    main()
