"""Rates on T levels against T steps of spikes, on the synchronous schedule, over a whole dev set: the same predictions?

    python benchmarks/synchronous_identity.py SST2 NAME=STUDENT ... [--steps 16]

Students are folders `last` of `sxq train`. Each sentence is classified twice, by one pass over rates and by T steps of
spikes; counted are the predictions that differ, and the largest difference of a logit.
"""

from __future__ import annotations

import record
import torch

from snn_extreme_quant import schedule
from snn_extreme_quant.data import GLUE, Sentences, read_rows
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.teacher import load_tokenizer
from snn_extreme_quant.training.evaluation import evaluate


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("data")
    parser.add_argument("students", nargs="+", metavar="NAME=STUDENT")
    parser.add_argument("--steps", type=int, nargs="+", default=[16])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for name, _, folder in (student.partition("=") for student in arguments.students):
        dev = Sentences.tokenise(read_rows(GLUE["sst2"], arguments.data, "dev"), load_tokenizer(folder), 64)
        student = SpikingBert.from_pretrained(folder)
        for T in arguments.steps:
            student.set_time_steps(T)
            counted = evaluate(student, dev, GLUE["sst2"])
            with schedule(student, "spikes"):
                spiked = evaluate(student, dev, GLUE["sst2"])
            differ = int((counted.predictions.argmax(1) != spiked.predictions.argmax(1)).sum())
            found.append(
                {
                    "student": name,
                    "T": T,
                    "sentences": len(dev),
                    "predictions_different": differ,
                    "largest_logit_difference": float(abs(counted.predictions - spiked.predictions).max()),
                    "accuracy": {"rates": counted.metrics["accuracy"], "spikes": spiked.metrics["accuracy"]},
                }
            )
            print(found[-1], flush=True)
    record.write("synchronous_identity", {"rows": found})


if __name__ == "__main__":
    main()
