r"""Weight codes as bytes.

Codes are a matrix of shape ``(K, N)``: K inputs of a dot product, N outputs. They are packed along N, the first code
in the lowest digit of the byte, and the last byte of a row is filled up with the code of digit 0.

==============  ======  ============================  =====================================
layout          codes   digits of a byte              byte from codes :math:`c_0, c_1, ...`
==============  ======  ============================  =====================================
``binary8``     -1, +1  8 of base 2, digit (c+1)/2    :math:`\sum_i 2^i (c_i + 1) / 2`
``ternary4``    -1..1   4 of base 4, digit c+1        :math:`\sum_i 4^i (c_i + 1)`
``ternary5``    -1..1   5 of base 3, digit c+1        :math:`\sum_i 3^i (c_i + 1)`
==============  ======  ============================  =====================================

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
    """One way to put codes into a byte: ``per_byte`` digits of ``base``; code = digit * ``step`` - 1."""

    name: str
    per_byte: int
    base: int
    step: int

    @property
    def top(self) -> int:
        """The largest digit that stands for a code."""
        return 2 // self.step

    @property
    def bytes_used(self) -> int:
        """How many of the 256 byte values can occur."""
        return int(self.base**self.per_byte)


LAYOUTS = {
    layout.name: layout
    for layout in (Layout("binary8", 8, 2, 2), Layout("ternary4", 4, 4, 1), Layout("ternary5", 5, 3, 1))
}


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise ConfigError(f"No packing layout is called {name!r}. {suggest(name, LAYOUTS)}")
    return LAYOUTS[name]


def pack(codes: npt.ArrayLike, layout: str) -> npt.NDArray[np.uint8]:
    """Pack a matrix of codes.

    Args:
        codes: integers of shape ``(K, N)`` that the layout can hold.
        layout: a key of :data:`LAYOUTS`.

    Returns:
        Bytes of shape ``(K, ceil(N / per_byte))``.

    Raises:
        ConfigError: the layout is unknown, the shape is not a matrix, or a code does not fit the layout.

    Example:
        >>> pack([[-1, 0, 1, 1, 0]], "ternary4").tolist()
        [[164, 1]]
    """
    kind = _layout(layout)
    codes = np.asarray(codes)
    if codes.ndim != 2:
        raise ConfigError(f"pack() takes a matrix of codes (K, N); got shape {codes.shape}.")
    if not np.isin(codes, np.arange(kind.top + 1) * kind.step - 1).all():
        raise ConfigError(f"Codes {np.unique(codes)[:6].tolist()} do not fit the layout {layout!r}.")
    rows, columns = codes.shape
    digits = np.zeros((rows, -(-columns // kind.per_byte), kind.per_byte), np.int64)
    digits.reshape(rows, digits.shape[1] * kind.per_byte)[:, :columns] = (codes.astype(np.int64) + 1) // kind.step
    places = kind.base ** np.arange(kind.per_byte)
    packed: npt.NDArray[np.uint8] = (digits * places).sum(-1).astype(np.uint8)
    return packed


def unpack(packed: npt.NDArray[np.uint8], columns: int, layout: str) -> npt.NDArray[np.int8]:
    """Undo :func:`pack`.

    Args:
        packed: bytes of shape ``(K, ceil(columns / per_byte))``.
        columns: N, the number of codes in a row.
        layout: a key of :data:`LAYOUTS`.

    Returns:
        Codes of shape ``(K, columns)``.

    Raises:
        ConfigError: shape and ``columns`` do not fit, or a byte holds no codes (the data is damaged).

    Example:
        >>> unpack(np.array([[164, 1]], np.uint8), 5, "ternary4").tolist()
        [[-1, 0, 1, 1, 0]]
    """
    kind = _layout(layout)
    packed = np.asarray(packed)
    fits = columns >= 0 and packed.ndim == 2 and packed.shape[1] == -(-columns // kind.per_byte)
    if not fits or packed.dtype != np.uint8:
        raise ConfigError(
            f"unpack() of {columns} columns in layout {layout!r} takes uint8 (K, {-(-columns // kind.per_byte)});"
            f" got {packed.dtype} {packed.shape}."
        )
    places = kind.base ** np.arange(kind.per_byte)
    digits = (packed[:, :, None].astype(np.int64) // places) % kind.base
    if (digits > kind.top).any() or (packed >= kind.bytes_used).any():
        raise ConfigError(f"A byte of the packed weights is not of layout {layout!r}: the data is damaged.")
    codes = (digits * kind.step - 1).reshape(packed.shape[0], packed.shape[1] * kind.per_byte)
    return codes[:, :columns].astype(np.int8)
