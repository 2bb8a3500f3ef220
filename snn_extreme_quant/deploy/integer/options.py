"""What may be chosen of an integer file; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.fixed_point_defaults import DECAY_BITS, MAX_STEPS

__all__ = ["IntegerOptions", "integer_options"]

#: A decay of 1 in 31 bits.
MOST_DECAY_BITS = 30


@dataclass(frozen=True)
class IntegerOptions:
    """What may be chosen of an integer file.

    Args:
        decay_bits: bits behind the point of a leak, 1 to 30.
        max_steps: time steps for which overflow is excluded where it is not for any number of them.

    Raises:
        ConfigError: a number is out of range.

    Example:
        >>> IntegerOptions(decay_bits=8)
        IntegerOptions(decay_bits=8, max_steps=1024)
    """

    decay_bits: int = DECAY_BITS
    max_steps: int = MAX_STEPS

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if type(self.decay_bits) is not int or not 1 <= self.decay_bits <= MOST_DECAY_BITS:
            raise ConfigError(
                f"IntegerOptions(decay_bits={self.decay_bits!r}): use a number from 1 to {MOST_DECAY_BITS}."
            )
        if type(self.max_steps) is not int or self.max_steps < 1:
            raise ConfigError(f"IntegerOptions(max_steps={self.max_steps!r}): use a whole number from 1 on.")


def integer_options(integer: object) -> IntegerOptions | None:
    """Return what ``export_onnx(integer=...)`` asks for; None for a file in float.

    Raises:
        ConfigError: it is neither a truth value nor options.
    """
    if isinstance(integer, IntegerOptions):
        return integer
    if not isinstance(integer, bool):
        raise ConfigError(f"export_onnx(integer={integer!r}): use True, False or sxq.deploy.IntegerOptions(...).")
    return IntegerOptions() if integer else None
