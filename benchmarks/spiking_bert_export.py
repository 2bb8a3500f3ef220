"""A SpikingBert as ONNX files beside its teacher and the teacher's int8 quantisation: bytes, time, memory, spikes.

    python benchmarks/spiking_bert_export.py TEACHER SST2 REFERENCE INTEGER STEP [--rounds 40] [--keep FOLDER]

REFERENCE and INTEGER are students of these profiles, STEP one of the integer profile that was trained on the schedule
step at T = 4: folders `last` of `sxq train`; their embeddings are packed to 4 bit. Counts files at T = 16, files of
all steps at T = 4, both on the schedule synchronous, for which the first two were trained; a step file at T = 4. The
teacher is exported by torch and quantised by onnxruntime's `quantize_dynamic`. Runs of one text of 25 and of 128
tokens take turns in one process, one thread: the figure of each is the median of its processor time. Memory is what a
fresh process holds more after loading the file and one run than before. Every file is compared with the student in
torch: spike for spike on the first sentences of the dev set, answer for answer on all.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import record
import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.data import GLUE, read_rows
from snn_extreme_quant.deploy import native_status
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.teacher import load_teacher, load_tokenizer

TOKENS = (25, 128)
#: By file: form, and what the student is like.
STUDENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "counts, reference": ("counts", {"profile": "reference", "T": 16}),
    "counts, integer": ("counts", {"profile": "integer", "T": 16}),
    "steps, integer": ("sequence", {"profile": "integer", "T": 4, "schedule": "step"}),
    "all steps, reference": ("sequence", {"profile": "reference", "T": 4}),
    "all steps, integer": ("sequence", {"profile": "integer", "T": 4}),
}
RIVALS = ("teacher", "int8")
#: Run in a process of its own: resident bytes that a file's session takes.
MEMORY = """
import sys, numpy as np, onnxruntime as ort
def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS:")) * 1024
options = ort.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 3
ort.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
before = held()
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
ones = np.ones((1, 25), np.int64)
session.run(None, {entry.name: ones for entry in session.get_inputs()})
print(held() - before)
"""


def export_teacher(source: str, folder: Path) -> None:
    """Write the teacher in float32 and in int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = load_teacher(source)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.teacher(input_ids=input_ids, attention_mask=attention_mask).logits

    ids = torch.ones(2, 9, dtype=torch.long)
    given = (ids, torch.ones_like(ids))  # of one tensor that is given twice torch makes one input
    axes = {0: torch.export.Dim("B"), 1: torch.export.Dim("S", max=512)}
    torch.onnx.export(
        Logits().eval(), given, folder / "teacher.onnx", dynamo=True, verbose=False, external_data=False,
        input_names=["input_ids", "attention_mask"], output_names=["logits"], opset_version=18,
        dynamic_shapes={"input_ids": axes, "attention_mask": axes},
    )  # fmt: skip
    # Shapes of the weights before torch's exporter rewrote them are left in the file; quantize_dynamic trips over them.
    proto = onnx.load(str(folder / "teacher.onnx"))
    del proto.graph.value_info[:]
    onnx.save(proto, str(folder / "teacher.onnx"))
    quantize_dynamic(folder / "teacher.onnx", folder / "int8.onnx", weight_type=QuantType.QInt8)


def student_of(folder: Path, options: dict[str, Any]) -> SpikingBert:
    """Return a trained student, its embeddings packed, with other fields of the configuration."""
    trained = SpikingBert.from_pretrained(folder)
    config = dataclasses.replace(trained.config, **options)
    for field in ("profile", "schedule"):
        if getattr(config, field) != getattr(trained.config, field):
            raise SystemExit(f"{folder} has the {field} {getattr(trained.config, field)!r}")
    student = SpikingBert(config)
    student.load_state_dict(trained.state_dict())
    student.pack_embeddings(4)
    return student.eval()


