"""What is taken for a fixed-point form unless something else is asked for; needs no torch."""

from __future__ import annotations

__all__ = ["DECAY_BITS", "MAX_STEPS"]

#: Bits behind the point of a leak.
DECAY_BITS = 15
#: Time steps for which overflow is excluded where a proof for any number of them would cost precision.
MAX_STEPS = 1024
