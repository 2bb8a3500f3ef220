"""examples/plugin_template: installs like any distribution, loads by its entry point, passes its own tests."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "examples" / "plugin_template"


def run(site: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(ROOT), str(ROOT / "plugins")])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [sys.executable, *arguments], cwd=site, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the template and the framework that it is for."""
    folder = tmp_path_factory.mktemp("template")
    source, target = folder / "source", folder / "site"
    shutil.copytree(TEMPLATE, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    done = run(folder, "-m", "pip", "install", *options, str(source), str(source / "framework"))
    assert done.returncode == 0, done.stderr
    return target


def test_it_is_short() -> None:
    assert len((TEMPLATE / "sxq_pulse.py").read_text(encoding="utf-8").splitlines()) < 60


def test_it_loads_beside_the_others(site: Path) -> None:
    code = (
        "from snn_extreme_quant.frameworks import plugin_statuses\n"
        "found = {s.name: s for s in plugin_statuses()}\n"
        "assert found['pulse'].state == 'available', found['pulse']\n"
        "assert found['pulse'].origin == 'sxq-pulse' and found['pulse'].framework_version == '1.2.0'\n"
        "assert found['snntorch'].state == found['spikingjelly'].state == 'available'\n"
    )
    done = run(site, "-c", code)
    assert done.returncode == 0, done.stderr


def test_it_passes_the_contract_and_goes_all_the_way(site: Path) -> None:
    tests = str(TEMPLATE / "test_sxq_pulse.py")
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(site), "-c", os.devnull, "--import-mode=importlib"]
    done = run(site, "-m", "pytest", *options, tests, SXQ_PLUGINS="pulse")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 50, done.stdout


def test_the_readme_names_the_files() -> None:
    text = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    for path in TEMPLATE.rglob("*.py"):
        assert f"`{path.relative_to(TEMPLATE).as_posix()}`" in text
