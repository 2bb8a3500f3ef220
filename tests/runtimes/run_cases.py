"""Runs a folder of cases on onnxruntime for Python; needs nothing but onnxruntime and numpy, of any version.

Usage: python run_cases.py FOLDER RESULTS
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any


def run(folder: Path) -> dict[str, Any]:
    """Return every output of every case, or why there is none."""
    import numpy as np
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    results = []
    for case in json.loads((folder / "cases.json").read_text(encoding="utf-8")):
        feeds = {
            name: np.frombuffer(base64.b64decode(tensor["data"]), tensor["type"]).reshape(tensor["dims"])
            for name, tensor in case["inputs"].items()
        }
        try:
            session = onnxruntime.InferenceSession(str(folder / case["file"]), providers=["CPUExecutionProvider"])
            names = [output.name for output in session.get_outputs()]
            outputs = dict(zip(names, session.run(None, feeds), strict=True))
        except Exception as error:  # onnxruntime raises a class of its own for every failure
            results.append({"error": str(error)})
            continue
        results.append(
            {
                "outputs": {
                    name: {
                        "type": str(value.dtype),
                        "dims": list(value.shape),
                        "data": base64.b64encode(np.ascontiguousarray(value).tobytes()).decode(),
                    }
                    for name, value in outputs.items()
                }
            }
        )
    return {"runtime": f"onnxruntime {onnxruntime.__version__}", "results": results}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(run(Path(sys.argv[1]))), encoding="utf-8")
