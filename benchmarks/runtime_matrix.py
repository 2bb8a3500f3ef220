"""Runs exported files on several versions of onnxruntime, each in an environment of its own, and counts differences.

Usage: python benchmarks/runtime_matrix.py [VERSION ...]. Needs a package index.
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
from record import write
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.running import run_model
from snn_extreme_quant.frameworks import neurons_of

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.deploy.test_every_class import NETWORKS
from tests.deploy.test_model_forms import FORMS, quantised, spikes

VERSIONS = ["1.17.3", "1.20.1", "1.24.4", "1.28.0", "1.31.1"]

#: Runs with onnxruntime and numpy alone.
RUNNER = """
import json, sys
from pathlib import Path
import numpy as np, onnxruntime
result = {"onnxruntime": onnxruntime.__version__, "files": 0, "values": 0, "different": 0, "failed": []}
for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    data = np.load(path.with_suffix(".npz"))
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        outputs = session.run(None, {"input": data["input"]})
    except Exception as error:
        result["failed"].append(f"{path.name}: {error}"[:200])
        continue
    result["files"] += 1
    for index, value in enumerate(outputs):
        result["values"] += value.size
        result["different"] += int((value != data[f"output_{index}"]).sum())
print(json.dumps(result))
"""


def export(model: nn.Module, sample: Tensor, inputs: Tensor, path: Path) -> None:
    """Write a model's file, and what it gives for other inputs than it was exported with."""
    kind: Any = "spikes" if sample.is_floating_point() else "real"
    report = sxq.export_onnx(model, sample, path, input=kind)
    outputs = run_model(model, inputs, report.calling, neurons_of(model)).outputs
    arrays = {f"output_{i}": value.numpy() for i, value in enumerate(outputs)}
    np.savez(path.with_suffix(".npz"), input=inputs.numpy(), **arrays)


def export_all(folder: Path) -> None:
    """Every form of a model, and every class of neuron and layer."""
    for index, (build, shape, other, _) in enumerate(FORMS.values()):
        for config in (sxq.Ternary(), sxq.Binary()):
            path = folder / f"form_{index:02d}_{config.kind}.onnx"
            export(quantised(build, config), spikes(*shape), spikes(*other), path)
    for index, make in enumerate(NETWORKS.values()):
        for config in (sxq.Ternary(), sxq.Binary(), sxq.Uniform(4), sxq.Uniform(8)):
            torch.manual_seed(1)
            model, sample = make()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
            sxq.quantize_(model, config)
            path = folder / f"classes_{index:02d}_{config.kind}{config.bits}.onnx"
            export(model.eval(), sample, torch.cat([sample, sample], 1), path)


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_all(folder)
        for release in sys.argv[1:] or VERSIONS:
            home = folder / f"venv-{release}"
            venv.create(home, with_pip=True)
            python = str(home / "bin" / "python")
            # Up to 1.18 onnxruntime is built for numpy 1.
            numpy = "numpy<2" if tuple(map(int, release.split(".")[:2])) < (1, 19) else "numpy"
            subprocess.run([python, "-m", "pip", "install", "-q", f"onnxruntime=={release}", numpy], check=True)
            done = subprocess.run([python, "-c", RUNNER, name], check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], file=sys.stderr)
    write("runtime_matrix", {"rows": rows})


if __name__ == "__main__":
    main()
