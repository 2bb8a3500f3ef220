"""Reading results, and writing tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Inputs and outputs of the layers that are measured.
SHAPES = [(768, 768), (768, 3072), (3072, 768)]
_RESULTS = Path(__file__).parents[1] / "results"


def load(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((_RESULTS / f"{name}.json").read_text())
    return result


def is_there(name: str) -> bool:
    """Whether something has been recorded."""
    return (_RESULTS / f"{name}.json").is_file()


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
