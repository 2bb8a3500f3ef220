"""The way down through the tiers: groups of matrices are lowered level by level; ``docs/search.md`` (The search)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from snn_extreme_quant.precision_search.algorithm import Reporter
from snn_extreme_quant.precision_search.judging import Judge, Trial
from snn_extreme_quant.precision_search.space import Assignment
from snn_extreme_quant.precision_search.tiers import Group, Tier

__all__ = ["Step", "lower"]

#: Rounds that most candidates of the tiers need.
_LIKELY = 3
#: Says whether a candidate is within the limit of the drop.
_Within = Callable[[Trial], bool]


@dataclass(frozen=True)
class Step:
    """One candidate of the tiers.

    Args:
        tier: where it was tried.
        group: what was lowered.
        level: to which level.
        kept: whether the search went on from it.
        trial: the candidate.
    """

    tier: str
    group: str
    level: float
    kept: bool
    trial: Trial


def lower(
    judge: Judge, tiers: Iterable[Tier], start: Assignment, reporter: Reporter, rounds: int | None = None
) -> list[Step]:
    """Lower group after group, level by level, as far as the limit of the drop allows; returns what was tried.

    Args:
        judge: which evaluates.
        tiers: in their order.
        start: where to begin.
        reporter: of the progress.
        rounds: after which an estimate will do on the way; where a tier ends is evaluated in full then, and what
            turns out beyond the limit is gone through anew. None: each step is decided.
    """
    steps: list[Step] = []
    now = start
    for tier in tiers:
        if rounds is None or judge.delta is None:
            now, _ = _through(judge, tier, tier.groups, now, steps, reporter, lambda trial: judge.judge(trial) == "ok")
        else:
            now = _quickly(judge, tier, now, steps, reporter, rounds)
    return steps


#: Where a group left the search: how many groups were through, and the candidate.
_Places = list[tuple[int, Assignment]]


def _through(
    judge: Judge,
    tier: Tier,
    groups: Sequence[Group],
    now: Assignment,
    steps: list[Step],
    reporter: Reporter,
    within: _Within,
) -> tuple[Assignment, _Places]:
    """Lower groups, one after the other; returns where that leads, and what it came by."""
    places: _Places = []
    for number, group in enumerate(groups, 1):
        reached = _lower_group(judge, tier, group, now, steps, reporter, within)
        if reached != now:
            places.append((number, reached))
        now = reached
    return now, places


def _quickly(
    judge: Judge, tier: Tier, start: Assignment, steps: list[Step], reporter: Reporter, rounds: int
) -> Assignment:
    """Go through a tier by estimates; where that leads too far go back, and on from there by better ones."""
    now, groups = start, tier.groups
    while True:
        first = len(steps)
        within: _Within = functools.partial(judge.likely, rounds=rounds)
        reached, places = _through(judge, tier, groups, now, steps, reporter, within)
        if not places or judge.settle(judge.trial(reached)) == "ok":
            return reached
        low, high = 0, len(places) - 1  # of those before the last, how many are within the limit
        while low < high:
            middle = (low + high + 1) // 2
            if judge.settle(judge.trial(places[middle - 1][1])) == "ok":
                low = middle
            else:
                high = middle - 1
        done, now = places[low - 1] if low else (0, now)
        groups = groups[done:]
        left = {group.name for group in groups}
        for place in range(first, len(steps)):
            if steps[place].group in left:
                steps[place] = replace(steps[place], kept=False)
        rounds *= 2


def _lower_group(
    judge: Judge,
    tier: Tier,
    group: Group,
    now: Assignment,
    steps: list[Step],
    reporter: Reporter,
    within: _Within,
) -> Assignment:
    space = judge.space
    current = space.level_of(now, group.matrices)
    below = [level for level in space.levels if level < current]
    chain = [space.lowered(now, group.matrices, level) for level in below]
    glances = judge.delta is not None
    judge.ahead(chain, 1 if glances else _LIKELY)
    tried: list[Trial] = []
    passed = True
    for level, candidate in zip(below, chain, strict=True):
        trial = judge.trial(candidate)
        tried.append(trial)
        passed = glances and _glanced(judge, trial)
        if not passed:  # it is decided, unless the level above is beyond the limit already
            above = len(tried) < 2 or within(tried[-2])
            passed = above and within(trial)
        reporter.tell(tier.name, group.name, level, trial)
        if not passed:
            break
    # Levels that were but glanced at: the lowest that is within the limit is where the group stays.
    reached = len(tried) if passed else len(tried) - 1
    while reached and not within(tried[reached - 1]):
        reached -= 1
    for number, trial in enumerate(tried):
        steps.append(Step(tier.name, group.name, below[number], number < reached, trial))
    return chain[reached - 1] if reached else now


def _glanced(judge: Judge, trial: Trial) -> bool:
    """Whether one round of examples lets the drop seem within the limit."""
    judge.look(trial, 1)
    return trial.status == "ok" or (trial.status == "open" and judge.drop(trial) <= judge.limits.drop)
