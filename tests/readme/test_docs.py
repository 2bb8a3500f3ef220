"""The documentation's Python code runs as it stands, page by page; links lead somewhere.

A block that cannot run here has ``<!-- not run: reason -->`` on the line before it. Blocks with ``<!-- file: name -->``
are files of the plugin that ``tests/plugins/test_third_party.py`` builds.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md"))
#: With what may stand on the line before: a comment.
_BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str]]:
    """Return code blocks of a page that is to run, each with the number of its first line."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = []
    for block in _BLOCK.finditer(text):
        mark = block["mark"] or ""
        if not mark.startswith(("not run: ", "file: ")):
            found.append((text.count("\n", 0, block.start("code")), block["code"]))
    return found


RUNNING = [page for page in PAGES if blocks(page)]


def test_pages_have_examples() -> None:
    """The pattern finds them."""
    assert {"deployment.md", "integer.md", "native.md", "nir.md", "quantisers.md", "synchronous.md"} <= set(RUNNING)
    assert "plugins.md" not in RUNNING


@pytest.mark.parametrize("page", RUNNING)
def test_examples(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page, one after the other: a later one may use what an earlier one made."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "docs"}
    for line, code in blocks(page):
        exec(compile("\n" * line + code, str(DOCS / page), "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_code_parses_and_says_why_it_does_not_run(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert text.count("```python") == len(_BLOCK.findall(text))
    for block in _BLOCK.finditer(text):
        compile(block["code"], page, "exec")
        assert not (block["mark"] or "").startswith("not run") or re.match(r"not run: \S+ \S+", block["mark"])


@pytest.mark.parametrize("page", PAGES)
def test_links(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (DOCS / target).exists(), target
