"""The numbers of SpikeGPT's integer profile, which models compute with and files hold."""

from __future__ import annotations

from functools import cache

from snn_extreme_quant.exported.shift_tables import NORM_BITS

__all__ = [
    "AVERAGE_FRACTION", "CURRENT_FRACTION", "DECAY_BITS", "GATE_BITS", "GATE_OCTAVES", "KEY_FRACTION", "KEY_LIMIT",
    "KEY_OCTAVES", "LEAK_BITS", "LOGIT_FRACTION", "MOST_CURRENT", "MOST_DECAY", "MOST_INPUT", "MOST_NORM",
    "MOST_VALUE", "NORM_MANTISSA", "NORM_OUT", "NORM_PLACES", "OCTAVE_BITS", "POWER_BITS", "RAISED_SHIFT",
    "SHARE_BITS", "SHARE_LIMIT", "SQUARED_FRACTION", "power_table",
]  # fmt: skip

#: Exponents of 2 are multiples of 2^-8; a power's fraction is looked up as a number of 15 bits.
OCTAVE_BITS, POWER_BITS = 8, 14
#: Exponents of keys are below 2^15 on either side, and powers of them multiples of 2^-18.
KEY_OCTAVES, KEY_FRACTION = 15, 18
KEY_LIMIT = (KEY_OCTAVES << OCTAVE_BITS) - 1
#: By how many places the looked-up power, raised by all octaves, is too long.
RAISED_SHIFT = POWER_BITS + KEY_OCTAVES - KEY_FRACTION
#: Decays are multiples of 2^-16, at most 1 - 2^-13.
DECAY_BITS, MOST_DECAY = 16, 2**16 - 8
#: Gates are multiples of 2^-15; what they are made of is below 16 octaves on either side.
GATE_BITS, GATE_OCTAVES = 15, 16
#: Values of a weighted average, and the average: multiples of 2^-10 in 16 bits.
AVERAGE_FRACTION, MOST_VALUE = 10, 2**15 - 1
#: What a product reads fits 16 bits.
MOST_INPUT = 2**15 - 1
#: Bits of the mantissa of a norm's factor behind the leading one, and by how many places whole factors are longer.
NORM_MANTISSA = 4
NORM_PLACES = NORM_BITS - 2 + NORM_MANTISSA
#: What norms give: multiples of 2^-12 below 2^7; shares of this token and the one before: of 2^-14, up to 4.
NORM_OUT, MOST_NORM = 12, 2**19 - 1
SHARE_BITS, SHARE_LIMIT = 14, 2**16
#: What is squared: multiples of 2^-10 in 16 bits.
SQUARED_FRACTION = 10
#: Currents and potentials: multiples of 2^-14; currents below 2^8. A leak has 15 bits.
CURRENT_FRACTION, MOST_CURRENT, LEAK_BITS = 14, 2**22 - 1, 15
LOGIT_FRACTION = 12


@cache
def power_table() -> tuple[int, ...]:
    r"""Return :math:`\mathrm{round}(2^{14 + i/256})` for i from 0 to 255.

    Example:
        >>> power_table()[0], power_table()[128], len(power_table())
        (16384, 23170, 256)
    """
    steps = 1 << OCTAVE_BITS
    return tuple(round(2.0 ** (POWER_BITS + i / steps)) for i in range(steps))
