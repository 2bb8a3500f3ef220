"""A 12-layer spiking encoder of BERT's size: time, file, memory and loading, relative to the same network in float32.

Usage: python benchmarks/encoder.py [--layers N] [--seconds S] [--threads N ...] [--keep FOLDER]. All files but the
rivals' are written by ``export_onnx``: the float one from the quantised network's own weights in float32, so that
spikes can be compared too. Runs of all variants are interleaved; a ratio is between the fastest run of each: processor
time of the one thread, or for two threads time by the clock. Memory is what a fresh process holds more after loading
and after a run than before. Exports and measures for about half an hour.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from record import parser, write

from snn_extreme_quant.deploy import native_status, session
from snn_extreme_quant.deploy.lowering.functions import function_body
from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.deploy.runtime.native_choice import choose_kernels

STEPS, TOKENS = (4, 16), (1, 128)
#: Name of a variant: file it runs, and whether natively.
VARIANTS = {
    "float32": ("float", False),
    "ternary, stock": ("ternary", False),
    "ternary, native": ("ternary", True),
    "binary, stock": ("binary", False),
    "binary, native": ("binary", True),
    "ternary in 1.6 bit, stock": ("ternary5", False),
    "dynamic int8": ("int8", False),
    "MatMulNBits 2 bit": ("nbits2", False),
    "MatMulNBits 4 bit": ("nbits4", False),
}
#: What computes with the weights of the ternary file.
SAME_WEIGHTS = tuple(name for name in VARIANTS if not name.startswith("binary"))
LOADS = 3
#: A model that is next to nothing.
TINY = '<ir_version: 8, opset_import: ["": 18]> g (float[1] x) => (float[1] y) {y = Neg (x)}'


def thresholds_of(net: Any) -> dict[str, Any]:
    """Return, by steps and tokens, what share of the neurons fires and the thresholds at which it does."""
    from encoder_network import calibrate

    found = {}
    for tokens in TOKENS:
        for steps in STEPS:
            density, thresholds = calibrate(net, steps, tokens)
            found[f"T {steps}, S {tokens}"] = {"density": round(density, 4), "thresholds": thresholds}
    return found


def export_files(folder: Path, layers: int) -> dict[str, Any]:
    """Write all files; return, by weights, steps and tokens, what share of the neurons fires and the thresholds."""
    import torch
    from encoder_network import WIDTH, encoder, float_twin, quantised, spikes
    from encoder_rivals import dynamic_int8, n_bits

    import snn_extreme_quant as sxq

    torch.set_num_threads(1)
    net, sample = encoder(layers), spikes(4, 4, WIDTH)
    ternary, binary = quantised(net, sxq.Ternary()), quantised(net, sxq.Binary())
    facts = {"ternary": thresholds_of(ternary), "binary": thresholds_of(binary)}
    sxq.export_onnx(ternary, sample, folder / "ternary.onnx", input="spikes")
    sxq.export_onnx(ternary, sample, folder / "ternary5.onnx", input="spikes", ternary_packing="1.6bit")
    sxq.export_onnx(binary, sample, folder / "binary.onnx", input="spikes")
    sxq.export_onnx(float_twin(ternary), sample, folder / "float.onnx", input="spikes")
    dynamic_int8(folder / "float.onnx", folder / "int8.onnx")
    n_bits(folder / "float.onnx", folder / "nbits2.onnx", 2)
    n_bits(folder / "float.onnx", folder / "nbits4.onnx", 4)
    return facts


def tuned(path: Path, thresholds: dict[str, float]) -> onnx.ModelProto:
    """Return a file's model with other thresholds: how many spikes attention adds up goes with the number of tokens."""
    model = onnx.load(path)
    for node in model.graph.node:
        if node.name in thresholds:
            place = list(function_body(node.op_type).input).index("threshold")
            node.input[place] = f"{node.name}.tuned"
            value = np.float32(thresholds[node.name])
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, node.input[place]))
    return model