def answers_of(session: Any, batches: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Return a file's label of each text."""
    return np.concatenate([session.run(None, batch)[0].argmax(1) for batch in batches])


def export_students(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write the students' files; return by file how it compares with the student in torch."""
    rows = read_rows(GLUE["sst2"], given.data, "dev")
    tokenizer = load_tokenizer(given.teacher)
    batches = [
        tokenizer(list(part), padding=True, truncation=True, max_length=64, return_tensors="np")
        for part in (rows.texts[start : start + 16] for start in range(0, len(rows.texts), 16))
    ]
    batches = [{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in batches]
    tensors = [{name: torch.from_numpy(value) for name, value in batch.items()} for batch in batches]
    labels = np.asarray(rows.labels)
    facts = {}
    for name, (form, options) in STUDENTS.items():
        student = student_of(given.step if "schedule" in options else getattr(given, options["profile"]), options)
        path = folder / f"{name}.onnx"
        report = sxq.export_onnx(student, tensors[0], path, form=form)
        found = sxq.verify(student, path, tensors[: given.sentences // 16])
        assert found.answers is not None
        session = sxq.deploy.session(path, threads=1, native=False)
        in_file = answers_of(session, batches)
        with torch.no_grad():
            in_torch = torch.cat([student(*batch.values()).argmax(1) for batch in tensors]).numpy()
        facts[name] = {
            "exact": report.exact, "compared": found.spikes_compared, "different": found.spikes_different,
            "texts": found.answers.samples, "logit_difference": max(output.ratio for output in found.outputs),
            "firing_rate": round(found.firing_rate, 4), "answers": len(labels),
            "same_answers": int((in_file == in_torch).sum()), "accuracy": float((in_file == labels).mean()),
            "accuracy_in_torch": float((in_torch == labels).mean()),
        }  # fmt: skip
        print(name, facts[name], flush=True)
    for name in RIVALS:
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
        facts[name] = {"accuracy": float((answers_of(session, batches) == labels).mean())}
    return facts


def sessions_of(folder: Path) -> dict[str, Any]:
    """Open every file on stock onnxruntime, the student's with native kernels too where there are any."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    plain = {
        name: onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
        for name in (*RIVALS, *STUDENTS)
    }
    if not native_status().available:
        return plain
    native = {
        f"{name}, native": sxq.deploy.session(folder / f"{name}.onnx", threads=1, native=True) for name in STUDENTS
    }
    return plain | native


def measure(sessions: dict[str, Any], tokens: int, rounds: int) -> dict[str, float]:
    """Return the median time of one text, in milliseconds."""
    rng = np.random.default_rng(tokens)
    ids, mask = rng.integers(1000, 20000, (1, tokens)), np.ones((1, tokens), np.int64)
    feed = {"input_ids": ids, "attention_mask": mask}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            start = time.thread_time()
            session.run(None, feed)
            times[name].append(time.thread_time() - start)
    return {name: 1e3 * statistics.median(values[1:]) for name, values in times.items()}


def memory_of(path: Path, tiny: Path) -> int:
    command = [sys.executable, "-c", MEMORY, str(path), str(tiny)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data")
    parser.add_argument("reference", type=Path)
    parser.add_argument("integer", type=Path)
    parser.add_argument("step", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--sentences", type=int, default=48, help="compared spike for spike, in batches of 16")
    parser.add_argument("--keep", type=Path, help="folder for the files; those that are there are measured as they are")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = given.keep or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    export_teacher(given.teacher, folder)
    facts = export_students(given, folder)
    sessions = sessions_of(folder)
    found = {tokens: measure(sessions, tokens, given.rounds) for tokens in TOKENS}
    sizes = {name: (folder / f"{name}.onnx").stat().st_size for name in (*RIVALS, *STUDENTS)}
    tiny = folder / "tiny.onnx"
    tiny.write_bytes(_tiny())
    record.write(
        "spiking_bert_export",
        {
            "threads": 1,
            "rounds": given.rounds,
            "verified": facts,
            "bytes": sizes,
            "size_relative_to_int8": {name: round(size / sizes["int8"], 3) for name, size in sizes.items()},
            "resident_bytes": {name: memory_of(folder / f"{name}.onnx", tiny) for name in sizes},
            "teacher_milliseconds": {tokens: round(times["teacher"], 2) for tokens, times in found.items()},
            "relative_to_teacher": {
                tokens: {name: round(value / times["teacher"], 3) for name, value in times.items()}
                for tokens, times in found.items()
            },
        },
    )


def _tiny() -> bytes:
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[1] x) => (float[1] y) {y = Neg (x)}'
    return bytes(onnx.parser.parse_model(text).SerializeToString())


if __name__ == "__main__":
    main()
