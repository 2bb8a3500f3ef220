"""Scores of candidates, round by round: measured, kept, logged."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import NoReturn, Protocol

import numpy as np
import numpy.typing as npt
import torch

from snn_extreme_quant.errors import SearchError
from snn_extreme_quant.precision_search.evaluators import Evaluator
from snn_extreme_quant.precision_search.failures import FailedInARowError
from snn_extreme_quant.precision_search.fingerprints import Watch
from snn_extreme_quant.precision_search.outcomes import WITNESS, How, Outcome, Precisions, Reused, ReuseRefutedError
from snn_extreme_quant.precision_search.reuse import Reuse
from snn_extreme_quant.precision_search.search_log import SearchLog
from snn_extreme_quant.precision_search.working_model import WorkingModel

__all__ = ["LocalWorker", "Measurements", "Rounds", "Worker"]

Numbers = npt.NDArray[np.float64]
_ROUNDS, _FEWEST = 16, 8
#: How far witnesses may be from those in a log, relatively: machines differ in last bits.
_APART = 1e-3


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


class Worker(Protocol):
    """What evaluates rounds."""

    def measure(self, precisions: Precisions | None, number: int, how: How = "scores") -> Outcome:
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

    def measure(self, precisions: Precisions | None, number: int, how: How = "scores") -> Outcome:
        """Evaluate a round; what the evaluation raises is its outcome."""
        started = time.perf_counter()
        given_back = self.reused().given
        if self.reuse is not None and precisions is not None and not self.reuse.proved and how == "scores":
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
            scores = self._measured(precisions, number, how)
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
        refuted = "" if self.reuse is None else self.reuse.refuted
        return Outcome(scores, "", seconds, self.reused().given > given_back, refuted)

    def _measured(self, precisions: Precisions | None, number: int, how: How) -> Numbers:
        if self.reuse is None or how == "witness":
            return self._scores(number, how)
        if how == "full":
            return self.reuse.again(lambda: self._scores(number), precisions, number)
        return self.reuse.scores(lambda: self._scores(number), precisions, number)

    def _scores(self, number: int, how: How = "scores") -> Numbers:
        """Evaluate the model as it is."""
        self.model.model.eval()
        self.model.reset()
        evaluate = self.evaluator.witness if how == "witness" else self.evaluator.scores  # type: ignore[attr-defined]
        with torch.no_grad():
            return np.asarray(evaluate(self.model.model, self.rounds.rows(number)), np.float64)

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
            place: Outcome(None if scores is None else np.asarray(scores, np.float64), reason, reused=reused)
            for place, (scores, reason, reused) in log.outcomes.items()
        }
        self.used: set[tuple[str, int]] = set()
        #: Examples and seconds; of the examples those that were evaluated again as a check are counted apart.
        self.measured, self.checked, self.seconds = 0, 0, 0.0
        self._samples = 0
        self._new: set[str] = set()
        self._failed: list[str] = []

    def outcome(self, key: str, precisions: Precisions | None, number: int) -> Outcome:
        """Return what a round gave.

        Raises:
            FailedInARowError: three candidates.
        """
        place = (key, number)
        if place not in self.known:
            self._expect(key, precisions, number)
            found = self.worker.measure(precisions, number)
            self._new.add(key)
            self.measured += len(self.rounds.rows(number))
            self.seconds += found.seconds
            if found.refuted:
                self._refute(found.refuted)
            self.known[place] = found
            self.log.add(key, precisions, number, found)
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
            expect([(precisions, each, "scores") for each in later if (key, each) not in self.known], first=True)

    def again(self, precisions: Precisions | None, number: int, how: How = "full") -> Outcome:
        """Measure a round by a full pass, whatever is known of it."""
        found = self.worker.measure(precisions, number, how)
        self.checked += len(self.rounds.rows(number))
        self.seconds += found.seconds
        return found

    def witness(self, number: int) -> None:
        """Hold what the evaluator bears witness of against what the log has, or log it.

        Raises:
            SearchError: it is something else, or cannot be had.
        """
        found, known = self.again(None, number, "witness"), self.known.get((WITNESS, number))
        if found.scores is None:
            raise SearchError(f"witness() of the model as it was given cannot be had: {found.reason}.")
        if known is None:
            self.log.add(WITNESS, None, number, found)
        elif known.scores is None or not np.allclose(found.scores, known.scores, rtol=_APART, atol=1e-3 * _APART):
            raise SearchError(
                "The model as it was given has other outputs than in the log, though perhaps the same scores: the"
                " model, the data or what computes them changed. Name another log."
            )

    def confirm(self, key: str, precisions: Precisions, *, sample: bool = False) -> None:
        """Compare what activations that were kept had a part in with full passes.

        Args:
            key: of a candidate.
            precisions: of its matrices.
            sample: one round alone, each time another one; none if nothing was measured of it but what is in the log.

        Raises:
            ReuseRefutedError: a score differs in a bit.
        """
        places = [(key, number) for number in range(len(self.rounds))]
        resting = [place for place in places if place in self.known and self.known[place].reused]
        if sample and key not in self._new:
            return
        if sample and resting:
            self._samples += 1
            resting = [resting[-self._samples % len(resting)]]  # the last first: the trial of reuse has seen the first
        expect = getattr(self.worker, "expect", None)
        if expect is not None and not sample:
            expect([(precisions, number, "full") for _, number in resting])
        for place in resting:
            found, known = self.again(precisions, place[1]), self.known[place]
            one, other = found.scores, known.scores
            same = one is not None and other is not None and np.array_equal(one, other)
            if found.refuted or not same:
                self._refute(found.refuted or "a full pass gave other scores")
            self.known[place] = found
            self.log.add(key, precisions, place[1], found)

    def _refute(self, what: str) -> NoReturn:
        why = f"{what}; the search was done anew without"
        self.log.refute(why)
        raise ReuseRefutedError(why, self.measured + self.checked, self.seconds)

    def _count(self, key: str, outcome: Outcome) -> None:
        if outcome.scores is not None:
            self._failed.clear()
            return
        if key not in self._failed:
            self._failed.append(key)
        if len(self._failed) >= self.patience:
            raise FailedInARowError(self._failed, outcome.reason)
