"""Writes a benchmark's result with what is needed to judge it: machine, versions, commit."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_ROOT = Path(__file__).parents[1]
#: What benchmarks write themselves: a change there does not change what is measured.
_WRITTEN = (":!benchmarks/results", ":!docs/*.md", ":!README.md")
_PACKAGES = ("torch", "snntorch", "spikingjelly", "brevitas", "onnx", "onnxruntime", "numpy")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of a script's options whose --help shows the script's docstring, lines as they are."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    return done.stdout.strip()


def _commit() -> str:
    """Return the commit; with "-dirty" if a tracked file that is no output differs from it."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *_WRITTEN)
    return f"{_git('describe', '--always') or 'unknown'}{'-dirty' if changed else ''}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in _PACKAGES},
        "commit": _commit(),
    }


def write(name: str, result: dict[str, Any], *, keep: bool = True) -> None:
    """Print a result, and write it to ``results/<name>.json`` unless it is not to be kept, as of other sizes."""
    text = json.dumps({"benchmark": name, "machine": machine(), **result}, indent=2) + "\n"
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(text)
    print(text)
