"""Decoding with a SpikeGPT of 216 million weights: our file against a float one on onnxruntime.

    python benchmarks/spike_gpt_decode.py [--rounds N] [--tokens N] [--files FOLDER]

Weights are random: what a token costs does not depend on them, but for the embedding's row. They run one token at
a time, in one process and by turns, on one thread, whose processor time is taken: ours (ternary matrices and head,
the embedding as bits) with native kernels and on stock onnxruntime, and the same network in plain float operators.
Memory is the largest resident set of a process that opens a file and makes three tokens; opening is timed there, too,
and in one that opens our file on stock onnxruntime without the option that our sessions set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from record import parser, write

from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION, OPSET, function_body
from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.exported.files import AFTER
from snn_extreme_quant.quantizers.packing import LAYOUTS

Array = npt.NDArray[Any]
_NAMES = {"binary8": "Binary", "ternary4": "Ternary", "int4": "Int4", "int8": "Int8"}


def write_ours(path: Path, layers: int, width: int, vocab: int) -> None:
    """Export a ternary SpikeGPT of random weights, without the comparison that an export makes."""
    import torch

    from snn_extreme_quant.deploy.language.export import facts_of
    from snn_extreme_quant.deploy.language.graph import write_gpt
    from snn_extreme_quant.exported.files import METADATA_KEY, seal
    from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig

    with torch.device("meta"):
        model = SpikeGPT(SpikeGPTConfig(vocab=vocab, layers=layers, hidden=width))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1.0, 1.0)
    model.set_weights("ternary")
    writer = write_gpt(model.eval(), "sequence", "last", {})
    facts = {**facts_of(model, "sequence", "last", None, "2bit"), "layers": list(writer.layers.values())}
    path.write_bytes(seal(writer.model({METADATA_KEY: json.dumps(facts)})))


def session_of(path: Path, kind: str) -> Any:
    """Open a file on one thread: ours as "native", "stock" or, without our options, "plain"."""
    if kind in ("float", "plain"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return open_session(path, threads=1, native=kind == "native").runtime


class Decoder:
    """Makes tokens with a session, the state handed on."""

    def __init__(self, runtime: Any, vocab: int) -> None:
        self.runtime, self.vocab = runtime, vocab
        states = runtime.get_inputs()[1:]
        self.state = {
            entry.name: np.zeros([n if isinstance(n, int) else 1 for n in entry.shape], np.float32) for entry in states
        }
        self.names = ["logits", *(f"{name}{AFTER}" for name in self.state)]
        self.drawn = np.random.default_rng(0)

    def token(self) -> None:
        """Make a step with a random token."""
        ids = self.drawn.integers(0, self.vocab, (1, 1))
        _, *after = self.runtime.run(self.names, {"ids": ids, **self.state})
        self.state = dict(zip(self.state, after, strict=True))


def opened(path: Path, kind: str, vocab: int) -> tuple[float, float]:
    """Let a process open a file and make three tokens.

    Returns:
        Its largest resident set in MB, and the processor time that opening took, in seconds.
    """
    command = [sys.executable, __file__, "--child", kind, "--file", str(path), "--vocab", str(vocab)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    resident, seconds = map(float, done.stdout.split()[-2:])
    return resident, seconds


def _resident() -> float:
    """The largest resident set of this process so far, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def compare(files: dict[str, Path], vocab: int, rounds: int, tokens: int) -> dict[str, Any]:
    """Time all of them by turns."""
    decoders = {kind: Decoder(session_of(path, kind), vocab) for kind, path in files.items()}
    seconds: dict[str, list[float]] = {kind: [] for kind in decoders}
    for number in range(rounds + 1):
        for kind, decoder in decoders.items():
            started = time.thread_time()
            for _ in range(tokens):
                decoder.token()
            if number:  # the first warms up
                seconds[kind].append((time.thread_time() - started) / tokens)
    return {kind: {"seconds": statistics.median(taken), "least": min(taken)} for kind, taken in seconds.items()}


