"""A packed layer on signed spikes (-1, 0, 1), in time relative to the same layer on spikes (0, 1).

Usage: python benchmarks/signed_spikes.py. Stock onnxruntime, one thread, its processor time; interleaved runs, the
fastest of each. "As floats" is what a layer on signed spikes was before it had an operator of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from native_matmul import SHAPES, Runner, fastest
from onnx import TensorProto, helper, numpy_helper
from record import parser, write

from snn_extreme_quant.deploy import session
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION, OPSET, function_body
from snn_extreme_quant.quantizers.packing import pack

ROWS, DENSITY, SECONDS = (1, 16, 128, 1024), 0.15, 3.0
OPERATORS = {
    "spikes": "TernaryLinearInteger",
    "signed spikes": "TernaryLinearIntegerSigned",
    "signed spikes as floats": "TernaryLinear",
}


def model(operator: str, k: int, n: int) -> onnx.ModelProto:
    """One packed layer."""
    rng = np.random.default_rng(0)
    packed = pack(rng.integers(-1, 2, (k, n)).astype(np.int8), "ternary4")
    attributes = {"grid": 1.0, "inverse_grid": 1.0} if "Integer" in operator else {}
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "packed", "scale"], ["y"], domain=DOMAIN, **attributes)],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, n])],
        [numpy_helper.from_array(packed, "packed"), numpy_helper.from_array(rng.random(n, np.float32), "scale")],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return helper.make_model(graph, functions=[function_body(operator)], opset_imports=imports, ir_version=8)


def measure(k: int, n: int, rows: int) -> dict[str, Any]:
    """Time the three operators on inputs of the same density."""
    rng = np.random.default_rng(1)
    fired = (rng.random((rows, k)) < DENSITY).astype(np.float32)
    signed = fired * rng.choice(np.array([-1, 1], np.float32), fired.shape)
    runners = {
        name: Runner(session(model(operator, k, n), threads=1, native=False), fired if name == "spikes" else signed, n)
        for name, operator in OPERATORS.items()
    }
    times = fastest(runners, 1, SECONDS)
    ratios = {name: round(value / times["spikes"], 3) for name, value in times.items()}
    print(k, n, rows, ratios, flush=True)
    return {"K": k, "N": n, "M": rows, "microseconds": times, "ratio to spikes": ratios}


if __name__ == "__main__":
    parser(__doc__).parse_args()
    write("signed_spikes", {"density": DENSITY, "results": [measure(k, n, m) for k, n in SHAPES for m in ROWS]})
