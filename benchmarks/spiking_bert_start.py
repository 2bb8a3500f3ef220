"""Where a SpikingBERT starts on SST-2: the student of a teacher before any training, and after a few hundred steps.

    python benchmarks/spiking_bert_start.py TEACHER SST2 [--steps 400]

Every figure is the accuracy on the dev set of the rates on T levels (synchronous schedule), in float32.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import record
import torch

from snn_extreme_quant.data import GLUE, Sentences, read_rows
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.teacher import load_tokenizer
from snn_extreme_quant.training.evaluation import evaluate
from snn_extreme_quant.training.loop import train
from snn_extreme_quant.training.recipe import load_recipe

STUDENTS = [
    {"T": 4},
    {"T": 8},
    {"T": 16},
    {"T": 32},
    {"T": 16, "threshold_per": "tensor"},
    {"T": 16, "signed": False},
    {"T": 16, "profile": "integer"},
    {"T": 16, "weights": "ternary"},
]


def untrained(teacher: str, data: str) -> list[dict[str, object]]:
    rows = read_rows(GLUE["sst2"], data, "train")
    dev = Sentences.tokenise(read_rows(GLUE["sst2"], data, "dev"), load_tokenizer(teacher), 64)
    found = []
    for options in STUDENTS:
        student = SpikingBert.from_teacher(teacher, texts=rows.texts[:: len(rows) // 256][:256], **options)
        result = evaluate(student, dev, GLUE["sst2"])
        found.append({**options, "accuracy": result.metrics["accuracy"], "firing_rate": result.firing_rate})
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data")
    parser.add_argument("--steps", type=int, default=0, help="steps of the recipe sst2_ternary to measure too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, object] = {"untrained": untrained(arguments.teacher, arguments.data)}
    if arguments.steps:
        changes = [f"task.data={arguments.data}", f"teacher.path={arguments.teacher}"]
        changes += [f"stage.0.steps={arguments.steps}", "stage.0.epochs=0", "teacher.cache=none"]
        with tempfile.TemporaryDirectory() as folder:
            outcome = train(load_recipe("sst2_ternary", changes), Path(folder))
        result["ternary"] = {
            "recipe": "sst2_ternary",
            "steps": arguments.steps,
            "last": outcome.metrics,
            "firing_rate": outcome.firing_rate,
            "by_time_steps": outcome.by_time_steps,
        }
    record.write("spiking_bert_start", result)


if __name__ == "__main__":
    main()
