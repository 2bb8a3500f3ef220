"""Runs a folder of cases on onnxruntime for Python; needs nothing but onnxruntime and numpy, of any version.

Usage: python run_cases.py FOLDER RESULTS [LIBRARY]

With our native library, each file ``X.onnx`` is taken as ``X.native.onnx``, which names the operators in
``X.native.json`` that the library is to run; the result then also says which of them ran, from onnxruntime's profile.
"""

from __future__ import annotations

import base64
import ctypes
import json
import sys
import tempfile
from pathlib import Path
from typing import Any


class Opener:
    """Opens a file of the folder, with the operators of a library where there is one."""

    def __init__(self, folder: Path, library: str | None) -> None:
        self.folder = folder
        self.library = library
        self.ran: set[str] = set()
        self._operators: set[str] = set()

    def open(self, file: str, profile: str) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        path = self.folder / file
        if self.library is not None:
            path = path.with_suffix(".native.onnx")
            self._operators = set(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
            ctypes.CDLL(self.library).sxq_select(f" {' '.join(sorted(self._operators))} ".encode())
            options.register_custom_ops_library(self.library)
            options.enable_profiling = True
            options.profile_file_prefix = profile
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def closed(self, session: Any) -> None:
        """Note which kernels of the library ran."""
        if self.library is not None:
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            ran = {event.get("args", {}).get("op_name", "") for event in events}
            self.ran |= ran & self._operators


def run(folder: Path, library: str | None = None) -> dict[str, Any]:
    """Return every output of every case, or why there is none."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    opener = Opener(folder, library)
    with tempfile.TemporaryDirectory() as profiles:
        results = _results(folder, opener, str(Path(profiles) / "profile"))
    found = {"runtime": f"onnxruntime {onnxruntime.__version__}", "results": results}
    return found if library is None else {**found, "kernels": sorted(opener.ran)}


def _results(folder: Path, opener: Opener, profile: str) -> list[dict[str, Any]]:
    import numpy as np

    results = []
    for case in json.loads((folder / "cases.json").read_text(encoding="utf-8")):
        feeds = {
            name: np.frombuffer(base64.b64decode(tensor["data"]), tensor["type"]).reshape(tensor["dims"])
            for name, tensor in case["inputs"].items()
        }
        try:
            session = opener.open(case["file"], profile)
            names = [output.name for output in session.get_outputs()]
            outputs = dict(zip(names, session.run(None, feeds), strict=True))
            opener.closed(session)
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
    return results


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(run(Path(sys.argv[1]), *sys.argv[3:])), encoding="utf-8")
