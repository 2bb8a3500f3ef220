"""The numbers of the exponential that language models use, in torch, in the bodies of files and in kernels.

It is a polynomial of single float32 operations: a library's exponential differs between machines, and between ends of
an array.
"""

from __future__ import annotations

import math

__all__ = ["LEAST_EXPONENT", "LN2_PARTS", "LOG2E", "MOST_EXPONENT", "MOST_KEY", "SERIES"]

LOG2E = 1.44269504088896340736
#: ln 2 in two parts; whole numbers up to 2^8 times the first one are exact.
LN2_PARTS = (0.693359375, -2.12194440e-4)
#: (e^r - 1 - r) / r^2 for |r| up to ln(2)/2: Taylor's series, the error of which is below 2^-26.
SERIES = tuple(1.0 / math.factorial(n) for n in range(7, 1, -1))
LEAST_EXPONENT, MOST_EXPONENT = -87.0, 88.0
#: Keys of a weighted average are clipped to it, on either side.
MOST_KEY = 60.0
