"""Runs the body of every integer operator on several versions of onnxruntime and counts what differs from torch.

Usage: python benchmarks/integer_operators.py [VERSION ...]. Needs a package index.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
from record import parser, write

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.deploy.integer_bodies import fed, model_of
from tests.deploy.integer_cases import SPECS, layer_cases, neuron_cases

VERSIONS = ["1.17.3", "1.20.1", "1.24.4", "1.28.0", "1.31.1"]

#: Runs with onnxruntime and numpy alone.
RUNNER = """
import json, sys
from pathlib import Path
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level, options.intra_op_num_threads = 4, 1
result = {"onnxruntime": onnxruntime.__version__, "cases": 0, "values": 0, "different": 0, "failed": []}
for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    data = np.load(path.with_suffix(".npz"))
    inputs = {name[3:]: data[name] for name in data.files if name.startswith("in_")}
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, inputs)
    except Exception as error:
        result["failed"].append(f"{path.name}: {error}"[:200])
        continue
    result["cases"] += 1
    for index, value in enumerate(outputs):
        wanted = data[f"out_{index}"]
        result["values"] += wanted.size
        same = value.dtype == wanted.dtype and value.shape == wanted.shape
        result["different"] += int((value != wanted).sum()) if same else wanted.size
print(json.dumps(result))
"""


def save_all(folder: Path) -> int:
    """Write a model for each case, with its inputs and what torch gives; return the number of operators."""
    cases = [*layer_cases(), *(case for spec in SPECS for case in neuron_cases(spec))]
    for index, case in enumerate(cases):
        path = folder / f"{index:04d}_{case.node.operator}.onnx"
        path.write_bytes(model_of(case).SerializeToString())
        arrays = {f"in_{name}": value for name, value in fed(case).items()}
        np.savez(path.with_suffix(".npz"), **arrays, **{f"out_{i}": v for i, v in enumerate(case.expected)})
    return len({case.node.operator for case in cases})


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("versions", metavar="VERSION", nargs="*", default=VERSIONS)
    versions = arguments.parse_args().versions
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        operators = save_all(folder)
        for release in versions:
            home = folder / f"venv-{release}"
            venv.create(home, with_pip=True)
            python = str(home / "bin" / "python")
            # Up to 1.18 onnxruntime is built for numpy 1.
            numpy = "numpy<2" if tuple(map(int, release.split(".")[:2])) < (1, 19) else "numpy"
            subprocess.run([python, "-m", "pip", "install", "-q", f"onnxruntime=={release}", numpy], check=True)
            done = subprocess.run([python, "-c", RUNNER, name], check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], file=sys.stderr)
    write("integer_operators", {"operators": operators, "rows": rows})


if __name__ == "__main__":
    main()
