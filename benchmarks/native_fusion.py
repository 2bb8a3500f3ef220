"""Products and neurons as one node each, in time relative to the same kernels as two nodes.

Usage: python benchmarks/native_fusion.py [--seconds S]. Chains of four ternary products, each with a LIF layer behind
it, run as ``session`` runs them and with fusion left out; runs are interleaved in one process, and a ratio is between
the fastest of each, in processor time of the one thread. Weights and spikes are drawn at random.
"""

from __future__ import annotations

import itertools
import json
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

PRODUCT, NEURON = "TernaryLinearInteger", "LIF_relax_ge_subtract_same_step"
WIDTHS = ([768] * 5, [768, 3072, 768, 3072, 768])
CASES = [(steps, rows) for rows in (1, 16, 128) for steps in (4, 16)]
DENSITY = 0.15


def chain(widths: list[int]) -> onnx.ModelProto:
    """Products and neurons of these widths; thresholds are such that about as many neurons fire as inputs do."""
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {"v0": np.float32(0), "tau": np.float32(2)}
    nodes, value = [], "x"
    for layer, (k, n) in enumerate(itertools.pairwise(widths)):
        constants[f"w{layer}"] = pack(rng.integers(-1, 2, (k, n)).astype(np.int8), "ternary4")
        constants[f"s{layer}"] = np.ones(n, np.float32)
        constants[f"t{layer}"] = np.float32(1.1 * np.sqrt(DENSITY * k * 2 / 3))
        names = [value, f"w{layer}", f"s{layer}"], [f"c{layer}"]
        nodes.append(helper.make_node(PRODUCT, *names, domain=DOMAIN, grid=1.0, inverse_grid=1.0))
        neuron = [f"c{layer}", "v0", f"t{layer}", "v0", "tau"], [f"y{layer}"]
        nodes.append(helper.make_node(NEURON, *neuron, domain=DOMAIN))
        value = f"y{layer}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None, widths[0]])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [None, None, widths[-1]])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    bodies = [function_body(PRODUCT), function_body(NEURON)]
    return helper.make_model(graph, functions=bodies, opset_imports=imports, ir_version=8)


def apart(model: onnx.ModelProto) -> Any:
    """A session whose kernels are not fused."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    native_library().register(options, [PRODUCT, NEURON])
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure(widths: list[int], steps: int, rows: int, seconds: float) -> dict[str, Any]:
    model = chain(widths)
    sessions = {"fused": session(model, threads=1, native=True), "apart": apart(model)}
    x = (np.random.default_rng(1).random((steps, rows, widths[0])) < DENSITY).astype(np.float32)
    outputs = {name: made.run(None, {"x": x})[0] for name, made in sessions.items()}
    if not np.array_equal(outputs["fused"], outputs["apart"]):
        raise SystemExit("fused nodes give other spikes")
    best = dict.fromkeys(sessions, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, made in sessions.items():
            start = time.thread_time()
            made.run(None, {"x": x})
            best[name] = min(best[name], time.thread_time() - start)
    row = {
        "widths": widths,
        "T": steps,
        "rows": rows,
        "milliseconds": {name: round(1e3 * value, 4) for name, value in best.items()},
        "ratio": round(best["fused"] / best["apart"], 3),
        "rate of the output": round(float(outputs["fused"].mean()), 3),
    }
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=5.0, help="of measuring, for each case")
    seconds = options.parse_args().seconds
    results = [measure(widths, *case, seconds) for widths in WIDTHS for case in CASES]
    write("native_fusion", {"kernels": native_status().instruction_set, "results": results})


if __name__ == "__main__":
    main()
