"""Runs exported files on several versions of onnxruntime and on its JavaScript packages, and counts differences.

Usage: python benchmarks/runtime_matrix.py [VERSION ...] [--cases FOLDER] [--forms | --patterns]. Each version is
installed into an environment of its own in a temporary folder, so a package index is needed. The JavaScript packages
are those of examples/web (make test-runtimes sets them up). The files are all networks of tests/runtimes, in every
precision, verified against torch as they are written; with --cases they are kept in a folder, and used again if they
are there. With --forms they are a network or two of each form beside the ordinary one (integer, streaming, counts,
SpikingBERT), which takes minutes; the result is then runtime_matrix_forms.json. With --patterns they are what runtimes
rewrite around exact sums (factors, biases, residuals behind products: tests/deploy/test_fusions.py) and products and
neurons whose bodies leave something out (tests/deploy/test_body_facts.py); the result is runtime_matrix_patterns.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from record import parser, write

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.runtimes.cases import Cases, compare, read
from tests.runtimes.networks import language_models, other_forms, write_cases
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
    return {"runtime": found["runtime"], **comparison, **{key: found[key] for key in ("kernels",) if key in found}}


def write_forms(cases: Cases) -> None:
    """Export a network or two of each other form."""
    for index, network in enumerate((*other_forms(every=False), *language_models(every=False))):
        file = f"{index:03d}_{network.name}".replace(" ", "_")
        cases.add(file, network.model, network.sample, network.inputs, **network.options)
    cases.write()


def write_patterns(cases: Cases) -> None:
    """Export what optimisations of a runtime may rewrite, where the file is exact."""
    import torch

    import snn_extreme_quant as sxq
    from tests.deploy.test_body_facts import Net
    from tests.deploy.test_fusions import NOT_PROMISED, PATTERNS, pattern_network

    for index, name in enumerate(name for name in PATTERNS if (name, "sequence") not in NOT_PROMISED):
        model, x = pattern_network("sequence", PATTERNS[name])
        cases.add(f"{index:03d}_{name}".replace(" ", "_"), model, x, x.flip(1), input="spikes")
    nets = [(8, False, 2.0), (8, True, 2.0), (7, False, 3.0), (7, True, 4.0)]
    for config in (sxq.Ternary(), sxq.Binary(), sxq.Uniform(4)):
        for columns, bias, tau in nets:
            torch.manual_seed(0)
            net, x = Net(columns, bias=bias, tau=tau).eval(), (torch.rand(5, 3, 12) < 0.4).float()
            sxq.quantize_(net, config)
            name = f"1{len(cases.entries):02d}_{columns}_{'bias' if bias else 'bare'}_{config.__class__.__name__}"
            cases.add(name, net, x, x.flip(1), input="spikes")
    cases.write()


#: What a choice of files is called in the name of its result, and what writes them.
KINDS: dict[str, Callable[[Cases], None]] = {
    "": partial(write_cases, every=True), "_forms": write_forms, "_patterns": write_patterns,
}  # fmt: skip


def main(releases: list[str], folder: Path, kind: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        results = Path(name) / "results.json"
        for runtime in JAVASCRIPT:
            command(runtime, folder, results)  # what is missing is better said now
        if not (folder / "cases.json").exists():
            KINDS[kind](Cases(folder))
        entries = read(folder)
        programs: list[Callable[[], list[str]]] = [
            *(lambda release=release: python_version(release, folder, results) for release in releases),
            *(lambda runtime=runtime: command(runtime, folder, results) for runtime in JAVASCRIPT),
        ]
        rows = [row(program(), entries, results) for program in programs]
    networks = len({entry["file"].split("_")[0] for entry in entries})
    write(f"runtime_matrix{kind}", {"networks": networks, "rows": rows})


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("versions", metavar="VERSION", nargs="*", default=VERSIONS)
    options.add_argument("--cases", metavar="FOLDER", type=Path, help="keep the files here, or use those that are here")
    chosen_files = options.add_mutually_exclusive_group()
    for kind_ in ("forms", "patterns"):
        what = "only files of the other forms" if kind_ == "forms" else "only what optimisations may rewrite"
        chosen_files.add_argument(f"--{kind_}", dest="kind", action="store_const", const=f"_{kind_}", help=what)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        chosen = arguments.cases or Path(temporary)
        chosen.mkdir(parents=True, exist_ok=True)
        main(arguments.versions, chosen, arguments.kind or "")
