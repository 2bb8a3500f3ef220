"""The products of the 12-layer encoder of encoder.py and nothing else: what of its time no exporter can save.

Usage: python benchmarks/encoder_products.py. The 72 products of constant weights with spikes, T x S rows each, in
float32 and in onnxruntime's own integer product that scales its sums. Runs are interleaved; times are the fastest
run's, processor time of one thread.
"""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from record import parser, write

WIDTH, HIDDEN, LAYERS = 768, 3072, 12
SHAPES = [(WIDTH, WIDTH)] * 4 + [(WIDTH, HIDDEN), (HIDDEN, WIDTH)]
#: T x S rows, and how often they are run.
ROWS = {4: 25, 16: 25, 512: 4, 2048: 3}


def products(integer: bool) -> onnx.ModelProto:
    """All products; only the shapes of the results are outputs."""
    rng, nodes = np.random.default_rng(0), []
    constants = [numpy_helper.from_array(np.float32(1), "one")]
    for index, (inputs, outputs) in enumerate(SHAPES * LAYERS):
        codes = rng.integers(-1, 2, (inputs, outputs))
        constants.append(numpy_helper.from_array(codes.astype(np.int8 if integer else np.float32), f"w{index}"))
        constants.append(numpy_helper.from_array(np.ones(outputs, np.float32), f"s{index}"))
        operands = ["x" if inputs == WIDTH else "wide", f"w{index}"]
        if integer:
            operands += ["one", f"s{index}"]
        nodes.append(
            helper.make_node(
                "MatMulIntegerToFloat" if integer else "MatMul",
                operands,
                [f"y{index}"],
                domain="com.microsoft" if integer else "",
            )
        )
        nodes.append(helper.make_node("Shape", [f"y{index}"], [f"shape{index}"]))
    kind = TensorProto.UINT8 if integer else TensorProto.FLOAT
    feeds = [helper.make_tensor_value_info(n, kind, ["rows", k]) for n, k in (("x", WIDTH), ("wide", HIDDEN))]
    shapes = [helper.make_tensor_value_info(f"shape{i}", TensorProto.INT64, [2]) for i in range(len(SHAPES) * LAYERS)]
    graph = helper.make_graph(nodes, "products", feeds, shapes, constants)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def main() -> None:
    parser(__doc__).parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    sessions = {
        name: onnxruntime.InferenceSession(
            products(name == "integer").SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for name in ("float32", "integer")
    }
    rng, found = np.random.default_rng(0), []
    for rows, rounds in ROWS.items():
        drawn = {name: rng.random((rows, width)) < 0.15 for name, width in (("x", WIDTH), ("wide", HIDDEN))}
        best = dict.fromkeys(sessions, float("inf"))
        for _ in range(rounds):
            for name, session in sessions.items():
                kind = np.uint8 if name == "integer" else np.float32
                feeds = {key: value.astype(kind) for key, value in drawn.items()}
                start = time.thread_time()
                session.run(None, feeds)
                best[name] = min(best[name], time.thread_time() - start)
        found.append(
            {
                "rows": rows,
                "milliseconds": {name: round(1e3 * value, 3) for name, value in best.items()},
                "ratio": round(best["integer"] / best["float32"], 4),
            }
        )
        print(found[-1], flush=True)
    write("encoder_products", {"layers": LAYERS, "rows": found})


if __name__ == "__main__":
    main()
