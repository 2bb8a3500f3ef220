"""Node, the npm packages and Chromium are optional: where they are missing, their tests are skipped with the reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from snntorch._neurons.neurons import SpikingNeuron

from tests.runtimes.cases import Cases
from tests.runtimes.networks import write_cases
from tests.runtimes.tools import MissingToolError, find_chromium, find_node


def _found(find: Callable[[], str]) -> str:
    try:
        return find()
    except MissingToolError as error:
        if os.environ.get("SXQ_RUNTIMES") == "required":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def node() -> str:
    return _found(find_node)


@pytest.fixture(scope="session")
def chromium() -> str:
    return _found(find_chromium)


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
