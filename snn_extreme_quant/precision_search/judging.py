"""Candidates against the limits, with as few examples as the answer takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.config import WeightConfig
from snn_extreme_quant.errors import ConfigError, SearchError
from snn_extreme_quant.precision_search.evaluators import Evaluator, WholeModel
from snn_extreme_quant.precision_search.failures import FailedInARowError, blamed
from snn_extreme_quant.precision_search.measuring import Measurements
from snn_extreme_quant.precision_search.metrics import Limits, Metric
from snn_extreme_quant.precision_search.outcomes import BASELINE
from snn_extreme_quant.precision_search.sequential import Answer, Bounds, decide
from snn_extreme_quant.precision_search.space import Assignment, Space

__all__ = ["Judge", "Status", "Trial"]

Numbers = npt.NDArray[np.float64]
Status = Literal["open", "ok", "violated", "failed"]


@dataclass
class Trial:
    """What is known of a candidate.

    Args:
        assignment: the levels that led to it first.
        key: of its precisions.
        precisions: of its matrices.
        memory: bytes.
        scores: of the rounds so far, one after the other.
        status: whether its drop is within the limit.
        exact: whether all examples were evaluated.
        early: whether its status was decided before that.
        reason: why it failed.
        compared: scores of all examples that its own are compared with, example by example.
    """

    assignment: Assignment
    key: str
    precisions: dict[str, WeightConfig]
    memory: int
    scores: list[Numbers] = field(default_factory=list)
    status: Status = "open"
    exact: bool = False
    early: bool = False
    reason: str = ""
    compared: Numbers | None = None

    @property
    def seen(self) -> Numbers:
        """The scores so far."""
        return np.concatenate(self.scores) if self.scores else np.zeros(0)


class Judge:
    """Says of candidates whether they are within the limits, and how good they are.

    Args:
        space: of the candidates.
        measurements: their scores.
        evaluator: whose scores these are.
        metric: of the scores.
        limits: of the drop and the memory.
        alpha: of the score.
        confidence: of early decisions; None: everything is evaluated in full.

    Raises:
        SearchError: the baseline fails.
        ConfigError: the baseline is no value of the metric.
    """

    def __init__(
        self,
        space: Space,
        measurements: Measurements,
        evaluator: Evaluator,
        metric: Metric,
        limits: Limits,
        *,
        alpha: float,
        confidence: float | None,
    ) -> None:
        """Evaluate the baseline."""
        self.space, self.measurements, self.metric, self.limits, self.alpha = space, measurements, metric, limits, alpha
        self.evaluator, self.delta = evaluator, None if confidence is None else 1.0 - confidence
        self.trials: dict[str, Trial] = {}
        self.decided_early = 0
        self._base = self._baseline()
        base = self._base_scores = np.concatenate(self._base)
        self._exact: list[Trial] = []
        self._sizes = {name: space.size([name]) for name in space.names}
        self.baseline = self._value(base)
        self._check_baseline(base)
        mean = float(base.mean())
        # Scores whose metric is no function of their mean can be judged as a whole alone.
        plain = math.isclose(self.baseline, metric.of_mean(mean), rel_tol=1e-6, abs_tol=1e-9)
        self.by_mean = plain and not isinstance(evaluator, WholeModel)
        if not self.by_mean:
            self.delta = None
        if self.by_mean:
            self.mean = mean
            self.most_worse = self._worse_mean(limits.drop)

    # Asking.

    def trial(self, assignment: Assignment) -> Trial:
        """Return the candidate of these levels; those of equal precisions are one."""
        precisions = self.space.precisions(assignment)
        key = self.space.key(precisions)
        if key not in self.trials:
            trial = self.trials[key] = Trial(assignment, key, precisions, self.space.memory(precisions))
            if not precisions and self.space.model.was_float:  # the baseline itself
                trial.scores, trial.exact, trial.status = list(self._base), True, "ok"
        return self.trials[key]

    def judge(self, trial: Trial, rounds: float = math.inf) -> Status:
        """Say whether the drop is within the limit, after as many rounds as that takes, or "open" after ``rounds``."""
        while trial.status == "open":
            answer = self._answer(trial, self.most_worse if self.by_mean else math.inf)
            if answer != "open":
                trial.status = "ok" if answer == "within" else "violated"
                trial.early = not trial.exact
                self.decided_early += trial.early
            elif len(trial.scores) >= rounds or not self._go_on(trial):
                break
        return trial.status

    def likely(self, trial: Trial, rounds: int) -> bool:
        """Whether the drop is within the limit, by an estimate where so many rounds leave it open."""
        status = self.judge(trial, rounds)
        return status == "ok" or (status == "open" and self.drop(trial) <= self.limits.drop)

    def settle(self, trial: Trial) -> Status:
        """Evaluate a candidate in full; its status is exact then."""
        while not trial.exact and trial.status != "failed":
            self._go_on(trial)
        return trial.status

    def confirm(self, trial: Trial) -> None:
        """Raise :class:`ReuseRefutedError` if full passes do not give what activations that were kept gave."""
        self.measurements.confirm(trial.key, trial.precisions)

    def cannot_reach(self, trial: Trial, utility: float) -> bool:
        """Whether a candidate is less useful than ``utility``, or beyond the limit of the drop.

        Asked each round, until the answer is certain enough.
        """
        needed = utility + self.alpha * self.ratio(trial)  # of the quality
        drop = self.metric.drop(self.baseline, needed if self.metric.higher else -needed)
        return self._is_worse(trial, min(drop, self.limits.drop))

    def promising(self, trial: Trial, utility: float, rounds: int) -> bool:
        """Whether a candidate is within the limit and more useful than ``utility``.

        It is left out where the estimate is worse by more than three of its standard errors, after ``rounds`` by more
        than one; else it is exact in the end.
        """
        while not trial.exact and trial.status not in ("failed", "violated"):
            lost = max(utility - self.utility(trial), self.drop(trial) - self.limits.drop) if trial.scores else 0.0
            least = 1.0 if len(trial.scores) >= rounds else 3.0
            if lost > 0.0 and lost > least * self._error(trial):
                return False
            if not self._go_on(trial):
                break
        return trial.status in ("open", "ok")

    def _error(self, trial: Trial) -> float:
        """Return the standard error of an estimate; one more example that changes is always reckoned with."""
        near, seen = self._nearest(trial), trial.seen
        apart = seen - near[: len(seen)]
        spread = float(((apart - apart.mean()) ** 2).sum()) + (1.0 if self.metric.higher else 0.0)
        error = math.sqrt(spread) / len(seen)
        return 100.0 * error if self.metric.higher else self.quality(trial) * error

    def cannot_beat(self, trial: Trial, other: Trial) -> bool:
        """Whether a candidate's drop is larger than that of another, which is exact."""
        return self._is_worse(trial, self.drop(other))

    def _is_worse(self, trial: Trial, drop: float) -> bool:
        """Whether the drop is larger; if that does not become certain, the candidate is exact afterwards."""
        if not self.by_mean or self.delta is None:
            self.settle(trial)
            return False
        worst = self._worse_mean(drop)
        while not trial.exact and trial.status != "failed":
            if self._answer(trial, worst) == "beyond":
                return True
            self._go_on(trial)
        return False

    def look(self, trial: Trial, rounds: int) -> float:
        """Return the drop on the first rounds, against the baseline on the same; infinite if it fails."""
        rounds = rounds if self.by_mean else len(self._base)
        while len(trial.scores) < min(rounds, len(self._base)) and trial.status != "failed":
            self._go_on(trial)
        if trial.status == "failed":
            return math.inf
        if not self.by_mean:
            return self.drop(trial)
        taken = min(rounds, len(self._base))
        ours, base = (float(np.concatenate(part[:taken]).mean()) for part in (trial.scores, self._base))
        return self.metric.drop(self.metric.of_mean(base), self.metric.of_mean(ours))

    # What is known.

    def quality(self, trial: Trial) -> float:
        """Return the metric: exact, or estimated from the differences so far to what is nearest; NaN without any."""
        if trial.status == "failed" or not trial.scores:
            return math.nan
        if trial.exact:
            return self._value(trial.seen)
        near, seen = self._nearest(trial), trial.seen
        return self.metric.of_mean(float(near.mean() + (seen - near[: len(seen)]).mean()))

    def drop(self, trial: Trial) -> float:
        """Return how much worse than the baseline it is."""
        return self.metric.drop(self.baseline, self.quality(trial))

    def ratio(self, trial: Trial) -> float:
        """Return the memory relative to float32."""
        return trial.memory / self.space.as_float

    def utility(self, trial: Trial) -> float:
        """Return the score, signed so that more is better."""
        return self.metric.utility(self.quality(trial), self.ratio(trial), self.alpha)

    def fits(self, trial: Trial) -> bool:
        """Whether the memory is within the limit."""
        return trial.memory <= self.limits.memory

    def ahead(self, assignments: Iterable[Assignment], rounds: int) -> None:
        """Tell workers what will probably be asked for next."""
        expect = getattr(self.measurements.worker, "expect", None)
        if expect is None:
            return
        known, found = self.measurements.known, []
        for assignment in assignments:
            precisions = self.space.precisions(assignment)
            key = self.space.key(precisions)
            found += [(precisions, number, "scores") for number in range(rounds) if (key, number) not in known]
        expect(found)

    # Inside.

    def _baseline(self) -> list[Numbers]:
        """Evaluate the model as it was given; what a log knows of it has to be the same."""
        found = []
        for number in range(len(self.measurements.rounds)):
            logged = self.measurements.known.get((BASELINE, number))
            outcome = (
                self.measurements.outcome(BASELINE, None, number)
                if logged is None
                else self.measurements.again(None, number)
            )
            if outcome.scores is None:
                raise SearchError(f"The model as it was given cannot be evaluated: {outcome.reason}.")
            if logged is not None and (logged.scores is None or not np.array_equal(logged.scores, outcome.scores)):
                raise SearchError(
                    "The model as it was given has other scores than in the log: the model, the data or what computes"
                    " them changed. Name another log."
                )
            if number == 0 and logged is None:
                self._check_repeated(outcome.scores)
            if self.measurements.log.path is not None and callable(getattr(self.evaluator, "witness", None)):
                self.measurements.witness(number)
            found.append(outcome.scores)
        return found

    def _check_repeated(self, scores: Numbers) -> None:
        again = self.measurements.again(None, 0).scores
        if again is None or not np.allclose(scores, again, rtol=1e-3, atol=0.0):
            raise SearchError(
                "evaluate() gives other scores for the same model and examples when it is called again, so candidates"
                " cannot be compared. Seed what is random in it (noise, spikes that are drawn), the same in each call."
            )

    def _check_baseline(self, scores: Numbers) -> None:
        value = self.baseline
        if not math.isfinite(value):
            raise SearchError(f"The metric of the model as it was given is {value}.")
        if isinstance(self.evaluator, WholeModel):
            if self.metric.higher and not 1.0 < value <= 100.0:
                raise ConfigError(
                    f"evaluate() gave {value:g} for the model as it is: accuracy is in percent here, above 1 and up to"
                    " 100; return 100 times the fraction."
                )
        elif self.metric.higher and not ((scores >= 0.0) & (scores <= 1.0)).all():
            raise ConfigError("The evaluator's scores of accuracy have to be from 0 to 1.")
        if not self.metric.higher and value < 1.0 - 1e-9:
            raise ConfigError(
                f"The perplexity of the model as it is is {value:g}; it is at least 1. Return exp of nats."
            )
        if not self.metric.higher and (scores < 0.0).any():
            raise ConfigError("The evaluator's scores of perplexity are nats, from 0.")

    def _value(self, scores: Numbers) -> float:
        """Return the metric of all scores, which are in the order of rounds."""
        order = self.measurements.rounds.order
        placed = np.empty_like(scores)
        placed[order] = scores
        return float(self.evaluator.reduce(placed))

    def _worse_mean(self, drop: float) -> float:
        """Return the mean difference of losses that a drop is."""
        bound = self.metric.mean_of(self.metric.worse_by(self.baseline, drop))
        return self.mean - bound if self.metric.higher else bound - self.mean

    def _answer(self, trial: Trial, limit: float) -> Answer:
        if self.delta is None or not self.by_mean:
            return "open"
        seen, higher = trial.seen, self.metric.higher
        near = self._base_scores if trial.compared is None else trial.compared
        known = near[: len(seen)]
        most = near if higher else np.full(len(near), math.inf)
        worse = float(near.mean()) - self.mean  # than the baseline, in scores
        return decide(
            known - seen if higher else seen - known,
            limit + worse if higher else limit - worse,
            Bounds(near - 1.0 if higher else -near, most),
            self.delta,
        )

    def _nearest(self, trial: Trial) -> Numbers:
        """Return the scores of the candidate evaluated in full that differs in the fewest weights; or the baseline's.

        What both lose says nothing of which loses more, so their difference is known from fewer examples.
        """
        sizes = self._sizes

        def distance(other: Trial) -> int:
            names = trial.precisions.keys() | other.precisions.keys()
            return sum(sizes[n] for n in names if trial.precisions.get(n) != other.precisions.get(n))

        near = min(self._exact, key=distance, default=None)
        whole = sum(sizes[name] for name in trial.precisions)
        return self._base_scores if near is None or distance(near) >= whole else near.seen

    def _go_on(self, trial: Trial) -> bool:
        """Evaluate one more round; returns whether there was one."""
        number = len(trial.scores)
        if trial.exact or trial.status == "failed":
            return False
        if trial.compared is None:  # once and for all: it must not depend on the scores
            trial.compared = self._nearest(trial)
        try:
            outcome = self.measurements.outcome(trial.key, trial.precisions, number)
        except FailedInARowError as error:
            trial.status, trial.reason = "failed", error.reason
            failed = [self.trials[key].assignment for key in error.keys]
            passed = [each.assignment for each in self.trials.values() if each.scores]
            raise FailedInARowError(error.keys, error.reason, blamed(failed, passed)) from None
        if outcome.scores is None:
            trial.status, trial.reason = "failed", outcome.reason
            return False
        trial.scores.append(outcome.scores)
        if len(trial.scores) == len(self._base):
            trial.exact = True
            self._exact.append(trial)
            quality = self.quality(trial)
            if not math.isfinite(quality):
                trial.status, trial.reason = "failed", f"the metric is {quality}"
                self._exact.remove(trial)
                return False
            self.measurements.confirm(trial.key, trial.precisions, sample=True)
            within = self.limits.allow_drop(self.metric.drop(self.baseline, quality))
            trial.status = "ok" if within else "violated"
        return True
