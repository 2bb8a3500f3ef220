"""Candidates that fail one after the other: what they have in common, and what was found until then."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from snn_extreme_quant.errors import SearchError
from snn_extreme_quant.precision_search.levels import FLOAT, level_name
from snn_extreme_quant.precision_search.space import Assignment

__all__ = ["FailedInARowError", "blamed"]


class FailedInARowError(SearchError):
    """Several candidates in a row failed.

    Args:
        keys: of them.
        reason: of the last one.
        level: what all of them have, and no candidate that could be evaluated; None if there is no such level.
    """

    def __init__(self, keys: Sequence[str], reason: str, level: float | None = None) -> None:
        self.keys, self.reason = tuple(keys), reason
        bits = "" if level is None else f", all at {level_name(level)} bit"
        advice = (
            "Mend evaluate(); a log keeps failures, so name another one then."
            if level is None
            else "Leave the level out with levels=[...], with the same log if there is one; or mend evaluate() and name"
            " another log, as this one keeps failures."
        )
        super().__init__(f"{len(keys)} candidates in a row failed{bits}, the last with: {reason}. {advice}")


def blamed(failed: Iterable[Assignment], others: Collection[Assignment]) -> float | None:
    """Return the level that all failed candidates have and no other one has.

    Example:
        >>> blamed([(2.0, 8.0), (8.0, 2.0)], [(8.0, 8.0)]), blamed([(2.0, 8.0), (8.0, 4.0)], [])
        (2.0, 8.0)
        >>> blamed([(2.0, 8.0), (4.0, 8.0)], [(8.0, 8.0)]) is None
        True
    """
    common = set.intersection(*(set(assignment) for assignment in failed)) - {FLOAT}
    common -= {level for assignment in others for level in assignment}
    return min(common, default=None)
