"""The native kernels of convolutions of spikes, in time relative to the same file's own body on onnxruntime.

Usage: python benchmarks/native_conv.py [--quick]. The body is a float32 Conv with unpacked weights. Runs are
interleaved; a ratio is between the fastest of each. One thread, its processor time. 3 x 3 kernels with padding 1, four
images, codes and spikes drawn at random.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from native_matmul import fastest
from onnx import TensorProto, helper, numpy_helper
from record import parser, write

from snn_extreme_quant.deploy import native_status
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION, OPSET, function_body
from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.quantizers.packing import pack

#: Channels in, channels out, height and width.
SHAPES = [(c, n, size) for c, n in ((16, 32), (32, 64), (64, 128), (128, 256)) for size in (32, 16, 8)]
DENSITIES = [0.05, 0.15, 0.3]
IMAGES = 4
PACKINGS = {"Ternary": "ternary4", "Binary": "binary8"}


def model(packing: str, channels: int, outputs: int, integer: bool) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, (channels * 9, outputs)).astype(np.int8)
    codes = np.where(codes < 0, -1, 1) if packing == "Binary" else codes
    weights = [numpy_helper.from_array(pack(codes, PACKINGS[packing]), "packed")]
    attributes: dict[str, Any] = {
        "weight_shape": [outputs, channels, 3, 3],
        "strides": [1, 1],
        "pads": [1] * 4,
        "dilations": [1, 1],
        "group": 1,
    }
    if integer:
        attributes["columns"] = [outputs]
    else:
        attributes["scale_shape"] = [-1, 1, 1, 1]
        weights.append(numpy_helper.from_array(rng.random(outputs, np.float32), "scale"))
    operator = f"{packing}Conv{'Integer' if integer else ''}"
    node = helper.make_node(operator, ["x", *(w.name for w in weights)], ["y"], domain=DOMAIN, **attributes)
    kinds = (TensorProto.UINT8, TensorProto.INT32) if integer else (TensorProto.FLOAT, TensorProto.FLOAT)
    graph = helper.make_graph(
        [node],
        "convolution",
        [helper.make_tensor_value_info("x", kinds[0], [None, channels, None, None])],
        [helper.make_tensor_value_info("y", kinds[1], [None, outputs, None, None])],
        weights,
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return helper.make_model(graph, functions=[function_body(operator)], opset_imports=imports, ir_version=8)


class Runner:
    """A session whose inputs and outputs stay where they are."""

    def __init__(self, made: onnx.ModelProto, x: np.ndarray, native: bool) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        if native:
            native_library().register(options, [made.graph.node[0].op_type])
        session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.session, self.binding = session, session.io_binding()
        self.binding.bind_cpu_input("x", x)
        self.y = session.run(None, {"x": x})[0]
        self.binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(self.y))

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.binding)


def measure(channels: int, outputs: int, size: int, density: float, seconds: float) -> dict[str, Any]:
    spikes = np.random.default_rng(1).random((IMAGES, channels, size, size)) < density
    inputs = {False: spikes.astype(np.float32), True: spikes.astype(np.uint8)}
    runners = {}
    for packing in PACKINGS:
        for integer, x in inputs.items():
            made = model(packing, channels, outputs, integer)
            name = f"{packing}{' integer' if integer else ''}"
            for native in (False, True):
                runners[f"{name} {'native' if native else 'body'}"] = Runner(made, x, native)
    for name, runner in runners.items():
        if name.endswith("native") and not np.array_equal(runner.y, runners[name.replace("native", "body")].y):
            raise SystemExit(f"{name} differs from its body")
    times = fastest(runners, 1, seconds)
    ratios = {
        name.removesuffix(" native"): round(value / times[name.replace("native", "body")], 3)
        for name, value in times.items()
        if name.endswith("native")
    }
    row = {"channels": channels, "outputs": outputs, "size": size, "density": density}
    print(row, ratios, times["Ternary body"], flush=True)
    return {**row, "microseconds": times, "ratio to body": ratios}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--quick", action="store_true", help="a rough look: nothing is written")
    quick = arguments.parse_args().quick
    results = [measure(*shape, density, 0.4 if quick else 1.5) for shape in SHAPES for density in DENSITIES]
    if not quick:
        write("native_conv", {"kernels": native_status().instruction_set, "images": IMAGES, "results": results})


if __name__ == "__main__":
    main()
