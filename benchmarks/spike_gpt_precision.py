"""What a trained float SpikeGPT loses when its weights are quantised after training, as a whole and part by part.

    python benchmarks/spike_gpt_precision.py NAME=RUN ... [--windows 16] [--characters N]

RUN is a finished folder of `sxq train` on a text, whose data lie where the run read them. Nearest codes, and GPTQ's
chosen on some windows of the training text; figures are those of the dev text, or of its first N characters. Bytes are
those of the packed file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from record import parser, write

import snn_extreme_quant as sxq
from snn_extreme_quant.data import TextTokens, Windows
from snn_extreme_quant.models import SpikeGPT
from snn_extreme_quant.training.language import split_text
from snn_extreme_quant.training.recipe_text import TextTask
from snn_extreme_quant.training.text_figures import text_figures

WHOLE: dict[str, Any] = {
    "float": "float",
    "8 bit": sxq.Uniform(8),
    "4 bit": sxq.Uniform(4, scale="mse"),
    "3 bit": sxq.Uniform(3, scale="mse"),
    "ternary, absmean": sxq.Ternary(),
    "ternary, mse": sxq.Ternary(scale="mse"),
    "binary": sxq.Binary(),
}
#: What GPTQ is tried on: scales of the least error.
CALIBRATED = ("4 bit", "3 bit", "ternary, mse")
PARTS: dict[str, Any] = {
    "embedding: 1 bit": {"emb": sxq.Binary()},
    "head: 4 bit": {"head": sxq.Uniform(4, scale="mse")},
    "head: ternary": {"head": sxq.Ternary(scale="mse")},
    "SRWKV: ternary": {"blocks.*.att.*": sxq.Ternary(scale="mse")},
    "SRFFN: ternary": {"blocks.*.ffn.*": sxq.Ternary(scale="mse")},
}


def variants() -> Iterator[tuple[str, Any, bool]]:
    """Yield name, precisions, and whether GPTQ chooses the codes."""
    for name, weights in WHOLE.items():
        yield name, weights, False
        if name in CALIBRATED:
            yield name, weights, True
    for name, plan in PARTS.items():
        yield name, sxq.PrecisionPlan(plan), False


def size_of(model: SpikeGPT) -> int:
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder, packed=True)
        return (Path(folder) / "model.safetensors").stat().st_size


def measured(folder: Path, windows: int, characters: int | None) -> dict[str, Any]:
    """Return the figures of each variant of a run's last model."""
    recipe = json.loads((folder / "result.json").read_text())["recipe"]
    task, last = TextTask(**recipe["text"]), folder / "last"
    train, dev = split_text(task, Path(recipe["data"]))
    tokens = TextTokens.load(last)
    cut = Windows.of(tokens.encode(train), task.context)
    step = max(1, len(cut) // windows)
    starts = cut.starts[::step][:windows]
    sample = torch.stack([torch.from_numpy(cut.ids[s : s + task.context].astype("int64")) for s in starts])
    rows = []
    for name, weights, calibrated in variants():
        model = SpikeGPT.from_pretrained(last)
        model.set_weights(weights)
        if calibrated:
            sxq.gptq_(model, [sample])
        figures = text_figures(model, tokens, dev[:characters], task.streams)
        rows.append({"weights": name, "gptq": calibrated, "bytes": size_of(model), **figures})
        print(rows[-1], flush=True)
    return {"seed": recipe["train"]["seed"], "calibration_tokens": sample.numel(), "rows": rows}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("runs", nargs="+", metavar="NAME=RUN")
    options.add_argument("--windows", type=int, default=16, help="of the training text, for GPTQ")
    options.add_argument("--characters", type=int, help="of the dev text; all by default")
    chosen = options.parse_args()
    runs = {
        name: measured(Path(folder), chosen.windows, chosen.characters)
        for name, _, folder in (given.partition("=") for given in chosen.runs)
    }
    write("spike_gpt_precision", {"characters": chosen.characters, "runs": runs})


if __name__ == "__main__":
    main()
