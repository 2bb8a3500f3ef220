"""Quality, memory, and the score that weighs them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.registry import suggest

__all__ = ["METRICS", "Limits", "Metric", "is_number", "memory_limit", "metric_called", "room_of"]


def is_number(value: object) -> bool:
    """Whether this is a finite number, and not True or False."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Metric:
    """A number that says how good a model is: a monotone function of the mean of its examples' scores.

    Args:
        name: of the metric.
        higher: whether more is better.
        unit: of a drop.
    """

    name: str
    higher: bool
    unit: str

    def of_mean(self, mean: float) -> float:
        """Return the metric of scores with this mean."""
        if self.higher:
            return 100.0 * mean
        return math.exp(mean) if mean < 700.0 else math.inf

    def mean_of(self, value: float) -> float:
        """Return the mean of scores that gives this value: the inverse of :meth:`of_mean`."""
        if self.higher:
            return value / 100.0
        return math.log(value) if value > 0.0 else -math.inf

    def drop(self, baseline: float, value: float) -> float:
        """Return by how much a value is worse than the baseline's."""
        return baseline - value if self.higher else value - baseline

    def worse_by(self, baseline: float, drop: float) -> float:
        """Return the value that is so much worse."""
        return baseline - drop if self.higher else baseline + drop

    def utility(self, value: float, memory_ratio: float, alpha: float) -> float:
        r"""Return the score of equation 1 (2601.00679), signed so that more is better.

        .. math:: A - \alpha M_q / M_0 \qquad\text{or}\qquad -(P + \alpha M_q / M_0)

        Example:
            >>> METRICS["accuracy"].utility(84.0, 0.25, 10.0), METRICS["perplexity"].utility(24.0, 0.25, 10.0)
            (81.5, -26.5)
        """
        return (value if self.higher else -value) - alpha * memory_ratio

    def score(self, utility: float) -> float:
        """Return the score as it is published: that of perplexity is to be small."""
        return utility if self.higher else -utility


#: By name.
METRICS = {
    "accuracy": Metric("accuracy", higher=True, unit="points"),
    "perplexity": Metric("perplexity", higher=False, unit="perplexity"),
}


def metric_called(name: str) -> Metric:
    """Return the metric of this name; raises :class:`ConfigError`."""
    if name not in METRICS:
        raise ConfigError(f"metric={name!r}: {suggest(str(name), METRICS)}")
    return METRICS[name]


@dataclass(frozen=True)
class Limits:
    """What a candidate may cost.

    Args:
        drop: of quality; infinite for any.
        memory: bytes; infinite for any.
    """

    drop: float
    memory: float

    @classmethod
    def of(cls, max_drop: float | None, max_memory: float | str | None, as_float: int) -> Limits:
        """Check and build limits.

        Args:
            max_drop: None for any.
            max_memory: None for any, bytes, or text as for :func:`memory_limit`.
            as_float: the memory of float32.

        Raises:
            ConfigError: no limit at all, or one that is no number, or negative.
        """
        if max_drop is None and max_memory is None:
            raise ConfigError("Give max_drop=..., max_memory=..., or both: without a limit there is nothing to search.")
        drop = math.inf
        if max_drop is not None:
            if not is_number(max_drop) or max_drop < 0:
                raise ConfigError(f"max_drop={max_drop!r}: use a number from 0, in points or perplexity.")
            drop = float(max_drop)
        return cls(drop, math.inf if max_memory is None else memory_limit(max_memory, as_float))

    def allow_drop(self, drop: float) -> bool:
        """Whether a drop is within the limit, up to the rounding of its sums."""
        return drop <= self.drop + 1e-9 * max(1.0, self.drop)


_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_AMOUNT = re.compile(r"\s*(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>[A-Za-z]*|%)\s*")


def memory_limit(limit: float | str, as_float: int) -> float:
    """Return bytes.

    Args:
        limit: bytes, or text with a unit: ``"400MB"`` (10^6), ``"16MiB"`` (2^20), ``"12%"`` of ``as_float``.
        as_float: the memory of float32.

    Raises:
        ConfigError: neither.

    Example:
        >>> memory_limit("1.5MB", 0), memory_limit("2KiB", 0), memory_limit("25%", 400), memory_limit(7, 0)
        (1500000.0, 2048.0, 100.0, 7.0)
    """
    value = _amount(limit, "max_memory", "use bytes, or text such as '400MB', '16MiB' or '12%'", as_float)
    if value <= 0:
        raise ConfigError(f"max_memory={limit!r}: use more than no memory.")
    return value


def room_of(size: float | str, field: str) -> float:
    """Return bytes that may be used; 0 for none.

    Args:
        size: bytes, or text with a unit.
        field: for the error.

    Raises:
        ConfigError: neither.

    Example:
        >>> room_of("1GB", "cache"), room_of("0", "reuse")
        (1000000000.0, 0.0)
    """
    remedy = "use bytes, or text such as '1GB' or '512MiB'; 0 for none"
    value = _amount(size, f"search({field}", remedy, None, ")")
    if value < 0:
        raise ConfigError(f"search({field}={size!r}): {remedy}.")
    return value


def _amount(given: float | str, field: str, remedy: str, whole: int | None, end: str = "") -> float:
    """Return bytes of a number or text; percent only of a ``whole``."""
    found = _AMOUNT.fullmatch(given) if isinstance(given, str) else None
    unit = found["unit"].lower() if found else ""
    if found is not None and unit in _UNITS:
        return float(found["number"]) * _UNITS[unit]
    if found is not None and unit == "%" and whole is not None:
        return float(found["number"]) * whole / 100
    if isinstance(given, str) or not is_number(given):
        raise ConfigError(f"{field}={given!r}{end}: {remedy}.")
    return float(given)
