r"""Weight codes as bytes.

Codes are a matrix of shape ``(K, N)``: K inputs of a dot product, N outputs. They are packed along N, the first code
in the lowest digit of the byte, and the last byte of a row is filled up with digits 0.

==============  ==============  ============================  =====================================
layout          codes           digits                        bytes from codes :math:`c_0, c_1, ...`
==============  ==============  ============================  =====================================
``binary8``     -1, +1          8 of base 2, digit (c+1)/2    :math:`\sum_i 2^i (c_i + 1) / 2`
``ternary4``    -1..1           4 of base 4, digit c+1        :math:`\sum_i 4^i (c_i + 1)`
``ternary5``    -1..1           5 of base 3, digit c+1        :math:`\sum_i 3^i (c_i + 1)`
``int4``        -7..7           2 of base 16, digit c+7       :math:`\sum_i 16^i (c_i + 7)`
``int8``        -127..127       1, digit c+127                :math:`c + 127`
``int16``       -32767..32767   1 in 2 bytes, digit c+32767   low byte, then high byte of c+32767
==============  ==============  ============================  =====================================

``int3``, ``int5``, ``int6``, ``int7`` and ``int9`` to ``int15``, layouts of b bit, hold codes from -q to q,
:math:`q = 2^{b-1} - 1`, in *sections*. The low b bits of a code in two's complement, d = c mod 2^b, are cut into the
powers of two that b is the sum of, the largest first and lowest: 3 = 2 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1, 10 = 8 + 2,
14 = 8 + 4 + 2. A row is one section after the other, each with a field of s bit for every code of the row: the first
code in the lowest bits of the section's first byte, the last byte filled up with zeros. So a row of N codes takes
:math:`\sum_s \lceil N s / 8 \rceil` bytes, and one table for each s unpacks any byte.

The layouts are frozen: a change would get a new name. :data:`LAYOUT_VERSION` counts the set as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.registry import suggest

__all__ = ["LAYOUTS", "LAYOUT_VERSION", "Layout", "has_spare_codes", "layout_for", "pack", "unpack"]

LAYOUT_VERSION = 2
_BYTE = 8
_MOST_BITS = 16
_MOST_IN_BYTE = 127
#: Codes that are looked at together.
_AT_A_TIME = 2**20


@dataclass(frozen=True)
class Layout:
    """One way to put codes into bytes: ``per_byte`` digits of ``base``; code = digit * ``step`` - ``offset``.

    Layouts with ``sections`` cut a code of ``base`` values, in two's complement, into fields of so many bits, the
    lowest first, instead; another ``wide`` one has a digit in two bytes, low byte first. ``per_byte`` is then 0.
    """

    name: str
    per_byte: int
    base: int
    step: int
    offset: int
    sections: tuple[int, ...] = ()

    @property
    def top(self) -> int:
        """The largest digit that stands for a code."""
        return 2 * self.offset // self.step

    @property
    def largest(self) -> int:
        """The largest code."""
        return self.offset

    @property
    def zero(self) -> int:
        """What added to a code makes it unsigned in bodies: it is 0 or more, with whatever a damaged field holds."""
        return self.base // 2 if self.sections else self.offset

    @property
    def wide(self) -> bool:
        """Whether codes do not fit signed bytes."""
        return self.largest > _MOST_IN_BYTE

    @property
    def bytes_used(self) -> int:
        """How many of the 256 byte values can occur."""
        return min(256, int(self.base**self.per_byte)) if self.per_byte else 256

    def packed_columns(self, columns: int) -> int:
        """Return the bytes that a row of ``columns`` codes takes."""
        if self.sections:
            return sum(self.section_columns(columns))
        return 2 * columns if self.wide else -(-columns // self.per_byte)

    def most_columns(self, stored: int) -> int:
        """Return how many codes fit a row of so many bytes."""
        if self.sections:
            return stored * _BYTE // sum(self.sections)
        return stored // 2 if self.wide else stored * self.per_byte

    def section_columns(self, columns: int) -> tuple[int, ...]:
        """Return the bytes that each section of a row of ``columns`` codes takes.

        Example:
            >>> LAYOUTS["int6"].section_columns(5)
            (3, 2)
        """
        return tuple(-(-columns * bits // _BYTE) for bits in self.sections)

    def fits(self, columns: int) -> bool:
        """Whether ``columns`` codes fill the bytes of a row, so that nothing is left to cut off."""
        at_once = _BYTE // min(self.sections) if self.sections else self.per_byte
        return at_once > 0 and columns % at_once == 0


def _in_sections(bits: int) -> Layout:
    sections = tuple(size for size in (8, 4, 2, 1) if bits & size)
    return Layout(f"int{bits}", 0, 2**bits, 1, 2 ** (bits - 1) - 1, sections=sections)


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("binary8", 8, 2, 2, 1),
        Layout("ternary4", 4, 4, 1, 1),
        Layout("ternary5", 5, 3, 1, 1),
        Layout("int4", 2, 16, 1, 7),
        Layout("int8", 1, 256, 1, 127),
        Layout("int16", 0, 65536, 1, 32767),
        *(_in_sections(bits) for bits in (3, 5, 6, 7, *range(9, _MOST_BITS))),
    )
}


def layout_for(bits: int) -> str:
    """Return the layout of codes of so many bits, as :attr:`WeightConfig.bits` counts them: of 1 binary, of 2 ternary.

    Raises:
        ConfigError: there is none.

    Example:
        >>> layout_for(1), layout_for(2), layout_for(6)
        ('binary8', 'ternary4', 'int6')
    """
    if type(bits) is not int or not 1 <= bits <= _MOST_BITS:
        raise ConfigError(f"No packing layout holds codes of {bits!r} bit; they have 1 to {_MOST_BITS}.")
    return {1: "binary8", 2: "ternary4"}.get(bits, f"int{bits}")


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise ConfigError(f"No packing layout is called {name!r}. {suggest(name, LAYOUTS)}")
    return LAYOUTS[name]


def pack(codes: npt.ArrayLike, layout: str) -> npt.NDArray[np.uint8]:
    """Pack a matrix of codes.

    Args:
        codes: whole numbers of shape ``(K, N)`` that the layout can hold.
        layout: a key of :data:`LAYOUTS`.

    Returns:
        Bytes of shape ``(K, packed_columns(N))``.

    Raises:
        ConfigError: the layout is unknown, the shape is not a matrix, or a code does not fit the layout.

    Example:
        >>> pack([[-1, 0, 1, 1, 0]], "ternary4").tolist()
        [[164, 1]]
        >>> pack([[-7, 7, 0]], "int4").tolist(), pack([[1]], "int16").tolist()
        ([[224, 7]], [[0, 128]])
        >>> pack([[-3, 1, 2]], "int3").tolist()  # d = 5, 1, 2: low bits 1, 1, 2 and high bits 1, 0, 0
        [[37, 1]]
    """
    kind = _layout(layout)
    codes = np.asarray(codes)
    if codes.ndim != 2:
        raise ConfigError(f"pack() takes a matrix of codes (K, N); got shape {codes.shape}.")
    if not np.isin(codes, np.arange(kind.top + 1) * kind.step - kind.offset).all():
        raise ConfigError(f"Codes {np.unique(codes)[:6].tolist()} do not fit the layout {layout!r}.")
    rows, columns = codes.shape
    if kind.sections:
        values = codes.astype(np.int32) % kind.base
        parts = []
        for bits in kind.sections:
            parts.append(_digits_to_bytes(values % 2**bits, _BYTE // bits, 2**bits))
            values //= 2**bits
        return np.concatenate(parts, 1)
    numbers = (codes.astype(np.int32) + kind.offset) // kind.step
    if kind.wide:
        return np.ascontiguousarray(numbers, "<u2").view(np.uint8).reshape(rows, 2 * columns)
    return _digits_to_bytes(numbers, kind.per_byte, kind.base)


def _digits_to_bytes(numbers: npt.NDArray[np.int32], per_byte: int, base: int) -> npt.NDArray[np.uint8]:
    rows, columns = numbers.shape
    width = -(-columns // per_byte)
    digits = np.zeros((rows, width, per_byte), np.uint8)
    digits.reshape(rows, width * per_byte)[:, :columns] = numbers
    packed = np.zeros((rows, width), np.uint8)
    for place in range(per_byte):  # large tables: no copy of eight bytes a code
        packed += digits[:, :, place] * np.uint8(base**place)
    return packed


def unpack(packed: npt.NDArray[np.uint8], columns: int, layout: str) -> npt.NDArray[np.signedinteger]:
    """Undo :func:`pack`.

    Args:
        packed: bytes as :func:`pack` gives them.
        columns: N, the number of codes in a row.
        layout: a key of :data:`LAYOUTS`.

    Returns:
        Codes of shape ``(K, columns)``, int8 (int16 in layouts of more than 8 bit).

    Raises:
        ConfigError: shape and ``columns`` do not fit, or a byte holds no codes (the data is damaged).

    Example:
        >>> unpack(np.array([[164, 1]], np.uint8), 5, "ternary4").tolist()
        [[-1, 0, 1, 1, 0]]
    """
    kind = _layout(layout)
    packed = np.asarray(packed)
    width = kind.packed_columns(columns)
    fits = columns >= 0 and packed.ndim == 2 and packed.shape[1] == width
    if not fits or packed.dtype != np.uint8:
        raise ConfigError(
            f"unpack() of {columns} columns in layout {layout!r} takes uint8 (K, {width});"
            f" got {packed.dtype} {packed.shape}."
        )
    if kind.sections:
        codes = _from_sections(packed, columns, kind)
        damaged = bool((codes < -kind.offset).any())
    else:
        codes, damaged = _from_digits(packed, columns, kind)
    if damaged:
        raise ConfigError(f"A byte of the packed weights is not of layout {layout!r}: the data is damaged.")
    return codes.astype(np.int16 if kind.wide else np.int8)


def _from_digits(packed: npt.NDArray[np.uint8], columns: int, kind: Layout) -> tuple[npt.NDArray[np.int64], bool]:
    """Return the codes, and whether a byte holds what is none."""
    rows = packed.shape[0]
    if kind.wide:
        digits = np.ascontiguousarray(packed).view("<u2").reshape(rows, columns).astype(np.int64)
        spare = False
    else:
        digits = _digits_of(packed, kind.per_byte, kind.base)
        spare = bool((packed.astype(np.int64) >= kind.bytes_used).any())
    return (digits * kind.step - kind.offset)[:, :columns], spare or bool((digits > kind.top).any())


def _from_sections(packed: npt.NDArray[np.uint8], columns: int, kind: Layout) -> npt.NDArray[np.int64]:
    """Return the codes, among them -base/2 where a field is damaged; what fills a section's last byte is free."""
    values = np.zeros((packed.shape[0], columns), np.int64)
    start, weight = 0, 1
    for bits, width in zip(kind.sections, kind.section_columns(columns), strict=True):
        values += _digits_of(packed[:, start : start + width], _BYTE // bits, 2**bits)[:, :columns] * weight
        start, weight = start + width, weight * 2**bits
    return np.where(values >= kind.base // 2, values - kind.base, values)


def has_spare_codes(packed: npt.NDArray[np.uint8], columns: int, layout: Layout) -> bool:
    """Whether bytes of a layout in sections hold -base/2, the one value that is no code.

    Args:
        packed: bytes ``(K, packed_columns(columns))``.
        columns: codes in a row.
        layout: a layout in sections.

    Example:
        >>> has_spare_codes(np.array([[0b01, 0b0]], np.uint8), 1, LAYOUTS["int3"])
        False
        >>> has_spare_codes(np.array([[0b00, 0b1]], np.uint8), 1, LAYOUTS["int3"])  # two low bits, then the sign
        True
    """
    step = max(1, _AT_A_TIME // max(columns, 1))
    return any(_spare(packed[start : start + step], columns, layout) for start in range(0, len(packed), step))


def _spare(packed: npt.NDArray[np.uint8], columns: int, layout: Layout) -> bool:
    """Look at one section after the other: it is that value where all fields are 0 but the last, its sign alone."""
    found = np.ones((len(packed), columns), bool)
    start = 0
    for i, (bits, width) in enumerate(zip(layout.sections, layout.section_columns(columns), strict=True)):
        last = i == len(layout.sections) - 1
        table = _digits_of(np.arange(256, dtype=np.uint8)[:, None], _BYTE // bits, 2**bits)
        hits = (table == (2 ** (bits - 1) if last else 0))[packed[:, start : start + width]]
        found &= hits.reshape(len(packed), -1)[:, :columns]
        start += width
    return bool(found.any())


def _digits_of(packed: npt.NDArray[np.uint8], per_byte: int, base: int) -> npt.NDArray[np.int64]:
    rows, width = packed.shape
    digits: npt.NDArray[np.int64] = packed[:, :, None].astype(np.int64) // base ** np.arange(per_byte) % base
    return digits.reshape(rows, width * per_byte)
