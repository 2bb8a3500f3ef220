"""The README's examples run as they stand, and its figures are those of the benchmarks."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["snntorch", "spikingjelly"])
def test_example(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert re.search(r"\b0 of [1-9]\d* spikes differ", printed)
    assert (tmp_path / "net.onnx").exists()


def test_examples_are_short() -> None:
    assert len(EXAMPLES) == 2
    for example in EXAMPLES:
        assert sum(1 for line in example.splitlines() if line.strip()) <= 15


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(((?!http)[^)]+)\)", README))))
def test_link(target: str) -> None:
    assert (ROOT / target).exists()


def test_tables_are_those_of_the_results() -> None:
    spec = importlib.util.spec_from_file_location("doc_tables", ROOT / "benchmarks" / "doc_tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for page in tables.PAGES:
        assert tables.render(page) == (ROOT / page).read_text(encoding="utf-8"), "run: python benchmarks/doc_tables.py"