def fastest(runs: dict[str, Callable[[], Any]], threads: int, seconds: float) -> dict[str, float]:
    """Return the shortest run of each, in milliseconds; at least three of each."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    best = dict.fromkeys(runs, float("inf"))
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 3 or time.perf_counter() < end:
        for name, run in runs.items():
            start = clock()
            run()
            best[name] = min(best[name], clock() - start)
        rounds += 1
    return {name: round(1e3 * value, 3) for name, value in best.items()}


def measure(folder: Path, facts: dict[str, Any], steps: int, tokens: int, threads: int, seconds: float) -> Any:
    """Time all variants."""
    sessions = {}
    for name, (file, native) in VARIANTS.items():
        thresholds = facts["binary" if file == "binary" else "ternary"][f"T {steps}, S {tokens}"]["thresholds"]
        sessions[name] = session(tuned(folder / f"{file}.onnx", thresholds), threads=threads, native=native)
    x = (np.random.default_rng(0).random((steps, tokens, 768)) < 0.15).astype(np.float32)
    outputs = {name: made.run(None, {"input": x})[0] for name, made in sessions.items()}
    if not np.array_equal(outputs["binary, stock"], outputs["binary, native"]):
        raise SystemExit("the kernels give other spikes than the functions")
    exact = outputs["ternary, stock"]
    times = fastest({name: partial(made.run, None, {"input": x}) for name, made in sessions.items()}, threads, seconds)
    row = {
        "T": steps,
        "S": tokens,
        "threads": threads,
        "milliseconds": times,
        "ratio to float32": {name: round(value / times["float32"], 4) for name, value in times.items()},
        "output spikes": exact.size,
        "rate of the output": round(float(exact.mean()), 4),
        "output spikes different": {name: int((outputs[name] != exact).sum()) for name in SAME_WEIGHTS},
    }
    print(json.dumps(row), flush=True)
    return row


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def hold(path: str, native: bool, runs: int) -> None:
    """Load a file in this process (a fresh one) and print what memory that takes."""
    x = np.zeros((4, 1, 768), np.float32)
    library = ctypes.CDLL("libc.so.6")
    if native:
        native_library()
    session(onnx.parser.parse_model(TINY), threads=1, native=False).run(None, {"x": np.zeros(1, np.float32)})
    before = resident()
    made = session(path, threads=1, native=native)
    loaded = resident()
    library.malloc_trim(0)
    trimmed = resident()
    for _ in range(runs):
        made.run(None, {"input": x})
    after = resident()
    found = {"loaded": loaded, "loaded, freed pages given back": trimmed, "after runs": after}
    print(json.dumps({name: value - before for name, value in found.items()}))


def memory(path: Path, native: bool) -> dict[str, int]:
    """Return what a fresh process holds for a file, in bytes."""
    command = [sys.executable, __file__, "--hold", str(path), "--native" if native else "--stock"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def loading(folder: Path) -> dict[str, float]:
    """Return the shortest time to open each file, in milliseconds by the clock; files are in the page cache."""
    best = dict.fromkeys(VARIANTS, float("inf"))
    for _ in range(LOADS):
        for name, (file, native) in VARIANTS.items():
            start = time.perf_counter()
            session(folder / f"{file}.onnx", threads=1, native=native)
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: round(1e3 * value, 1) for name, value in best.items()}


def registering(path: Path) -> float:
    """Return what registering the kernels of a file's operators adds to making a session, in milliseconds."""
    operators = choose_kernels(onnx.load(path)).operators
    data, library = onnx.parser.parse_model(TINY).SerializeToString(), native_library()
    best = [float("inf")] * 2
    for _ in range(50):
        for native in (False, True):
            start = time.perf_counter()
            options = onnxruntime.SessionOptions()
            if native:
                library.register(options, operators)
            onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            best[native] = min(best[native], time.perf_counter() - start)
    return round(1e3 * (best[1] - best[0]), 3)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--layers", type=int, default=12)
    arguments.add_argument("--seconds", type=float, default=60.0, help="of measuring, for each case")
    arguments.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--keep", type=Path, help="a folder for the exported files; those that are there are used")
    arguments.add_argument("--hold", help=argparse.SUPPRESS)
    arguments.add_argument("--native", action="store_true", help=argparse.SUPPRESS)
    arguments.add_argument("--stock", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.hold:
        hold(given.hold, given.native, runs=3)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "thresholds.json"
        if not kept.exists():
            kept.write_text(json.dumps(export_files(folder, given.layers)))
        facts = json.loads(kept.read_text())
        cases = [(steps, tokens, n) for n in given.threads for tokens in TOKENS for steps in STEPS]
        rows = [measure(folder, facts, *case, given.seconds) for case in cases]
        sizes = {file: (folder / f"{file}.onnx").stat().st_size for file, _ in VARIANTS.values()}
        result = {
            "layers": given.layers,
            "kernels": native_status().instruction_set,
            "density": {name: {case: at["density"] for case, at in found.items()} for name, found in facts.items()},
            "rows": rows,
            "file bytes": sizes,
            "memory bytes": {
                name: memory(folder / f"{file}.onnx", native) for name, (file, native) in VARIANTS.items()
            },
            "load milliseconds": loading(folder),
            "registering milliseconds": registering(folder / "ternary.onnx"),
        }
    write("encoder", result, keep=given.layers == arguments.get_default("layers"))


if __name__ == "__main__":
    main()
