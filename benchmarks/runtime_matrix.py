"""Runs exported files on several versions of onnxruntime and on its JavaScript packages, and counts differences.

Usage: python benchmarks/runtime_matrix.py [VERSION ...] [--cases FOLDER] [--forms]. Each version is installed into an
environment of its own in a temporary folder, so a package index is needed. The JavaScript packages are those of
examples/web (make test-runtimes sets them up). The files are all networks of tests/runtimes, in every precision,
verified against torch as they are written; with --cases they are kept in a folder, and used again if they are there.
With --forms they are a network or two of each form beside the ordinary one (integer, streaming, counts), which takes
minutes; the result is then runtime_matrix_forms.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from record import parser, write

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.runtimes.cases import Cases, compare, read
from tests.runtimes.networks import other_forms, write_cases
from tests.runtimes.tools import JAVASCRIPT, command

RUNNER = Path(__file__).parents[1] / "tests" / "runtimes" / "run_cases.py"
VERSIONS = ["1.17.3", "1.20.1", "1.24.4", "1.28.0", "1.31.1"]


def python_version(release: str, folder: Path, results: Path) -> list[str]:
    """Install a version of onnxruntime, and return the command that runs the cases on it."""
    home = results.parent / f"venv-{release}"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    # Up to 1.18 onnxruntime is built for numpy 1.
    numpy = "numpy<2" if tuple(map(int, release.split(".")[:2])) < (1, 19) else "numpy"
    subprocess.run([python, "-m", "pip", "install", "-q", f"onnxruntime=={release}", numpy], check=True)
    return [python, str(RUNNER), str(folder), str(results)]


def row(program: list[str], entries: list[dict[str, Any]], results: Path) -> dict[str, Any]:
    """Run the cases, and compare."""
    subprocess.run(program, check=True)
    found = json.loads(results.read_text(encoding="utf-8"))
    comparison = asdict(compare(entries, found["results"]))
    print(found["runtime"], comparison, file=sys.stderr)
    return {"runtime": found["runtime"], **comparison}


def write_forms(cases: Cases) -> None:
    """Export a network or two of each other form."""
    for index, network in enumerate(other_forms(every=False)):
        file = f"{index:03d}_{network.name}".replace(" ", "_")
        cases.add(file, network.model, network.sample, network.inputs, **network.options)
    cases.write()


def main(releases: list[str], folder: Path, *, forms: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        results = Path(name) / "results.json"
        for runtime in JAVASCRIPT:
            command(runtime, folder, results)  # what is missing is better said now
        if not (folder / "cases.json").exists():
            write_forms(Cases(folder)) if forms else write_cases(Cases(folder), every=True)
        entries = read(folder)
        programs: list[Callable[[], list[str]]] = [
            *(lambda release=release: python_version(release, folder, results) for release in releases),
            *(lambda runtime=runtime: command(runtime, folder, results) for runtime in JAVASCRIPT),
        ]
        rows = [row(program(), entries, results) for program in programs]
    networks = len({entry["file"].split("_")[0] for entry in entries})
    write("runtime_matrix_forms" if forms else "runtime_matrix", {"networks": networks, "rows": rows})


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("versions", metavar="VERSION", nargs="*", default=VERSIONS)
    options.add_argument("--cases", metavar="FOLDER", type=Path, help="keep the files here, or use those that are here")
    options.add_argument("--forms", action="store_true", help="only files of the other forms")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        chosen = arguments.cases or Path(temporary)
        chosen.mkdir(parents=True, exist_ok=True)
        main(arguments.versions, chosen, forms=arguments.forms)
