"""Scores of candidates, round by round: measured, kept, logged."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from snn_extreme_quant.config import WeightConfig
from snn_extreme_quant.errors import SearchError
from snn_extreme_quant.precision_search.evaluators import Evaluator
from snn_extreme_quant.precision_search.fingerprints import Watch
from snn_extreme_quant.precision_search.reuse import Reuse
from snn_extreme_quant.precision_search.search_log import SearchLog
from snn_extreme_quant.precision_search.working_model import WorkingModel

__all__ = ["BASELINE", "LocalWorker", "Measurements", "Outcome", "Precisions", "Reused", "Rounds", "Worker"]

Numbers = npt.NDArray[np.float64]
Precisions = Mapping[str, WeightConfig]
#: The key of the model as it was given.
BASELINE = "baseline"
_ROUNDS, _FEWEST = 16, 8


class Rounds:
    """The examples in one random order, cut into rounds.

    Args:
        examples: how many.
        seed: of the order.

    Example:
        >>> rounds = Rounds(100, 0)
        >>> len(rounds), len(rounds.rows(0)), int(max(np.concatenate([rounds.rows(i) for i in range(len(rounds))])))
        (13, 8, 99)
    """

    def __init__(self, examples: int, seed: int) -> None:
        """Draw the order."""
        self.order = np.random.default_rng(seed).permutation(examples).astype(np.int64)
        self.size = max(_FEWEST, math.ceil(examples / _ROUNDS))

    def __len__(self) -> int:
        """Return how many rounds there are."""
        return math.ceil(len(self.order) / self.size)

    def rows(self, number: int) -> npt.NDArray[np.int64]:
        """Return the examples of a round."""
        return self.order[number * self.size : (number + 1) * self.size]


@dataclass(frozen=True)
class Outcome:
    """What one round gave.

    Args:
        scores: of its examples; None if it failed.
        reason: why it failed.
        seconds: how long it took.
    """

    scores: Numbers | None
    reason: str = ""
    seconds: float = 0.0


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


class Worker(Protocol):
    """What evaluates rounds."""

    def measure(self, precisions: Precisions | None, number: int) -> Outcome:
        """Evaluate a candidate (None: the model as it was given) on a round."""

    def reused(self) -> Reused:
        """Return what was saved by activations that were kept."""


class LocalWorker:
    """Evaluates in this process.

    Args:
        model: whose matrices are swapped.
        evaluator: what measures it.
        rounds: of the examples.
        blocks: of the model, whose activations are kept.
        room: bytes of activations that are kept; 0 for none.
    """

    def __init__(
        self, model: WorkingModel, evaluator: Evaluator, rounds: Rounds, blocks: Iterable[str] = (), room: float = 0
    ) -> None:
        """Remember the model's tensors."""
        self.model, self.evaluator, self.rounds = model, evaluator, rounds
        self.reuse = Reuse(model, blocks, room, len(rounds)) if room else None
        self._watch = Watch(model.tensors())
        self._now: object = self

    def measure(self, precisions: Precisions | None, number: int) -> Outcome:
        """Evaluate a round; what the evaluation raises is its outcome."""
        started = time.perf_counter()
        if self.reuse is not None and precisions is not None and not self.reuse.proved:
            self._now = self
            self.reuse.prove(self._scores)
        proved = time.perf_counter() - started
        if precisions != self._now:
            self._watch.check(closely=True)
            self._now = self  # should what follows fail
            if precisions is None:
                self.model.give_original()
            else:
                self.model.give(precisions)
            self._now = precisions
        rows = self.rounds.rows(number)
        started = time.perf_counter() - proved
        try:
            scores = self._measured(precisions, number)
        except Exception as error:
            self._watch.check(closely=True)
            return Outcome(None, f"{type(error).__name__}: {error}", time.perf_counter() - started)
        self._watch.check(closely=False)
        seconds = time.perf_counter() - started
        if scores.shape != (len(rows),):
            return Outcome(None, f"the scores of {len(rows)} examples have the shape {scores.shape}", seconds)
        wrong = ~np.isfinite(scores)
        if wrong.any():
            return Outcome(None, f"example {int(rows[wrong][0])} gave {scores[wrong][0]}", seconds)
        return Outcome(scores, "", seconds)

    def _measured(self, precisions: Precisions | None, number: int) -> Numbers:
        if self.reuse is None:
            return self._scores(number)
        return self.reuse.scores(lambda: self._scores(number), precisions, number)

    def _scores(self, number: int) -> Numbers:
        """Evaluate the model as it is."""
        self.model.model.eval()
        self.model.reset()
        with torch.no_grad():
            return np.asarray(self.evaluator.scores(self.model.model, self.rounds.rows(number)), np.float64)

    def reused(self) -> Reused:
        """Return what was saved by activations that were kept."""
        reuse = self.reuse
        return Reused() if reuse is None else Reused(reuse.given, reuse.computed, reuse.why_not)

    def close(self) -> None:
        """Look a last time whether the model is as it was."""
        self._watch.check(closely=True)


class Measurements:
    """Outcomes by candidate and round; each is measured once.

    Args:
        worker: what measures.
        rounds: of the examples.
        log: where outcomes are kept; it holds those of searches before.
        patience: failures in a row that end the search.
    """

    def __init__(self, worker: Worker, rounds: Rounds, log: SearchLog, patience: int = 3) -> None:
        """Take what the log holds."""
        self.worker, self.rounds, self.log, self.patience = worker, rounds, log, patience
        self.known: dict[tuple[str, int], Outcome] = {
            place: Outcome(None if scores is None else np.asarray(scores, np.float64), reason)
            for place, (scores, reason) in log.outcomes.items()
        }
        self.used: set[tuple[str, int]] = set()
        self.measured, self.seconds = 0, 0.0
        self._failed: list[str] = []

    def outcome(self, key: str, precisions: Precisions | None, number: int) -> Outcome:
        """Return what a round gave.

        Raises:
            SearchError: three candidates in a row failed.
        """
        place = (key, number)
        if place not in self.known:
            self._expect(key, precisions, number)
            found = self.worker.measure(precisions, number)
            self.measured += len(self.rounds.rows(number))
            self.seconds += found.seconds
            self.known[place] = found
            self.log.add(key, precisions, number, found.scores, found.reason, found.seconds)
        found = self.known[place]
        if place not in self.used:
            self.used.add(place)
            self._count(key, found)
        return found

    def _expect(self, key: str, precisions: Precisions | None, number: int) -> None:
        """Tell workers of the rounds behind this one: most candidates need several."""
        expect = getattr(self.worker, "expect", None)
        if expect is not None and precisions is not None:
            later = range(number + 1, min(number + 4, len(self.rounds)))
            expect([(precisions, each) for each in later if (key, each) not in self.known], first=True)

    def again(self, precisions: Precisions | None, number: int) -> Outcome:
        """Measure a round whatever is known of it."""
        return self.worker.measure(precisions, number)

    def _count(self, key: str, outcome: Outcome) -> None:
        if outcome.scores is not None:
            self._failed.clear()
            return
        if key not in self._failed:
            self._failed.append(key)
        if len(self._failed) >= self.patience:
            raise SearchError(
                f"{len(self._failed)} candidates in a row failed, the last with: {outcome.reason}. Mend evaluate(),"
                " and delete the log, which keeps failures."
            )
