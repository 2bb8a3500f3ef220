"""Packing layouts as parameters of tests: many differ by numbers alone and wait for the slow tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from snn_extreme_quant.exported.operators import layout_of
from snn_extreme_quant.quantizers.packing import LAYOUTS

__all__ = ["each_layout", "each_operator"]

#: Of two, of three, and of a whole byte with another section.
_QUICK = ("int3", "int7", "int12")


def _marked(values: Iterable[str], layout: Callable[[str], str]) -> list[Any]:
    slow = {name for name, kind in LAYOUTS.items() if kind.sections and name not in _QUICK}
    return [pytest.param(value, marks=pytest.mark.slow) if layout(value) in slow else value for value in values]


def each_layout(layouts: Iterable[str]) -> list[Any]:
    """The layouts, many of them only where slow tests run."""
    return _marked(layouts, str)


def each_operator(operators: Iterable[str]) -> list[Any]:
    """The same for operators that are called after their layouts."""
    return _marked(operators, layout_of)
