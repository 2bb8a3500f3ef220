"""What packing a trained SpikingBERT's tables costs: dev accuracy and bytes by bits and by the rule for the scale.

Usage: python benchmarks/packed_embeddings.py MODEL DATA. MODEL is a folder with latent weights and a tokenizer (`last`
of a run of `sxq train`), DATA one with the dev split of SST-2. The result goes to results/packed_embeddings.json.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from record import parser, write

from snn_extreme_quant.data import GLUE, Sentences, read_rows
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.teacher import load_tokenizer
from snn_extreme_quant.training.evaluation import evaluate

MAX_TOKENS = 64
TASK = GLUE["sst2"]
CASES: list[tuple[int, str]] = [(32, ""), (4, "mse"), (8, "mse"), (4, "max"), (2, "mse")]


def measure(source: Path, data: Path) -> list[dict[str, Any]]:
    """Pack the same model in each way."""
    rows = read_rows(TASK, data, TASK.dev)
    sentences = Sentences.tokenise(rows, load_tokenizer(source), MAX_TOKENS)
    found: list[dict[str, Any]] = []
    first = None
    for bits, scale in CASES:
        model = SpikingBert.from_pretrained(source)
        words = model.embeddings.words.weight.detach().clone()
        if bits < 32:
            model.pack_embeddings(bits, scale)
        table = model.embeddings.words
        error = (table.dequantised() - words if bits < 32 else words * 0).square().sum() / words.square().sum()
        result = evaluate(model, sentences, TASK)
        first = result.predictions if first is None else first
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, packed=True)
            size = (Path(folder) / "model.safetensors").stat().st_size
        found.append({
            "bits": bits, "scale": scale, "accuracy": result.metrics["accuracy"], "firing_rate": result.firing_rate,
            "answers_as_float": float((result.predictions.argmax(-1) == np.asarray(first).argmax(-1)).mean()),
            "relative_squared_error": float(error.detach()), "bytes": size,
        })  # fmt: skip
        print(found[-1], flush=True)
    return found


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("model", type=Path)
    options.add_argument("data", type=Path)
    arguments = options.parse_args()
    write("packed_embeddings", {"T": 16, "cases": measure(arguments.model, arguments.data)})
