"""Runs one build of the native library on several versions of onnxruntime and counts differences.

Usage: python benchmarks/native_runtimes.py [VERSION ...]. Each version gets an environment of its own, which needs a
package index, and runs files as `sxq.deploy.session(native=True)` opens them here: nodes chosen and fused for the
kernels. The files are those of `runtime_matrix.py`: a few networks with all precisions in turn, a network or two of
each other form, and what optimisations may rewrite. A file's expected outputs are those of its functions, on the
version that is installed here.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import onnx
from record import parser, write
from runtime_matrix import VERSIONS, python_version, row, write_patterns

from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.deploy.runtime.native_choice import choose_kernels

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.runtimes.cases import Cases, read
from tests.runtimes.networks import write_cases


def write_native(path: Path, operators: frozenset[str]) -> int:
    """Write a file as a native session sees it beside it, and what is to be registered; return how many nodes fused."""
    opened, names = choose_kernels(onnx.load(path)).applied(onnx.load(path), own=True)
    onnx.save(opened, path.with_suffix(".native.onnx"))
    path.with_suffix(".native.json").write_text(json.dumps(sorted(operators & names)), encoding="utf-8")
    return sum(node.op_type.startswith("Fused") for node in opened.graph.node)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("versions", metavar="VERSION", nargs="*", default=VERSIONS)
    versions = arguments.parse_args().versions
    library = native_library()
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as results_folder:
        folder, results = Path(place), Path(results_folder) / "results.json"
        cases = Cases(folder)
        write_patterns(cases)
        write_cases(cases)
        entries = read(folder)
        files = {entry["file"] for entry in entries}
        fused = sum(write_native(folder / file, library.operators) for file in files)
        rows = []
        for version in versions:
            program = [*python_version(version, folder, results), str(library.path)]
            rows.append(row(program, entries, results))
    write(
        "native_runtimes",
        {"kernels": library.instruction_set, "files": len(files), "fused nodes": fused, "rows": rows},
    )


if __name__ == "__main__":
    main()
