"""What each part of the recipe `sst2_ternary` is worth on SST-2: one change at a time, one seed, equal budget.

    python benchmarks/ablations.py TEACHER SST2 FOLDER [--epochs 0.5] [--only NAME]

The runs lie in FOLDER; one that is there already is not made again, one that was stopped goes on. Rows of the same
budget that results/ablations.json has already are not made again either: each names the commit it was measured at. A
student that was trained at equilibrium is measured there too.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import record
import torch

from snn_extreme_quant.data import Sentences, read_rows
from snn_extreme_quant.data.metrics import measure
from snn_extreme_quant.data.tasks import GLUE
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.teacher import load_tokenizer
from snn_extreme_quant.training import load_recipe, train
from snn_extreme_quant.training.evaluation import predictions

#: By name, what is changed.
ABLATIONS = {
    "as it is": [],
    "without distillation: labels alone": [
        "stage.0.loss.hidden=0", "stage.0.loss.logits=0", "stage.0.loss.labels=1", "teacher.cache=none"
    ],
    "without the loss of hidden rates": ["stage.0.loss.hidden=0"],
    "with the loss of attention scores": ["stage.0.loss.scores=0.1", "teacher.cache=none"],
    "binary weights": ["stage.0.weights=binary"],
    "{0,1} spikes": ["student.signed=false"],
    "{0,1} spikes with offsets": ["student.signed=false", "student.offset=true"],
    "step schedule, trained at equilibrium": ["student.schedule=step", "stage.0.mode=equilibrium"],
    "one threshold a tensor": ["student.threshold_per=tensor"],
}  # fmt: skip
_CACHE = "teacher_outputs"


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=float, default=0.5)
    parser.add_argument("--only", choices=ABLATIONS, help="this one; the others as far as they are finished")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    shared, rows = arguments.folder / _CACHE, _known(arguments.epochs)
    for name, changes in ABLATIONS.items():
        folder = arguments.folder / "".join(c if c.isalnum() else "_" for c in name)
        if not (folder / "result.json").exists():
            if name in rows or arguments.only not in (None, name):
                continue
            budget = [f"stage.0.epochs={arguments.epochs}", "train.eval_every=0", "train.save_every=100"]
            places = [f"task.data={json.dumps(arguments.data)}", f"teacher.path={json.dumps(arguments.teacher)}"]
            if shared.is_dir():  # all runs ask the same teacher
                folder.mkdir(exist_ok=True)
                shared.rename(folder / _CACHE)
            recipe = load_recipe("sst2_ternary", [*places, *budget, *changes])
            train(recipe, folder, resume=(folder / "checkpoint.pt").exists())
            if (folder / _CACHE).is_dir():
                shutil.rmtree(shared, ignore_errors=True)
                (folder / _CACHE).rename(shared)
        outcome = json.loads((folder / "result.json").read_text())
        rows[name] = {
            "changes": changes,
            "accuracy": outcome["metrics"]["accuracy"],
            "firing_rate": outcome["firing_rate"],
            "by_time_steps": outcome["by_time_steps"],
            "steps": json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"],
            "commit": record.machine()["commit"],
        }
        if "stage.0.mode=equilibrium" in changes:
            rows[name]["accuracy_at_equilibrium"] = _at_equilibrium(folder / "last", arguments.data)
        print(name, rows[name]["accuracy"], flush=True)
    rows = {name: rows[name] for name in ABLATIONS if name in rows}
    record.write("ablations", {"recipe": "sst2_ternary", "epochs": arguments.epochs, "seed": 0, "rows": rows})


@torch.no_grad()
def _at_equilibrium(folder: Path, data: str) -> float:
    """Return the dev accuracy of the steady states, without simulation."""
    student, task = SpikingBert.from_pretrained(folder), GLUE["sst2"]
    student.mode = "equilibrium"
    dev = Sentences.tokenise(read_rows(task, data, task.dev), load_tokenizer(folder), 64)
    cpu = torch.device("cpu")
    logits = predictions(lambda batch: student(batch.ids, batch.mask, batch.types), dev, 2, cpu)
    return measure(task, dev.labels.astype("float64"), logits)["accuracy"]


def _known(epochs: float) -> dict[str, Any]:
    """Return the rows that the results hold already; none of another budget."""
    path = record.RESULTS / "ablations.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    if found.get("epochs") != epochs:
        return {}
    commit = found["machine"]["commit"]
    return {name: {"commit": commit, **row} for name, row in found["rows"].items()}


if __name__ == "__main__":
    main()
