"""From packed bytes to codes in standard ONNX operators.

Only constants go in, so a runtime does this once when it loads the file. It goes by tables of what each byte holds,
which stand in the body: computing it would be a dozen operators more for every layer, and a runtime takes as long to
load those as to unpack the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.quantizers.packing import LAYOUTS, Layout

__all__ = ["two_bytes_lines", "unpack_lines"]

_BYTE = 8
_COUNT = "count = Shape (scale)"


def unpack_lines(
    layout_name: str,
    source: str = "packed",
    count: str = _COUNT,
    *,
    unsigned: bool = False,
    full: bool = False,
) -> list[str]:
    """From bytes ``(K, bytes)`` to ``codes`` ``(K, N)``, int8 or (of more than 8 bit) int32.

    Args:
        layout_name: packing layout, up to 8 bits if ``unsigned``.
        source: name of the bytes.
        count: a line that gives ``count``, how many of the unpacked columns there are.
        unsigned: give codes plus :attr:`Layout.zero <snn_extreme_quant.quantizers.packing.Layout.zero>` as uint8.
        full: the columns fill their bytes; what only cuts them off is then left out.
    """
    layout = LAYOUTS[layout_name]
    if layout.wide and not layout.sections:
        return [
            f"wide = Cast <to: int = 6> ({source})",
            "in_pairs = Constant <value_ints: ints = [0, -1, 2]> ()",
            "pairs = Reshape (wide, in_pairs)",
            "weights_of = Constant <value: tensor = int32[2] {1, 256}> ()",
            "weighted = Mul (pairs, weights_of)",
            "inner = Constant <value_ints: ints = [2]> ()",
            "digits = ReduceSum <keepdims: int = 0> (weighted, inner)",
            f"zero_digit = Constant <value: tensor = int32 {{{layout.offset}}}> ()",
            "codes = Sub (digits, zero_digit)",
        ]
    if not layout.sections:
        return [
            f"table = Constant <value: tensor = {_table(layout, unsigned=unsigned)}> ()",
            f"index = Cast <to: int = 6> ({source})",
            "groups = Gather <axis: int = 0> (table, index)",
            "rows_columns = Constant <value_ints: ints = [0, -1]> ()",
            *(["codes = Reshape (groups, rows_columns)"] if full else _cut(count)),
        ]
    if not layout.wide:
        return _sections(layout, source, count, into="codes", unsigned=unsigned, full=full)
    return [
        *_sections(layout, source, count, into="high", unsigned=False, full=full),
        "low_i = Cast <to: int = 6> (part_0)",
        "high_i = Cast <to: int = 6> (high)",
        "place_i = Constant <value: tensor = int32 {256}> ()",
        "high_placed = Mul (high_i, place_i)",
        "codes = Add (low_i, high_placed)",
    ]


def two_bytes_lines(layout_name: str, source: str, count: str) -> tuple[list[str], int, int]:
    """From bytes of a layout of more than 8 bit to ``low`` and ``high`` ``(K, N)``, uint8.

    Returns:
        The lines, and the zero points of both: code = (low - zero) + 256 (high - zero).
    """
    layout = LAYOUTS[layout_name]
    if not layout.sections:
        lines = [
            count,
            "in_pairs = Constant <value_ints: ints = [0, -1, 2]> ()",
            f"pairs = Reshape ({source}, in_pairs)",
            "low_at = Constant <value: tensor = int64 {0}> ()",
            "high_at = Constant <value: tensor = int64 {1}> ()",
            "low = Gather <axis: int = 2> (pairs, low_at)",
            "high = Gather <axis: int = 2> (pairs, high_at)",
        ]
        return lines, 255, 127  # low + 256 high - 32767 = (low - 255) + 256 (high - 127)
    lines = _sections(layout, source, count, into="high", unsigned=True, full=False)
    return [*lines, "low = Identity (part_0)"], 0, layout.zero // 256


def _cut(count: str) -> list[str]:
    """Take off what fills the last byte of a row."""
    return [
        "padded = Reshape (groups, rows_columns)",
        "origin = Constant <value_ints: ints = [0]> ()",
        "behind = Constant <value_ints: ints = [1]> ()",
        count,
        "codes = Slice (padded, origin, count, behind)",
    ]


def _sections(layout: Layout, source: str, count: str, *, into: str, unsigned: bool, full: bool) -> list[str]:
    """Cut rows into their sections, ``part_0`` first, and join the fields of all below 8 bit, each in its place."""
    sizes = ", ".join(map(str, layout.sections))
    parts = ", ".join(f"part_{i}" for i in range(len(layout.sections)))
    lines = [
        count,
        f"field_bits = Constant <value_ints: ints = [{sizes}]> ()",
        "row_bits = Mul (count, field_bits)",
        "bits_more = Constant <value_ints: ints = [7]> ()",
        "bits_filled = Add (row_bits, bits_more)",
        "bits_of_byte = Constant <value_ints: ints = [8]> ()",
        "section_sizes = Div (bits_filled, bits_of_byte)",
        f"{parts} = Split <axis: int = 1> ({source}, section_sizes)",
        "rows_columns = Constant <value_ints: ints = [0, -1]> ()",
    ]
    if not full:
        lines += [
            "origin = Constant <value_ints: ints = [0]> ()",
            "behind = Constant <value_ints: ints = [1]> ()",
        ]
    fields, place = [], 0
    for i, bits in enumerate(layout.sections):
        if bits == _BYTE:
            continue
        lines += [
            f"table_{i} = Constant <value: tensor = {_fields(layout, i, place, unsigned=unsigned)}> ()",
            f"index_{i} = Cast <to: int = 6> (part_{i})",
            f"groups_{i} = Gather <axis: int = 0> (table_{i}, index_{i})",
        ]
        if full:
            lines.append(f"field_{i} = Reshape (groups_{i}, rows_columns)")
        else:
            lines += [
                f"padded_{i} = Reshape (groups_{i}, rows_columns)",
                f"field_{i} = Slice (padded_{i}, origin, count, behind)",
            ]
        fields.append(f"field_{i}")
        place += bits
    for i, field in enumerate(fields[1:], 1):  # fields lie beside each other: no bit is in two of them
        fields[i] = f"joined_{i}"
        lines.append(f"joined_{i} = BitwiseOr ({fields[i - 1]}, {field})")
    return [*lines, f"{into} = Identity ({fields[-1]})"]


def _table(layout: Layout, *, unsigned: bool) -> str:
    """The codes of every byte value, one row a byte; of values that hold none whatever fits 8 bits."""
    values = np.arange(256)[:, None] // layout.base ** np.arange(layout.per_byte) % layout.base * layout.step
    return _bytes_text(values if unsigned else values - layout.offset, unsigned=unsigned)


def _fields(layout: Layout, section: int, place: int, *, unsigned: bool) -> str:
    """The fields of every byte value in a section, in their place in a code; the last section has the sign."""
    bits = layout.sections[section]
    values = np.arange(256)[:, None] >> bits * np.arange(_BYTE // bits) & 2**bits - 1
    if section == len(layout.sections) - 1:
        half = 2 ** (bits - 1)
        values = (values + half) % 2**bits if unsigned else (values + half) % 2**bits - half
    return _bytes_text(values << place, unsigned=unsigned)


def _bytes_text(rows: npt.NDArray[Any], *, unsigned: bool) -> str:
    kind = np.dtype(np.uint8 if unsigned else np.int8)
    numbers = ", ".join(map(str, rows.astype(kind).ravel()))
    return f"{kind}[256, {rows.shape[1]}] {{{numbers}}}"
