"""Runs one build of the native library on several versions of onnxruntime and counts differences.

Usage: python benchmarks/native_runtimes.py [VERSION ...]. Each version gets an environment of its own, which needs a
package index. A file's expected outputs are those of its functions on the version that is installed here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import parser, write

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import native_status, session

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.deploy.test_model_forms import FORMS, quantised, spikes
from tests.runtimes.networks import other_forms

VERSIONS = ["1.17.3", "1.20.1", "1.24.4", "1.28.0", "1.31.1"]

#: Runs with onnxruntime and numpy alone, as a program without this package would.
RUNNER = """
import json, sys
from pathlib import Path
import numpy as np, onnxruntime
result = {"onnxruntime": onnxruntime.__version__, "files": 0, "values": 0, "different": 0, "kernels": [], "failed": []}
kernels = set()
for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    data = np.load(path.with_suffix(".npz"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    try:
        options.register_custom_ops_library(sys.argv[2])
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {"input": data["input"]})
    except Exception as error:
        result["failed"].append(f"{path.name}: {error}"[:200])
        continue
    for event in json.loads(Path(session.end_profiling()).read_text()):
        name = event.get("args", {}).get("op_name", "")
        if name.startswith(("Binary", "Ternary", "Int", "LIF_", "StepLIF_", "StepIntLIF_", "Synchronous")):
            kernels.add(name)
    result["files"] += 1
    for index, value in enumerate(outputs):
        result["values"] += value.size
        result["different"] += int((value != data[f"output_{index}"]).sum())
result["kernels"] = sorted(kernels)
print(json.dumps(result))
"""


def export_all(folder: Path) -> None:
    """The forms of a model, with codes of every packing that has kernels; files of integers only and of counts."""
    for index, (build, shape, other, _) in enumerate(FORMS.values()):
        config = (sxq.Ternary(), sxq.Binary(), sxq.Uniform(4), sxq.Uniform(8))[index % 4]
        path = folder / f"form_{index:02d}.onnx"
        torch.manual_seed(0)
        sxq.export_onnx(quantised(build, config), spikes(*shape), path, input="spikes")
        _keep(path, spikes(*other).numpy())
    for index, network in enumerate(other_forms(every=False)):
        form = network.options.get("form", "sequence")
        if form == "streaming":  # its steps need states, which the runner does not hand on
            continue
        path = folder / f"other_{index:02d}.onnx"
        sxq.export_onnx(network.model, network.sample, path, **network.options)
        inputs = network.inputs.numpy()
        _keep(path, inputs.mean(0, dtype=np.float32) if form == "counts" else inputs)


def _keep(path: Path, inputs: Any) -> None:
    """Write what a file gives by its functions."""
    outputs = session(path, native=False).run(None, {"input": inputs})
    np.savez(path.with_suffix(".npz"), input=inputs, **{f"output_{i}": value for i, value in enumerate(outputs)})


def run(version: str, folder: Path, library: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        venv.create(place, with_pip=True)
        python = str(Path(place) / "bin" / "python")
        numpy = "numpy<2" if version < "1.19" else "numpy"
        subprocess.run([python, "-m", "pip", "install", "-q", f"onnxruntime=={version}", numpy], check=True)
        command = [python, "-c", RUNNER, str(folder), str(library)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("versions", metavar="VERSION", nargs="*", default=VERSIONS)
    versions = arguments.parse_args().versions
    status = native_status()
    if status.path is None:
        sys.exit(status.reason)
    with tempfile.TemporaryDirectory() as place:
        export_all(Path(place))
        rows = []
        for version in versions:
            rows.append(run(version, Path(place), status.path))
            print(rows[-1], flush=True)
    write("native_runtimes", {"library": status.path.name, "kernels": status.instruction_set, "rows": rows})


if __name__ == "__main__":
    main()
