"""A SpikingBert as ONNX files beside its teacher and the teacher's int8 quantisation: bytes, time, memory, spikes.

    python benchmarks/spiking_bert_export.py TEACHER SST2 [--rounds 40] [--keep FOLDER]

The student is the teacher's, untrained: ternary encoder and pooler, embeddings of 4 bit, {-1,0,1} spikes; counts files
at T = 16, step files at T = 4. The teacher is exported by torch and quantised by onnxruntime's `quantize_dynamic`.
Runs of one text of 25 and of 128 tokens take turns in one process, one thread: the figure of each is the median of its
processor time. Memory is what a fresh process holds more after loading the file and one run than before. Every file is
compared with the student in torch on the first sentences of the dev set.
"""

from __future__ import annotations

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
from snn_extreme_quant.models.teacher import load_teacher, load_tokenizer

TOKENS = (25, 128)
PLAN = sxq.PrecisionPlan({"embeddings.*": sxq.Uniform(bits=4), "encoder.*": sxq.Ternary(), "pooler": sxq.Ternary()})
#: By file: form and what the student is like.
STUDENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "counts, reference": ("counts", {"profile": "reference", "T": 16}),
    "counts, integer": ("counts", {"profile": "integer", "T": 16}),
    "steps, reference": ("sequence", {"profile": "reference", "T": 4, "schedule": "step"}),
    "steps, integer": ("sequence", {"profile": "integer", "T": 4, "schedule": "step"}),
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
    axes = {0: torch.export.Dim("B"), 1: torch.export.Dim("S", max=512)}
    torch.onnx.export(
        Logits().eval(), (ids, ids), folder / "teacher.onnx", dynamo=True, verbose=False, external_data=False,
        input_names=["input_ids", "attention_mask"], output_names=["logits"], opset_version=18,
        dynamic_shapes={"input_ids": axes, "attention_mask": axes},
    )  # fmt: skip
    # Shapes of the weights before torch's exporter rewrote them are left in the file; quantize_dynamic trips over them.
    proto = onnx.load(str(folder / "teacher.onnx"))
    del proto.graph.value_info[:]
    onnx.save(proto, str(folder / "teacher.onnx"))
    quantize_dynamic(folder / "teacher.onnx", folder / "int8.onnx", weight_type=QuantType.QInt8)


def export_students(source: str, data: str, folder: Path, sentences: int) -> dict[str, Any]:
    """Write the student's files; return by file how it compares with the student in torch."""
    texts = read_rows(GLUE["sst2"], data, "train").texts
    dev = read_rows(GLUE["sst2"], data, "dev").texts[:sentences]
    tokenizer = load_tokenizer(source)
    batches = [
        tokenizer(list(dev[start : start + 16]), padding=True, truncation=True, max_length=64, return_tensors="np")
        for start in range(0, len(dev), 16)
    ]
    given = [{name: torch.from_numpy(batch[name]) for name in ("input_ids", "attention_mask")} for batch in batches]
    facts = {}
    for name, (form, options) in STUDENTS.items():
        student = SpikingBert.from_teacher(source, texts=texts[:: len(texts) // 256][:256], weights=PLAN, **options)
        report = sxq.export_onnx(student.eval(), given[0], folder / f"{name}.onnx", form=form)
        found = sxq.verify(student, folder / f"{name}.onnx", given)
        assert found.answers is not None
        facts[name] = {
            "exact": report.exact, "compared": found.spikes_compared, "different": found.spikes_different,
            "texts": found.answers.samples, "same_answer": found.answers.same,
            "logit_difference": max(output.ratio for output in found.outputs),
            "firing_rate": round(found.firing_rate, 4),
        }  # fmt: skip
        print(name, facts[name], flush=True)
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
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--sentences", type=int, default=128)
    parser.add_argument("--keep", type=Path, help="folder for the files; those that are there are measured as they are")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = given.keep or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    export_teacher(given.teacher, folder)
    facts = export_students(given.teacher, given.data, folder, given.sentences)
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
