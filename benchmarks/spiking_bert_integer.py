"""A trained SpikingBert of the integer profile as files with and without floats: bytes, time, counts, accuracy.

    python benchmarks/spiking_bert_integer.py MODEL SST2 [--texts 200] [--rounds 30]

MODEL is a folder of `save_pretrained` with a tokenizer; its embeddings are packed to 4 bit. Three files: counts with
float constants, counts in integers, all steps in integers (of the first texts alone). The integer files are compared
with onnxruntime, golden model and torch in whole numbers, and with the model as it was trained. Runs of one text of 25
and of 128 tokens take turns in one process, one thread: the figure of each is the median of its processor time.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import record
import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.data import GLUE, read_rows
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.teacher import load_tokenizer

TOKENS = (25, 128)
FILES: dict[str, dict[str, Any]] = {
    "counts": {"form": "counts"},
    "counts, integer": {"form": "counts", "integer": True},
    "sequence, integer": {"form": "sequence", "integer": True},
}
#: Texts that the file of all steps is compared on: the golden model goes through each step.
FEW = 4


def batches_of(source: str, texts: list[str]) -> list[dict[str, torch.Tensor]]:
    """Return the texts as batches of 16."""
    tokenizer = load_tokenizer(source)
    found = [
        tokenizer(texts[start : start + 16], padding=True, truncation=True, max_length=64, return_tensors="np")
        for start in range(0, len(texts), 16)
    ]
    return [{name: torch.from_numpy(batch[name]) for name in ("input_ids", "attention_mask")} for batch in found]


def session_of(path: Path) -> Any:
    """Open a file on stock onnxruntime, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answers(session: Any, batches: list[dict[str, torch.Tensor]]) -> np.ndarray[Any, Any]:
    """Return the file's label of each text."""
    logits = [session.run(None, {name: value.numpy() for name, value in batch.items()})[0] for batch in batches]
    return np.concatenate(logits).argmax(1)


def times(sessions: dict[str, Any], tokens: int, rounds: int) -> dict[str, float]:
    """Return the median time of one text, in milliseconds."""
    ids = np.random.default_rng(tokens).integers(1000, 20000, (1, tokens))
    feed = {"input_ids": ids, "attention_mask": np.ones((1, tokens), np.int64)}
    measured: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            start = time.thread_time()
            session.run(None, feed)
            measured[name].append(time.thread_time() - start)
    return {name: round(1e3 * statistics.median(values[1:]), 3) for name, values in measured.items()}


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--keep", action="store_true", help="write the result")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_rows(GLUE["sst2"], given.data, "dev")
    labels = np.asarray(rows.labels[: given.texts])
    batches = batches_of(given.model, list(rows.texts[: given.texts]))
    model = SpikingBert.from_pretrained(given.model)
    model.pack_embeddings(4)
    with torch.no_grad():
        trained = np.concatenate([model(*batch.values()).argmax(1).numpy() for batch in batches])
    files: dict[str, dict[str, Any]] = {}
    scales: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for name, options in FILES.items():
            path = Path(folder) / f"{name}.onnx"
            report = sxq.export_onnx(model, batches[0], path, **options)
            compared = batches if name != "sequence, integer" else batches_of(given.model, list(rows.texts[:FEW]))
            found = sxq.verify(model, path, compared)
            sessions[name] = session_of(path)
            label = answers(sessions[name], compared)
            files[name] = {
                "bytes": report.file_bytes, "exact": report.exact, "texts": found.samples,
                "compared": found.spikes_compared, "different": found.spikes_different, "ok": found.ok,
                "accuracy": float((label == labels[: len(label)]).mean()),
                "answers_as_torch": int((label == trained[: len(label)]).sum()),
            }  # fmt: skip
            if found.integer is not None:
                files[name] |= {
                    "torch_different": found.integer.torch_different, "of_float": found.integer.different,
                    "of_float_compared": found.integer.compared, "same_answer": found.integer.same_answer,
                }  # fmt: skip
                scales = [vars(scale) for scale in report.scales] or scales
            print(name, files[name], flush=True)
        figures = {str(tokens): times(sessions, tokens, given.rounds) for tokens in TOKENS}
    print(figures)
    facts = {
        "T": model.config.T, "layers": model.config.layers, "hidden": model.config.hidden,
        "accuracy_in_torch": float((trained == labels).mean()), "files": files, "milliseconds": figures,
        "changed_channels": sum(scale["changed"] for scale in scales),
        "channels": sum(scale["channels"] for scale in scales),
        "least_shift": min(scale["shift"] for scale in scales),
        "least_headroom": min(scale["headroom"] for scale in scales),
    }  # fmt: skip
    record.write("spiking_bert_integer", facts, keep=given.keep)


if __name__ == "__main__":
    main()
