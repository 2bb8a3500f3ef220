"""What measuring a candidate on a round of examples gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.config import WeightConfig

__all__ = ["BASELINE", "WITNESS", "How", "Outcome", "Precisions", "ReuseRefutedError", "Reused"]

Numbers = npt.NDArray[np.float64]
Precisions = Mapping[str, WeightConfig]
#: What is measured: scores, with activations given back where that changes nothing; scores of a full pass; the
#: evaluator's witness of the model as it was given.
How = Literal["scores", "full", "witness"]
#: The key of the model as it was given.
BASELINE = "baseline"
#: The key of what its evaluator bears witness of.
WITNESS = "witness"


@dataclass(frozen=True)
class Outcome:
    """What one round gave.

    Args:
        scores: of its examples; None if it failed.
        reason: why it failed.
        seconds: how long it took.
        reused: whether activations that were kept had a part in it.
        refuted: what shows that activations were given back which should not have been; "" if nothing does.
    """

    scores: Numbers | None
    reason: str = ""
    seconds: float = 0.0
    reused: bool = False
    refuted: str = ""


class ReuseRefutedError(Exception):
    """Activations were given back which should not have been: what rests on them is worth nothing.

    Args:
        why: what shows it.
        measured: examples that were evaluated in vain.
        seconds: how long that took.
    """

    def __init__(self, why: str, measured: int, seconds: float) -> None:
        super().__init__(why)
        self.why, self.measured, self.seconds = why, measured, seconds


class Reused(NamedTuple):
    """What was saved by activations that were kept.

    Args:
        given: calls of modules that were given back.
        computed: those that were not, of the same modules.
        why_not: why none could be; "" if some could, or none was wanted.
    """

    given: int = 0
    computed: int = 0
    why_not: str = ""
