"""Exports SpikeGPT classifiers of `sxq train`, and compares the files with them on the dev set: spikes, logits, labels.

    python benchmarks/spike_gpt_classifier.py NAME=FOLDER ... [--data FOLDER]

FOLDER is a model of a run, as runs/sst2_gpt_ternary/last. Each dev sentence goes through the model in torch and the
file, on stock onnxruntime and with the native kernels; every spike at its tokens and every logit are compared. The
accuracy is that of the labels that the file alone gives, from texts. The weights of the file stand beside what
`weight_memory` predicts. Files recorded before are kept; the same name replaces. Nothing is timed.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import record

import snn_extreme_quant as sxq
from snn_extreme_quant.accounting import file_memory, weight_memory
from snn_extreme_quant.cli.classifier_data import text_batches
from snn_extreme_quant.cli.language import tokens_of, told_of_texts
from snn_extreme_quant.data import Rows, read_rows
from snn_extreme_quant.deploy import GptClassifier, export_gpt, native_status
from snn_extreme_quant.models import SpikeGPT
from snn_extreme_quant.training.run_folder import read_run

_NAME = "spike_gpt_classifier"


def measured(folder: Path, data: Path | None) -> dict[str, Any]:
    """Return what one model's file gives."""
    model, tokens, run = SpikeGPT.from_pretrained(folder), tokens_of(folder), read_run(folder.parent, folder.name)
    if tokens is None or run is None:
        raise SystemExit(f"{folder} is no model of a run of sxq train with its tokens.")
    rows = read_rows(run.task, data or run.data, run.task.dev)
    in_torch = json.loads((folder.parent / "result.json").read_text())["metrics"]["accuracy"]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "gpt.onnx"
        report = export_gpt(model, path, tokens=tokens, **told_of_texts(folder))
        compared = {}
        for name, native in (("stock", False), ("native", True)):
            if native and not native_status().available:
                continue
            found = sxq.verify(model, path, text_batches(rows.texts, tokens, run.max_tokens), native=native)
            compared[name] = {
                "sentences": found.samples,
                "spikes": found.spikes_compared,
                "different_spikes": found.spikes_different,
                "logits_differ_by": found.output_difference,
                "firing_rate": found.firing_rate,
                "runtime": found.runtime,
                "accuracy": _accuracy(GptClassifier(path, native=native), rows),
            }
        return {
            "head": model.config.head,
            "file_bytes": report.file_bytes,
            "weight_bytes": file_memory(path).weights,
            "predicted_weight_bytes": weight_memory(model).total,
            "accuracy_in_torch": in_torch,
            "compared": compared,
        }


def _accuracy(classifier: GptClassifier, rows: Rows) -> float:
    """Return how many labels the file alone gets right."""
    numbers = [classifier.labels.index(answer.label) for answer in classifier.classify(rows.texts)]
    return sum(ours == wanted for ours, wanted in zip(numbers, rows.labels, strict=True)) / len(rows)


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--data", type=Path, help="with the dev split; default where the run read it")
    arguments = parser.parse_args()
    path = record.RESULTS / f"{_NAME}.json"
    known = json.loads(path.read_text())["files"] if path.is_file() else {}
    given = (entry.partition("=") for entry in arguments.models)
    added = {name: measured(Path(folder), arguments.data) for name, _, folder in given}
    record.write(_NAME, {"files": dict(sorted({**known, **added}.items()))})


if __name__ == "__main__":
    main()
