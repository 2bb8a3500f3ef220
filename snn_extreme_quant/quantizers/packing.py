r"""Weight codes as bytes.

Codes are a matrix of shape ``(K, N)``: K inputs of a dot product, N outputs. They are packed along N, the first code
in the lowest digit of the byte, and the last byte of a row is filled up with the code of digit 0.

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

The layouts are frozen: a change would get a new name. :data:`LAYOUT_VERSION` counts the set as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.registry import suggest

__all__ = ["LAYOUTS", "LAYOUT_VERSION", "Layout", "pack", "unpack"]

LAYOUT_VERSION = 1


@dataclass(frozen=True)
class Layout:
    """One way to put codes into bytes: ``per_byte`` digits of ``base``; code = digit * ``step`` - ``offset``.

    ``wide`` layouts have one digit in two bytes, low byte first, instead.
    """

    name: str
    per_byte: int
    base: int
    step: int
    offset: int
    wide: bool = False

    @property
    def top(self) -> int:
        """The largest digit that stands for a code."""
        return 2 * self.offset // self.step

    @property
    def largest(self) -> int:
        """The largest code."""
        return self.offset

    @property
    def bytes_used(self) -> int:
        """How many of the 256 byte values can occur."""
        return 256 if self.wide else min(256, int(self.base**self.per_byte))

    def packed_columns(self, columns: int) -> int:
        """Return the bytes that a row of ``columns`` codes takes."""
        return 2 * columns if self.wide else -(-columns // self.per_byte)


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("binary8", 8, 2, 2, 1),
        Layout("ternary4", 4, 4, 1, 1),
        Layout("ternary5", 5, 3, 1, 1),
        Layout("int4", 2, 16, 1, 7),
        Layout("int8", 1, 256, 1, 127),
        Layout("int16", 1, 65536, 1, 32767, wide=True),
    )
}


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
        Bytes of shape ``(K, ceil(N / per_byte))``; ``(K, 2 N)`` in layout ``int16``.

    Raises:
        ConfigError: the layout is unknown, the shape is not a matrix, or a code does not fit the layout.

    Example:
        >>> pack([[-1, 0, 1, 1, 0]], "ternary4").tolist()
        [[164, 1]]
        >>> pack([[-7, 7, 0]], "int4").tolist(), pack([[1]], "int16").tolist()
        ([[224, 7]], [[0, 128]])
    """
    kind = _layout(layout)
    codes = np.asarray(codes)
    if codes.ndim != 2:
        raise ConfigError(f"pack() takes a matrix of codes (K, N); got shape {codes.shape}.")
    if not np.isin(codes, np.arange(kind.top + 1) * kind.step - kind.offset).all():
        raise ConfigError(f"Codes {np.unique(codes)[:6].tolist()} do not fit the layout {layout!r}.")
    rows, columns = codes.shape
    numbers = (codes.astype(np.int64) + kind.offset) // kind.step
    if kind.wide:
        return np.ascontiguousarray(numbers, "<u2").view(np.uint8).reshape(rows, 2 * columns)
    width = kind.packed_columns(columns)
    digits = np.zeros((rows, width, kind.per_byte), np.int64)
    digits.reshape(rows, width * kind.per_byte)[:, :columns] = numbers
    places = kind.base ** np.arange(kind.per_byte)
    packed: npt.NDArray[np.uint8] = (digits * places).sum(-1).astype(np.uint8)
    return packed


def unpack(packed: npt.NDArray[np.uint8], columns: int, layout: str) -> npt.NDArray[np.signedinteger]:
    """Undo :func:`pack`.

    Args:
        packed: bytes as :func:`pack` gives them.
        columns: N, the number of codes in a row.
        layout: a key of :data:`LAYOUTS`.

    Returns:
        Codes of shape ``(K, columns)``, int8 (int16 in layout ``int16``).

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
    rows = packed.shape[0]
    if kind.wide:
        digits = np.ascontiguousarray(packed).view("<u2").reshape(rows, columns).astype(np.int64)
        spare = False
    else:
        places = kind.base ** np.arange(kind.per_byte)
        digits = ((packed[:, :, None].astype(np.int64) // places) % kind.base).reshape(rows, width * kind.per_byte)
        spare = bool((packed.astype(np.int64) >= kind.bytes_used).any())
    if spare or (digits > kind.top).any():
        raise ConfigError(f"A byte of the packed weights is not of layout {layout!r}: the data is damaged.")
    codes = (digits * kind.step - kind.offset)[:, :columns]
    return codes.astype(np.int16 if kind.wide else np.int8)
