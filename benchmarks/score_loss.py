"""What the loss of attention scores costs in the recipe `sst2_ternary`: time of a step, bytes of scores that are kept.

    python benchmarks/score_loss.py TEACHER SST2 [--batches 6]

A step is the teacher's part, forward and backward pass of the student and the optimiser, in bf16 as the recipe has it,
on batches of 64 spread over an epoch. Three ways take turns on the same batches: outputs of the teacher that were kept
(here in memory), the teacher run in each step, and the teacher run in each step for its scores too. Processor time of
one thread; medians of the batches, for the machine may do other things too. Bytes are those of all training
sentences in float16, as hidden states are kept.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import numpy as np
import record
import torch

from snn_extreme_quant.data import GLUE, Sentences, batch_order, collate, read_rows
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.teacher import load_teacher, load_tokenizer
from snn_extreme_quant.training import load_recipe
from snn_extreme_quant.training.distillation import Distiller, Teacher, TeacherOutputs
from snn_extreme_quant.training.recipe import LossWeights

#: By name: whether outputs were kept, and the losses.
WAYS = {
    "kept outputs": (True, LossWeights(hidden=1.0, logits=1.0)),
    "teacher in each step": (False, LossWeights(hidden=1.0, logits=1.0)),
    "with scores": (False, LossWeights(hidden=1.0, logits=1.0, scores=0.1)),
}


class Training:
    """The student of the recipe at its teacher."""

    def __init__(self, folder: str, texts: list[str]) -> None:
        torch.manual_seed(0)
        recipe = load_recipe("sst2_ternary")
        self.model = load_teacher(folder)
        student = SpikingBert.from_teacher(folder, texts=texts, **recipe.student)
        student.set_weights(recipe.stages[0].weights)
        student.embeddings.requires_grad_(False)
        self.distiller = Distiller(student, self.model.config.hidden_size, regression=False).train()
        trained = [p for p in self.distiller.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
        levels = tuple(range(self.model.config.num_hidden_layers + 1))
        self.teachers = {scores: Teacher(self.model, levels, True, scores) for scores in (False, True)}

    def step(self, batch: Any, kept: TeacherOutputs | None, weights: LossWeights) -> float:
        """Make a step; return its processor time."""
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            theirs = self.teachers[weights.scores > 0](batch) if kept is None else kept
            loss = self.distiller(batch, theirs, weights)["loss"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.process_time() - start


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data")
    parser.add_argument("--batches", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_rows(GLUE["sst2"], arguments.data, "train")
    sentences = Sentences.tokenise(rows, load_tokenizer(arguments.teacher), 64)
    training = Training(arguments.teacher, rows.texts[:: len(rows) // 256][:256])
    order = batch_order(sentences.lengths, 64, (0, 0, 0))
    chosen = [order[place] for place in np.linspace(0, len(order) - 1, arguments.batches).astype(int)]
    seconds: dict[str, list[float]] = defaultdict(list)
    names = list(WAYS)
    for number, picked in enumerate([chosen[0], *chosen]):
        batch = collate(sentences, picked)
        with torch.autocast("cpu", torch.bfloat16):
            kept = training.teachers[False](batch)
        for turn in range(len(names)):
            name = names[(number + turn) % len(names)]
            is_kept, weights = WAYS[name]
            spent = training.step(batch, kept if is_kept else None, weights)
            if number:  # the first one warms up
                seconds[name].append(spent)
    config, lengths = training.model.config, np.asarray(sentences.lengths, np.int64)
    heads = config.num_hidden_layers * config.num_attention_heads
    largest = max(len(picked) * int(lengths[picked].max()) ** 2 for picked in order)
    by_batch = {
        name: [a / b for a, b in zip(values, seconds["kept outputs"], strict=True)] for name, values in seconds.items()
    }
    record.write("score_loss", {
        "recipe": "sst2_ternary", "batch": 64, "batches": arguments.batches, "sentences": len(sentences),
        "mean_tokens": float(lengths.mean()),
        "seconds_of_a_step": {name: float(np.median(values)) for name, values in seconds.items()},
        "ratio_to_kept_outputs": {name: float(np.median(values)) for name, values in by_batch.items()},
        "ratio_by_batch": by_batch,
        "kept_bytes": {
            "hidden": int(2 * (config.num_hidden_layers + 1) * config.hidden_size * lengths.sum()),
            "scores": int(2 * heads * np.square(lengths).sum()),
        },
        "largest_batch_scores_bytes": int(4 * heads * largest),
    })  # fmt: skip


if __name__ == "__main__":
    main()
