"""The native kernels of packed layers, in time relative to onnxruntime's float32 MatMul of the same shape.

Usage: python benchmarks/native_matmul.py [--quick]. Runs of all variants are interleaved, so that what else the
machine does falls on all alike; a ratio is between the fastest of each. Weights and spikes are drawn at random.
"one layer" is a graph of one product, whose weights stay in the cache; "eight layers" has eight with weights of their
own and reads the same input with each, as the parallel projections of a network do.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from record import parser, write

from snn_extreme_quant.deploy import native_status, session
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION, OPSET, function_body
from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.quantizers.packing import pack

SHAPES = [(768, 768), (768, 3072), (3072, 768)]
ROWS = [1, 16, 128, 1024]
DENSITIES = [0.05, 0.15, 0.3, 0.5]
#: Runs of a variant in a turn: the first ones find the caches full of another's weights.
BURST = 5
LAYOUTS = {"TernaryLinearInteger": "ternary4", "BinaryLinearInteger": "binary8"}


def model(operator: str, k: int, n: int, layers: int) -> onnx.ModelProto:
    """``layers`` products that read one input; ``operator`` is one of ours, or ``MatMul`` in float."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(layers):
        codes = rng.integers(-1, 2, (k, n)).astype(np.int8)
        if operator == "MatMul":
            weights.append(numpy_helper.from_array(codes.astype(np.float32), f"w{layer}"))
            nodes.append(helper.make_node("MatMul", ["x", f"w{layer}"], [f"y{layer}"]))
            continue
        codes = np.where(codes < 0, -1, 1) if operator == "BinaryLinearInteger" else codes
        weights.append(numpy_helper.from_array(pack(codes, LAYOUTS[operator]), f"w{layer}"))
        weights.append(numpy_helper.from_array(rng.random(n, np.float32), f"s{layer}"))
        names = ["x", f"w{layer}", f"s{layer}"], [f"y{layer}"]
        nodes.append(helper.make_node(operator, *names, domain=DOMAIN, grid=1.0, inverse_grid=1.0))
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, k])],
        [helper.make_tensor_value_info(f"y{layer}", TensorProto.FLOAT, [None, n]) for layer in range(layers)],
        weights,
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    functions = [] if operator == "MatMul" else [function_body(operator)]
    return helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=8)


class Runner:
    """A session whose inputs and outputs stay where they are."""

    def __init__(self, made: Any, x: np.ndarray, n: int) -> None:
        self.session, self.binding = made, made.io_binding()
        self.binding.bind_cpu_input("x", x)
        for output in made.get_outputs():
            y = onnxruntime.OrtValue.ortvalue_from_shape_and_type([x.shape[0], n], np.float32)
            self.binding.bind_ortvalue_output(output.name, y)

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.binding)


def fastest(runners: dict[str, Runner], threads: int, seconds: float) -> dict[str, float]:
    """Return the shortest run of each, in microseconds: processor time if one thread does it all, else by the clock."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    best = dict.fromkeys(runners, float("inf"))
    for run in runners.values():
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in runners.items():
            for _ in range(BURST):
                start = clock()
                run()
                best[name] = min(best[name], clock() - start)
    return {name: round(1e6 * value, 2) for name, value in best.items()}


def measure(k: int, n: int, rows: int, density: float, threads: int, layers: int, seconds: float) -> dict[str, Any]:
    x = (np.random.default_rng(1).random((rows, k)) < density).astype(np.float32)
    signed = np.where(np.random.default_rng(2).random((rows, k)) < 0.5, -x, x)
    variants = {
        "float32": session(model("MatMul", k, n, layers), threads=threads, native=False),
        "ternary native": session(model("TernaryLinearInteger", k, n, layers), threads=threads, native=True),
        "binary native": session(model("BinaryLinearInteger", k, n, layers), threads=threads, native=True),
        "ternary body": session(model("TernaryLinearInteger", k, n, layers), threads=threads, native=False),
    }
    runners = {name: Runner(made, x, n) for name, made in variants.items()}
    # LinearInteger's kernel takes signed spikes the same way as LinearIntegerSigned's.
    runners["ternary native, signed"] = Runner(variants["ternary native"], signed, n)
    runners["binary native, signed"] = Runner(variants["binary native"], signed, n)
    times = fastest(runners, threads, seconds)
    ratios = {name: round(value / times["float32"], 4) for name, value in times.items() if name != "float32"}
    row = {"K": k, "N": n, "M": rows, "density": density, "threads": threads, "layers": layers}
    print(row, ratios, times["float32"], flush=True)
    return {**row, "microseconds": times, "ratio to float32": ratios}


def copied_bytes() -> dict[str, dict[str, int]]:
    """Memory of the second copy of 768 x 768 codes, after inputs of each density; and of the codes in the file."""
    found: dict[str, dict[str, int]] = {}
    for operator, layout in LAYOUTS.items():
        sizes = {"packed": pack(np.ones((768, 768), np.int32), layout).nbytes}
        for density in DENSITIES:
            made = session(model(operator, 768, 768, 1), threads=1, native=True)
            before = native_library().copied_bytes
            made.run(None, {"x": (np.random.default_rng(1).random((128, 768)) < density).astype(np.float32)})
            sizes[f"copy at {density}"] = native_library().copied_bytes - before
        found[operator] = sizes
    return found


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--quick", action="store_true", help="a rough look: nothing is written")
    quick = arguments.parse_args().quick
    seconds = 0.4 if quick else 2.0
    results: list[dict[str, Any]] = []
    for k, n in SHAPES:
        for rows in ROWS:
            results += [measure(k, n, rows, 0.15, threads, 1, seconds) for threads in ((1,) if quick else (1, 2))]
            results += [measure(k, n, rows, 0.15, 1, 8, seconds)] if rows in (1, 128) else []
    results += [measure(768, 768, 1, density, 1, 1, seconds) for density in DENSITIES]
    results += [measure(k, n, 128, density, 1, 1, seconds) for k, n in SHAPES for density in DENSITIES]
    found = {"kernels": native_status().instruction_set, "results": results, "copied bytes": copied_bytes()}
    if not quick:
        write("native_matmul", found)


if __name__ == "__main__":
    main()
