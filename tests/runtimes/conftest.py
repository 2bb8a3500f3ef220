"""Node, the npm packages and Chromium are optional: where they are missing, their tests are skipped with the reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock
from snntorch._neurons.neurons import SpikingNeuron

from tests.runtimes.cases import Cases
from tests.runtimes.networks import write_cases

PACKAGES = Path(__file__).parents[2] / "examples" / "web"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def _missing(reason: str) -> NoReturn:
    if os.environ.get("SXQ_RUNTIMES") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def node() -> str:
    """The program ``node``, with the npm packages installed."""
    program = shutil.which("node")
    if program is None:
        _missing("node is missing: install Node.js 20 or newer")
    for package in ("onnxruntime-node", "onnxruntime-web", "playwright-core"):
        if not (PACKAGES / "node_modules" / package / "package.json").exists():
            _missing(f"the npm package {package} is missing: run `make test-runtimes`")
    return program


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program of a Chromium."""
    named = os.environ.get("SXQ_CHROMIUM")
    program = shutil.which(named) if named else next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        _missing(f"{named or 'Chromium'} is missing: install it, or name its program in SXQ_CHROMIUM")
    return program


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str, Callable[[Path], None]], Path]:
    """Make a folder by a name and a function that fills it, once for all worker processes."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent

    def folder(name: str, fill: Callable[[Path], None]) -> Path:
        found = shared / name
        done = shared / f"{name}.done"
        with FileLock(f"{found}.lock"):
            if not done.exists():
                found.mkdir(exist_ok=True)
                fill(found)
                done.touch()
        return found

    return folder


@pytest.fixture(scope="session")
def folder_of_cases(once: Callable[[str, Callable[[Path], None]], Path]) -> Callable[..., Path]:
    """Export the cases."""

    def folder(*, every: bool) -> Path:
        def fill(path: Path) -> None:
            with pytest.MonkeyPatch.context() as patch:  # one network resets all neurons that snnTorch knows
                patch.setattr(SpikingNeuron, "instances", [])
                write_cases(Cases(path), every=every)

        return once("all_cases" if every else "cases", fill)

    return folder
