"""Levels: numbers of bits, and the precision that each stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from snn_extreme_quant.config import Binary, Ternary, Uniform, WeightConfig
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.precision_search.metrics import is_number

__all__ = ["FLOAT", "LEVELS", "level_configs", "level_name"]

#: The level of a matrix that is left in float.
FLOAT = 32.0
#: Bits of QSLM's list as far as it can be told, and ours below (2601.00679).
LEVELS = (16, 12, 10, 8, 6, 5, 4, 3, 2, 1.58, 1)
#: Where a largest weight far from the others would cost codes.
_FINE = 4


def _default(level: float) -> WeightConfig | None:
    if level == 1:
        return Binary()
    if level == 1.58:
        return Ternary(scale="mse")
    if level == int(level) and 2 <= level <= 16:
        return Uniform(int(level), scale="mse" if level <= _FINE else "max")
    return None


def level_configs(
    levels: Iterable[float] = LEVELS, configs: Mapping[float, WeightConfig] | None = None
) -> dict[float, WeightConfig]:
    """Return the precision of each level, the most bits first.

    Args:
        levels: numbers of bits.
        configs: precisions of levels that are others than the defaults, or of more levels.

    Raises:
        ConfigError: a level without a precision, or one that is there twice.

    Example:
        >>> level_configs([1, 5])
        {5.0: Uniform(bits=5, per='channel'), 1.0: Binary(per='channel')}
    """
    own = dict(configs or {})
    for level, given_config in own.items():
        if not is_number(level) or not isinstance(given_config, WeightConfig):
            raise ConfigError(f"configs maps numbers of bits to precisions; got {level!r}: {given_config!r}.")
    given = list(levels)
    if not given:
        raise ConfigError("levels is empty; give numbers of bits, such as [8, 4, 1.58].")
    found: dict[float, WeightConfig] = {}
    for level in given:
        if not is_number(level) or not 0 < level < FLOAT:
            raise ConfigError(f"Level {level!r}: use a number of bits from above 0 to below 32.")
        config = own.get(level) or _default(level)
        if config is None:
            known = ", ".join(level_name(known) for known in LEVELS)
            raise ConfigError(
                f"Level {level_name(level)} stands for no precision: use whole bits from 2 to 16, 1.58 or 1 ({known}),"
                f" or say what it is with configs={{{level_name(level)}: ...}}."
            )
        if float(level) in found:
            raise ConfigError(f"Level {level_name(level)} is there twice.")
        found[float(level)] = config
    return dict(sorted(found.items(), reverse=True))


def level_name(level: float) -> str:
    """Return a level as text: ``"4"``, ``"1.58"``, ``"float"``."""
    return "float" if level == FLOAT else f"{level:g}"
