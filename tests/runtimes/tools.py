"""Where Node.js, the npm packages and Chromium are, and how a folder of cases is run on them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["JAVASCRIPT", "PACKAGES", "MissingToolError", "command", "find_chromium", "find_node"]

#: The folder with package.json and node_modules, which is also that of the page.
PACKAGES = Path(__file__).parents[2] / "examples" / "web"
#: What run_cases.mjs runs: onnxruntime-node, and onnxruntime-web in node and in a browser.
JAVASCRIPT = ("node", "wasm", "chromium")
_HERE = Path(__file__).parent
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class MissingToolError(Exception):
    """Something is not installed; the message says what, and what to do."""


def find_node() -> str:
    """Return the program ``node``; the npm packages are there too."""
    program = shutil.which("node")
    if program is None:
        raise MissingToolError("node is missing: install Node.js 20 or newer")
    for package in ("onnxruntime-node", "onnxruntime-web", "playwright-core"):
        if not (PACKAGES / "node_modules" / package / "package.json").exists():
            raise MissingToolError(f"the npm package {package} is missing: run `make test-runtimes`")
    return program


def find_chromium() -> str:
    """Return the program of a Chromium."""
    named = os.environ.get("SXQ_CHROMIUM")
    program = shutil.which(named) if named else next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        raise MissingToolError(f"{named or 'Chromium'} is missing: install it, or name its program in SXQ_CHROMIUM")
    return program


def command(runtime: str, folder: Path, results: Path) -> list[str]:
    """Return the command that runs a folder of cases on one of ``JAVASCRIPT`` and writes what they give."""
    chromium = find_chromium() if runtime == "chromium" else ""
    return [find_node(), *map(str, (_HERE / "run_cases.mjs", runtime, folder, results, PACKAGES)), chromium]
