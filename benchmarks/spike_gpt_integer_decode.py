"""How fast SpikeGPT's integer profile runs on a processor: stock, with native kernels, beside the reference profile.

    python benchmarks/spike_gpt_integer_decode.py [--rounds N] [--quick]

Weights are random and ternary. The same sequence file makes one token with its state handed on, or reads a text at
once; sessions take turns in one process on one thread, whose processor time is taken. "without": native kernels but for
those of what integer files of language models compute with, whose functions run.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from record import parser, write

from snn_extreme_quant.deploy.language.export import facts_of
from snn_extreme_quant.deploy.language.graph import write_gpt
from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.deploy.runtime.native_choice import choose_kernels
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.exported.files import AFTER, METADATA_KEY, seal
from snn_extreme_quant.exported.operators import LANGUAGE_INTEGERS
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig

SHAPES = {"tinyshakespeare": (66, 4, 256), "wide": (2048, 2, 768)}
TEXT = 128
_OF_INTEGERS = {*LANGUAGE_INTEGERS, "IntScale", "IntResidual"}
_TYPES = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}


def write_file(path: Path, profile: str, vocab: int, layers: int, width: int) -> None:
    """Export a ternary SpikeGPT of random weights, without the comparison that an export makes."""
    torch.manual_seed(0)
    model = SpikeGPT(SpikeGPTConfig(vocab=vocab, layers=layers, hidden=width, profile=profile, weights="ternary"))
    writer = write_gpt(model.eval(), "sequence", "last", {})
    facts = {**facts_of(model, "sequence", "last", None, "2bit"), "layers": list(writer.layers.values())}
    path.write_bytes(seal(writer.model({METADATA_KEY: json.dumps(facts)})))


def without_kernels(path: Path) -> Any:
    """Open a file with the native kernels that do not belong to integers of language models."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_mem_reuse, options.log_severity_level = 1, False, 4
    library = native_library()
    chosen = choose_kernels(onnx.load(path), library.instruction_set)
    library.register(options, chosen.operators - _OF_INTEGERS)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Reader:
    """Reads random tokens with a session, the state handed on."""

    def __init__(self, runtime: Any, vocab: int) -> None:
        self.runtime, self.vocab, self.drawn = runtime, vocab, np.random.default_rng(0)
        self.state = {
            entry.name: np.zeros([n if isinstance(n, int) else 1 for n in entry.shape], _TYPES[entry.type])
            for entry in runtime.get_inputs()[1:]
        }
        self.names = ["logits", *(f"{name}{AFTER}" for name in self.state)]

    def read(self, tokens: int) -> Any:
        """Read so many tokens and return the logits behind them."""
        ids = self.drawn.integers(0, self.vocab, (1, tokens))
        logits, *after = self.runtime.run(self.names, {"ids": ids, **self.state})
        self.state = dict(zip(self.state, after, strict=True))
        return logits


def timed(readers: dict[str, Reader], tokens: int, rounds: int) -> dict[str, float]:
    """Return the median processor time of a run, of each by turns; all of a profile must give the same."""
    seconds: dict[str, list[float]] = {kind: [] for kind in readers}
    for number in range(rounds + 1):
        found = {}
        for kind, reader in readers.items():
            started = time.thread_time()
            found[kind] = reader.read(tokens)
            if number:  # the first warms up
                seconds[kind].append(time.thread_time() - started)
        for kind, logits in found.items():
            if not np.array_equal(logits, found[f"{kind.split()[0]} stock"]):
                raise SystemExit(f"{kind} gives other logits than stock onnxruntime.")
    return {kind: statistics.median(taken) for kind, taken in seconds.items()}


OPENERS: dict[str, Callable[[Path], Any]] = {
    "stock": lambda path: open_session(path, threads=1, native=False).runtime,
    "native": lambda path: open_session(path, threads=1, native=True).runtime,
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--quick", action="store_true", help="a small network, one round; nothing is kept")
    asked = options.parse_args()
    shapes = {"quick": (20, 1, 32)} if asked.quick else SHAPES
    rounds, rows = 1 if asked.quick else asked.rounds, []
    for name, (vocab, layers, width) in shapes.items():
        with tempfile.TemporaryDirectory() as place:
            readers = {}
            for profile in ("integer", "reference"):
                path = Path(place) / f"{profile}.onnx"
                write_file(path, profile, vocab, layers, width)
                for kind, opened in OPENERS.items():
                    readers[f"{profile} {kind}"] = Reader(opened(path), vocab)
            readers["integer without"] = Reader(without_kernels(Path(place) / "integer.onnx"), vocab)
            for tokens in (1, TEXT):
                seconds = timed(readers, tokens, max(1, rounds if tokens == 1 else rounds // 4))
                row = {"shape": name, "vocab": vocab, "layers": layers, "width": width, "tokens": tokens}
                rows.append({**row, "seconds": seconds})
                print(name, tokens, {kind: round(1e3 * value, 3) for kind, value in seconds.items()}, flush=True)
    found = {"instruction_set": native_library().instruction_set, "rounds": rounds, "rows": rows}
    write("spike_gpt_integer_decode", found, keep=not asked.quick)


if __name__ == "__main__":
    main()
