"""A model folder of a tiny BERT, made as `sxq pack` makes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from snn_extreme_quant.data import GLUE, read_rows
from snn_extreme_quant.deploy import Packing, pack_model
from snn_extreme_quant.models import SpikingBert
from tests.tiny_bert import save_task, save_teacher

TEXTS = ["a great film", "the plot was poor and dull", "fine", "it is bad and the cast was poor and dull and bad"]


def save_student(folder: Path, classes: int = 2, **options: object) -> Path:
    """Save an untrained student with latent weights, and its tokenizer."""
    teacher = save_teacher(folder / "teacher", classes=classes)
    texts = [*TEXTS, "the film was good", "a dull plot"]
    settings = {"weights": "ternary", "T": 8, "dropout": 0.0} | options
    model = SpikingBert.from_teacher(teacher, texts=texts, **settings)
    model.save_pretrained(folder / "student")
    (folder / "student" / "tokenizer.json").write_bytes((teacher / "tokenizer.json").read_bytes())
    return folder / "student"


def save_pairs(folder: Path, rows: int = 12) -> Path:
    """Save pairs of sentences with scores, and with labels, as a dev split."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["sentence1\tsentence2\tscore\tlabel"]
    seconds = [TEXTS[(row * 3 + row // 4) % 4] for row in range(rows)]
    lines += [f"{TEXTS[row % 4]}\t{text}\t{5 * (row % 7) / 6:.2f}\t{row % 2}" for row, text in enumerate(seconds)]
    (folder / "dev.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def save_folder(
    folder: Path, steps: tuple[int, ...] = (2, 4), student: Mapping[str, object] | None = None, **changes: object
) -> Path:
    """Save a model folder; ``student`` are fields of the configuration, ``changes`` of the packing."""
    rows = read_rows(GLUE["sst2"], save_task(folder / "data", 4, 24), "dev")
    packing = Packing("tiny", GLUE["sst2"], ("bad", "good"), 16, time_steps=steps, rows=rows, facts={"seed": 3})
    pack_model(save_student(folder, **(student or {})), folder / "tiny", replace(packing, **changes))
    return folder / "tiny"