def head_costs(width: int, vocab: int, rounds: int) -> dict[str, dict[str, float]]:
    """Time the head's product alone at each precision, natively, by turns."""
    sessions = {layout: _head(layout, width, vocab) for layout in _NAMES}
    x = np.random.default_rng(0).normal(0, 1, (1, 1, width)).astype(np.float32)
    seconds: dict[str, list[float]] = {layout: [] for layout in sessions}
    for number in range(rounds + 1):
        for layout, runtime in sessions.items():
            started = time.thread_time()
            runtime.run(None, {"x": x})
            if number:
                seconds[layout].append(time.thread_time() - started)
    costs = {}
    for layout, taken in seconds.items():
        stored = LAYOUTS[layout].packed_columns(vocab) * width + 4 * vocab
        table = LAYOUTS[layout].packed_columns(width) * vocab + 4 * vocab
        costs[layout] = {"seconds": statistics.median(taken), "head_bytes": stored, "embedding_bytes": table}
    return costs


def _head(layout: str, width: int, vocab: int) -> Any:
    from snn_extreme_quant.deploy.language.products import digits_for

    kind, operator = LAYOUTS[layout], f"{_NAMES[layout]}LinearRounded"
    drawn = np.random.default_rng(0)
    digits = drawn.integers(0, kind.top + 1, (width, kind.packed_columns(vocab), kind.per_byte), np.uint8)
    packed = np.zeros(digits.shape[:2], np.uint8)
    for place in range(kind.per_byte):
        packed += digits[:, :, place] * np.uint8(kind.base**place)
    places = 24 if kind.largest == 1 else 31
    bits = places - (width - 1).bit_length()
    fraction = bits - (4 if kind.largest == 1 else 6)
    attributes = {
        "grid": 2.0**-fraction,
        "inverse_grid": 2.0**fraction,
        "most": 2.0**bits,
        "digits": digits_for(layout, 2.0**bits),
    }
    node = helper.make_node(operator, ["x", "packed", "scale"], ["y"], domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "head",
        [helper.make_tensor_value_info("x", 1, (1, 1, width))],
        [helper.make_tensor_value_info("y", 1, (1, 1, vocab))],
        [numpy_helper.from_array(packed, "packed"), numpy_helper.from_array(np.ones(vocab, np.float32), "scale")],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=imports, ir_version=8, functions=[function_body(operator)]
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    native_library().register(options, [operator])
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def written(folder: Path, shape: dict[str, int]) -> dict[str, Path]:
    """Write the files that are not there yet; returns by what runs them which it runs."""
    ours, plain = folder / "ours.onnx", folder / "float.onnx"
    if not ours.is_file():
        write_ours(ours, **shape)
    if not plain.is_file():
        from spike_gpt_float import float_model  # with what imports torch, which would count as memory of a file

        float_model(plain, **shape)
    return {"float": plain, "native": ours, "stock": ours}


def main() -> None:
    """Write the files, measure, and write the result."""
    options = parser(__doc__)
    options.add_argument("--layers", type=int, default=18)
    options.add_argument("--width", type=int, default=768)
    options.add_argument("--vocab", type=int, default=50277)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--tokens", type=int, default=4)
    for name in ("--child", "--file"):
        options.add_argument(name, help=argparse.SUPPRESS)
    options.add_argument("--files", help="a folder that keeps the files, for the next run")
    options.add_argument("--quick", action="store_true", help="a small network; nothing is kept")
    asked = options.parse_args()
    if asked.quick:
        asked.layers, asked.width, asked.vocab, asked.rounds, asked.tokens = 2, 64, 500, 1, 1
    if asked.child:
        started, seconds = time.process_time(), 0.0
        if asked.child != "empty":
            decoder = Decoder(session_of(Path(asked.file), asked.child), asked.vocab)
            seconds = time.process_time() - started
            for _ in range(3):
                decoder.token()
        print(_resident(), seconds)
        return
    shape = {"layers": asked.layers, "width": asked.width, "vocab": asked.vocab}
    with tempfile.TemporaryDirectory() as place:
        files = written(Path(asked.files or place), shape)
        alone = {kind: opened(path, kind, asked.vocab) for kind, path in {**files, "plain": files["stock"]}.items()}
        found: dict[str, Any] = {
            "shape": shape,
            "instruction_set": native_library().instruction_set,
            "file_bytes": {kind: path.stat().st_size for kind, path in files.items()},
            "peak_mb": {kind: alone[kind][0] for kind in files},
            "empty_mb": opened(files["native"], "empty", asked.vocab)[0],
            "opening_seconds": {kind: seconds for kind, (_, seconds) in alone.items()},
            "decoding": compare(files, asked.vocab, asked.rounds, asked.tokens),
        }
    found["head"] = head_costs(asked.width, asked.vocab, asked.rounds)
    write("spike_gpt_decode", found, keep=not asked.quick)


if __name__ == "__main__":
    main()
