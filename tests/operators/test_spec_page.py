"""docs/operators.md says what the code does: bytes, inputs and attributes, parts of names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from snn_extreme_quant.deploy.lowering.functions import function_body
from snn_extreme_quant.deploy.lowering.layer_functions import layer_operators
from snn_extreme_quant.exported.operators import KINDS, layout_of
from snn_extreme_quant.neurons.spec import Charge, Feedback, Fire, Reset, Timing
from snn_extreme_quant.quantizers.packing import LAYOUTS, pack

PAGE = (Path(__file__).parents[2] / "docs" / "operators.md").read_text(encoding="utf-8")


def table(first: str, section: str = "") -> list[list[str]]:
    """The rows of the table whose head begins with ``first``, on the page or in one of its sections."""
    lines = PAGE.partition(f"\n{section}\n")[2].partition("\n#")[0].splitlines() if section else PAGE.splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith(f"| {first} "))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def numbers(text: str) -> list[int]:
    """All numbers in a cell; of a sum its result."""
    return [int(n) for part in text.split(",") for n in re.findall(r"-?\d+", part.rpartition("=")[2])]


def test_worked_bytes() -> None:
    rows = table("layout | codes of a row | digits | bytes")
    assert [row[0].strip("`") for row in rows] == [name for name, layout in LAYOUTS.items() if not layout.sections]
    for name, codes, digits, packed in rows:
        layout = LAYOUTS[name.strip("`")]
        assert numbers(digits) == [(code + layout.offset) // layout.step for code in numbers(codes)]
        assert pack([numbers(codes)], layout.name)[0].tolist() == numbers(packed)
        for total in re.findall(r"([\d+*]+) = (\d+)", packed):
            assert eval(total[0]) == int(total[1])


def test_worked_bytes_of_sections() -> None:
    rows = table("layout | codes of a row | digits | fields,")
    assert len(rows) == 7
    for name, *cells in rows:
        layout = LAYOUTS[name.strip("`")]
        codes, digits, fields, packed = ([[int(n) for n in part.split()] for part in c.split(";")] for c in cells)
        assert digits == [[code % layout.base for code in codes[0]]]
        places = np.cumsum([0, *layout.sections[:-1]])
        cut = zip(places, layout.sections, strict=True)
        assert fields == [[digit >> place & 2**bits - 1 for digit in digits[0]] for place, bits in cut]
        assert [len(part) for part in packed] == list(layout.section_columns(len(codes[0])))
        assert pack(codes, layout.name).tolist() == [[byte for part in packed for byte in part]]


def test_packings_and_their_names() -> None:
    rows = {row[1].strip("`"): row for row in table("operator | layout")}
    assert {layout: row[0].strip("`").rstrip(".") for layout, row in rows.items()} == KINDS
    for name, row in rows.items():
        layout = LAYOUTS[name]
        assert numbers(row[2].replace(" to ", ","))[-1] == layout.largest
        if layout.sections:
            assert row[3:] == ["in sections", f"code mod 2^{name[3:]}", f"{' + '.join(map(str, layout.sections))} bit"]
        else:
            assert row[3] == ("1/2" if layout.wide else str(layout.per_byte))


@pytest.mark.parametrize("operator", layer_operators())
def test_inputs_and_attributes_of_layers(operator: str) -> None:
    body = function_body(operator)
    rows = {row[0].strip("`").removeprefix("<packing>"): row for row in table("operator | inputs", "### Layers")}
    _, inputs, attributes, _ = rows[operator.removeprefix(KINDS[layout_of(operator)])]
    wanted = set(re.findall(r"`(\w+)`", attributes))
    if "those of `Conv`" in attributes:
        wanted |= set(re.findall(r"`(\w+)`", rows["Conv"][2]))
        wanted.discard("Conv")
    assert set(body.attribute) == wanted
    assert list(body.input) == (re.findall(r"`(\w+)`", inputs) or ["x", "packed", "scale"])


@pytest.mark.parametrize(
    ("part", "choices"), [("charge", Charge), ("reset", Reset), ("timing", Timing), ("fire", Fire)]
)
def test_parts_of_neurons(part: str, choices: object) -> None:
    (row,) = (row for row in table("part | values") if row[0] == part)
    said = set(re.findall(r"`(\w+)`", row[1]))
    assert said == set(get_args(choices)) - {"spike"}


def test_every_charge_fire_and_feedback_has_its_equation() -> None:
    assert [row[0].strip("`") for row in table("charge | h")] == list(get_args(Charge))
    assert [row[0].strip("`").replace("nothing", "spike") for row in table("fire | s")] == list(get_args(Fire))
    (row,) = (row for row in table("part | values") if row[0] == "feedback")
    assert set(re.findall(r"`(\w+)`", row[1])) == set(get_args(Feedback)) - {"none"}
