"""Writes the tables of README and docs from the results; a test checks that they fit.

Usage: python benchmarks/doc_tables.py. The tables of each page are in a module of `doc_pages`.
"""

from __future__ import annotations

from pathlib import Path

from doc_pages import PAGES
from record import parser

ROOT = Path(__file__).parents[1]


def render(page: str) -> str:
    """Return a page's text with the tables put between their markers."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, table in PAGES[page].items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        after = rest.partition(end)[2] if end in rest else rest
        text = f"{before}{start}\n{table()}\n{end}{after}"
    return text


if __name__ == "__main__":
    parser(__doc__).parse_args()
    for page in PAGES:
        (ROOT / page).write_text(render(page), encoding="utf-8")
