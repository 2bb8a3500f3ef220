"""Where a SpikingBERT starts on SST-2: the student of a teacher before any training, and after a few hundred steps.

    python benchmarks/spiking_bert_start.py TEACHER SST2 [--run FOLDER]

Every figure is the accuracy on the dev set of the rates on T levels (synchronous schedule), in float32.
"""

from __future__ import annotations

import json
from pathlib import Path

import record
import torch

from snn_extreme_quant.data import GLUE, Sentences, read_rows
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.teacher import load_tokenizer
from snn_extreme_quant.training.evaluation import evaluate

STUDENTS = [
    {"T": 4},
    {"T": 8},
    {"T": 16},
    {"T": 32},
    {"T": 16, "threshold_per": "tensor"},
    {"T": 16, "signed": False},
    {"T": 4, "signed": False, "offset": True},
    {"T": 8, "signed": False, "offset": True},
    {"T": 16, "signed": False, "offset": True},
    {"T": 32, "signed": False, "offset": True},
    {"T": 16, "signed": False, "offset": True, "threshold_per": "tensor"},
    {"T": 16, "profile": "integer"},
    {"T": 16, "weights": "ternary"},
    {"T": 16, "weights": {"kind": "ternary", "scale": "mse"}},
    {"T": 16, "weights": "ternary", "signed": False, "offset": True},
    {"T": 16, "weights": {"kind": "ternary", "scale": "mse"}, "signed": False, "offset": True},
]


def untrained(teacher: str, data: str, students: list[dict[str, object]]) -> list[dict[str, object]]:
    rows = read_rows(GLUE["sst2"], data, "train")
    dev = Sentences.tokenise(read_rows(GLUE["sst2"], data, "dev"), load_tokenizer(teacher), 64)
    found = []
    for options in students:
        student = SpikingBert.from_teacher(teacher, texts=rows.texts[:: len(rows) // 256][:256], **options)
        result = evaluate(student, dev, GLUE["sst2"])
        found.append({**options, "accuracy": result.metrics["accuracy"], "firing_rate": result.firing_rate})
        found[-1]["commit"] = record.machine()["commit"]
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data")
    parser.add_argument("--run", type=Path, help="folder of a run of sxq train, whose figures are recorded too")
    parser.add_argument("--only", type=int, help="measure this student anew, from 0, and keep what else was recorded")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only is not None:
        known = json.loads((record.RESULTS / "spiking_bert_start.json").read_text())
        (again,) = untrained(arguments.teacher, arguments.data, [STUDENTS[arguments.only]])
        known["untrained"][arguments.only] = again
        record.write("spiking_bert_start", {key: known[key] for key in ("untrained", "trained") if key in known})
        return
    result: dict[str, object] = {"untrained": untrained(arguments.teacher, arguments.data, STUDENTS)}
    if arguments.run is not None:
        outcome = json.loads((arguments.run / "result.json").read_text())
        log = [json.loads(line) for line in (arguments.run / "log.jsonl").read_text().splitlines()]
        kept = ("metrics", "firing_rate", "by_time_steps")
        stages = [
            {name: stage[name] for name in ("steps", "epochs", "lr", "weights")}
            for stage in outcome["recipe"]["stages"]
        ]
        dev = [{name: line[name] for name in ("stage", "step", "dev")} for line in log]
        result["trained"] = {
            "commit": record.machine()["commit"],
            **{name: outcome[name] for name in kept},
            "stages": stages,
            "dev": dev,
        }
    elif (record.RESULTS / "spiking_bert_start.json").is_file():  # what an earlier call recorded, with its own commit
        before = json.loads((record.RESULTS / "spiking_bert_start.json").read_text())
        result["trained"] = {"commit": before["machine"]["commit"], **before["trained"]}
    record.write("spiking_bert_start", result)


if __name__ == "__main__":
    main()
