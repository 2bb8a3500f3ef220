"""QSLM's search (2601.00679, section III): sensitivity, tiers, selection; ``docs/search.md`` (The search)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from snn_extreme_quant.precision_search.hierarchy import Hierarchy
from snn_extreme_quant.precision_search.judging import Judge, Trial

__all__ = ["Found", "Progress", "Reporter", "mean_drops", "pareto", "select", "sensitivity_of"]


#: What a drop is of the limit that says nothing of how sensitive a block is: levels above it are not looked at.
_NOTHING = 0.05


@dataclass(frozen=True)
class Progress:
    """Where the search is.

    Args:
        tier: ``"sensitivity"``, a tier, or ``"selection"``.
        group: what is looked at.
        level: of the candidate; None where it has several.
        memory: bytes of the candidate.
        quality: of the candidate, perhaps estimated.
        best: memory and quality of the best feasible candidate so far, if there is one.
        examples: how many were evaluated.
    """

    tier: str
    group: str
    level: float | None
    memory: int
    quality: float
    best: tuple[int, float] | None
    examples: int


Report = Callable[[Progress], None]


class Reporter:
    """Hands progress on, with the best candidate so far."""

    def __init__(self, judge: Judge, report: Report | None) -> None:
        """Begin without a best candidate."""
        self.judge, self.report = judge, report
        self.best: Trial | None = None

    def tell(self, tier: str, group: str, level: float | None, trial: Trial) -> None:
        """Report a candidate."""
        judge = self.judge
        if trial.status == "ok" and judge.fits(trial):
            known = -math.inf if self.best is None else judge.utility(self.best)
            if judge.utility(trial) > known:
                self.best = trial
        if self.report is not None:
            best = None if self.best is None else (self.best.memory, judge.quality(self.best))
            quality = judge.quality(trial)
            self.report(Progress(tier, group, level, trial.memory, quality, best, judge.measurements.measured))


def sensitivity_of(
    judge: Judge, hierarchy: Hierarchy, share: float, reporter: Reporter, *, thorough: bool
) -> dict[str, dict[float, float]]:
    """Return by block and level the drop where the block alone is quantised.

    Args:
        judge: which evaluates.
        hierarchy: with the blocks.
        share: of the examples that are looked at; 0 gives nothing.
        reporter: of the progress.
        thorough: whether a block's levels above the lowest one that loses next to nothing are looked at too.
    """
    space = judge.space
    rounds = math.ceil(share * len(judge.measurements.rounds))
    if rounds == 0:
        return {}
    chains = {
        block.name: [space.changed(space.start, block.matrices, level) for level in space.levels]
        for block in hierarchy.blocks
    }
    judge.ahead((candidate for chain in chains.values() for candidate in chain), rounds)
    found: dict[str, dict[float, float]] = {}
    for name, chain in chains.items():
        drops: dict[float, float] = {}
        for level, candidate in reversed(list(zip(space.levels, chain, strict=True))):
            trial = judge.trial(candidate)
            drops[level] = judge.look(trial, rounds)
            reporter.tell("sensitivity", name, level, trial)
            if not thorough and drops[level] <= _NOTHING * (judge.limits.drop if judge.limits.drop < math.inf else 0.0):
                break
        found[name] = dict(sorted(drops.items(), reverse=True))
    return found


def mean_drops(sensitivity: Mapping[str, Mapping[float, float]], levels: int) -> dict[str, float]:
    """Return the mean drop of each block over so many levels; those that were not looked at count as no drop."""
    return {name: sum(drops.values()) / levels for name, drops in sensitivity.items()}


@dataclass(frozen=True)
class Found:
    """What a selection gave.

    Args:
        chosen: the best feasible candidate; None if there is none.
        least_memory: of those within the limit of the drop; only where none is feasible.
        least_drop: of those within the limit of memory; only where none is feasible.
    """

    chosen: Trial | None
    least_memory: Trial | None = None
    least_drop: Trial | None = None

    @property
    def points(self) -> tuple[Trial, ...]:
        """Those that there are."""
        return tuple(trial for trial in (self.chosen, self.least_memory, self.least_drop) if trial is not None)


def select(judge: Judge, trials: Sequence[Trial], reporter: Reporter, rounds: int | None = None) -> Found:
    """Choose the feasible candidate of the best score, evaluated in full; of equal scores that of less memory.

    Args:
        judge: which evaluates what is open.
        trials: the candidates.
        reporter: of the progress.
        rounds: after which an estimate leaves a candidate out; None: only what is certain enough does.
    """
    feasible = [trial for trial in trials if trial.status in ("ok", "open") and judge.fits(trial)]
    feasible.sort(key=lambda trial: (-judge.utility(trial), trial.memory))
    # One that is known to be feasible first: what was but glanced at has to beat it.
    known = next((trial for trial in feasible if trial.status == "ok"), None)
    feasible.sort(key=lambda trial: trial is not known)
    chosen: Trial | None = None
    for trial in feasible:
        if chosen is not None and not _may_win(judge, trial, judge.utility(chosen), rounds):
            continue
        if judge.settle(trial) != "ok":
            continue
        reporter.tell("selection", "", None, trial)
        if chosen is None or _better(judge, trial, chosen):
            chosen = trial
    return Found(chosen) if chosen is not None else _nearest(judge, trials)


def _may_win(judge: Judge, trial: Trial, utility: float, rounds: int | None) -> bool:
    if rounds is None or judge.delta is None:
        return not judge.cannot_reach(trial, utility)
    return judge.promising(trial, utility, rounds)


def _better(judge: Judge, one: Trial, other: Trial) -> bool:
    return (judge.utility(one), -one.memory) > (judge.utility(other), -other.memory)


def _nearest(judge: Judge, trials: Sequence[Trial]) -> Found:
    """Return the nearest points on both sides of limits that cannot be met together."""
    within = sorted((trial for trial in trials if trial.status == "ok"), key=lambda trial: trial.memory)
    least_memory = next((trial for trial in within if judge.settle(trial) == "ok"), None)
    small = [trial for trial in trials if judge.fits(trial)]
    space = judge.space
    # The tiers stop where the drop is too large: go down everywhere until the memory is met.
    floor = min((trial.assignment for trial in trials if trial.status == "ok"), key=sum, default=space.start)
    for level in space.levels:
        lowered = judge.trial(space.lowered(floor, space.names, level))
        if judge.fits(lowered):
            small.append(lowered)
            break
    return Found(None, least_memory, _least_drop(judge, {trial.key: trial for trial in small}.values()))


def _least_drop(judge: Judge, trials: Iterable[Trial]) -> Trial | None:
    best: Trial | None = None
    for trial in sorted(trials, key=lambda trial: trial.memory, reverse=True):
        if best is not None and judge.cannot_beat(trial, best):
            continue
        if judge.settle(trial) == "failed":
            continue
        if best is None or judge.drop(trial) < judge.drop(best):
            best = trial
    return best


def pareto(judge: Judge, trials: Sequence[Trial], passed: Collection[str], *, settle: bool) -> list[Trial]:
    """Return the candidates that no other beats in memory and quality, by memory.

    Args:
        judge: which evaluates what is open.
        trials: the candidates; those beyond the limit count where they were evaluated in full.
        passed: keys of those that the tiers went on from; glances at them count where the front is settled.
        settle: whether candidates that are on the front by estimates are evaluated in full, until none is.
    """
    while True:
        open_too = passed if settle else ()
        known = [trial for trial in trials if trial.exact or trial.status == "ok" or trial.key in open_too]
        known = [trial for trial in known if trial.status != "failed"]
        front: list[Trial] = []
        sign = 1.0 if judge.metric.higher else -1.0
        for trial in sorted(known, key=lambda trial: (trial.memory, -sign * judge.quality(trial))):
            if not front or sign * judge.quality(trial) > sign * judge.quality(front[-1]):
                front.append(trial)
        inexact = [trial for trial in front if settle and not trial.exact]
        if not inexact:
            return front
        for trial in inexact:
            judge.settle(trial)
