"""Other searches, for comparison: the same candidates, limits and score, at most the same number of evaluations.

Each takes what :func:`~snn_extreme_quant.search` takes, and a ``budget``: evaluations of all examples. The best
feasible candidate of those that were evaluated in full is chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from torch import nn

from snn_extreme_quant.errors import MissingDependencyError
from snn_extreme_quant.precision_search.algorithm import Reporter, mean_drops, sensitivity_of
from snn_extreme_quant.precision_search.descent import lower
from snn_extreme_quant.precision_search.judging import Judge, Trial
from snn_extreme_quant.precision_search.problem import Problem, opened
from snn_extreme_quant.precision_search.result import SearchResult
from snn_extreme_quant.precision_search.searching import result_of
from snn_extreme_quant.precision_search.settings import Settings
from snn_extreme_quant.precision_search.space import Assignment
from snn_extreme_quant.precision_search.tiers import check_tiers, tiers_of

__all__ = ["greedy", "plain", "random_plans", "tpe", "uniform"]

#: Makes candidates, and is sent what each one was found to be.
_Strategy = Callable[[Problem], Iterable[Trial]]


def _compared(model: nn.Module, evaluate: Any, strategy: _Strategy, options: dict[str, Any]) -> SearchResult:
    started = time.perf_counter()
    max_drop, max_memory = options.pop("max_drop", None), options.pop("max_memory", None)
    settings = Settings.of({"confidence": None, "reuse": None, **options})
    with opened(model, evaluate, max_drop, max_memory, settings) as problem:
        judge = problem.judge
        trials = [*strategy(problem)]
        feasible = [trial for trial in trials if trial.exact and trial.status == "ok" and judge.fits(trial)]
        best = max(feasible, key=lambda trial: (judge.utility(trial), -trial.memory), default=None)
        return result_of(problem, best, time.perf_counter() - started)


def _spent(judge: Judge) -> float:
    """Return what was evaluated besides the baseline, in whole sets of examples."""
    return judge.measurements.measured / judge.evaluator.examples - 1.0


def _settled(judge: Judge, assignments: Iterable[Assignment], budget: float) -> Iterator[Trial]:
    """Evaluate candidates in full while the budget lasts."""
    for assignment in assignments:
        if _spent(judge) > budget - 1.0:
            return
        trial = judge.trial(assignment)
        judge.settle(trial)
        yield trial


def uniform(model: nn.Module, evaluate: Any, *, budget: float = 1000, **options: Any) -> SearchResult:
    """Try each level everywhere."""

    def strategy(problem: Problem) -> Iterable[Trial]:
        space = problem.space
        return _settled(problem.judge, [(level,) * len(space.names) for level in space.levels], budget)

    return _compared(model, evaluate, strategy, options)


def random_plans(
    model: nn.Module, evaluate: Any, *, budget: float = 1000, draws: int = 10_000, **options: Any
) -> SearchResult:
    """Try random levels of modules, among candidates within the memory."""

    def strategy(problem: Problem) -> Iterable[Trial]:
        space, judge = problem.space, problem.judge
        draw = np.random.default_rng(problem.settings.seed)
        groups = _groups(problem)

        def candidates() -> Iterator[Assignment]:
            for _ in range(draws):
                assignment = space.start
                for names in groups:
                    assignment = space.changed(assignment, names, space.levels[int(draw.integers(len(space.levels)))])
                if judge.fits(judge.trial(assignment)):
                    yield assignment

        return _settled(judge, candidates(), budget)

    return _compared(model, evaluate, strategy, options)


def greedy(model: nn.Module, evaluate: Any, *, budget: float = 1000, **options: Any) -> SearchResult:
    """Lower the module by a level whose block loses least for what it saves, by the sweep, again and again.

    The sweep counts. A step beyond the limit of the drop is taken back, and the module stays.
    """

    def strategy(problem: Problem) -> Iterable[Trial]:
        space, judge = problem.space, problem.judge
        sweep = sensitivity_of(judge, problem.hierarchy, 1.0, Reporter(judge, None), thorough=True)
        open_groups = _groups_of_blocks(problem)
        now = space.start
        found: list[Trial] = []
        while open_groups and _spent(judge) <= budget - 1.0:
            steps = []
            for names, block in open_groups.items():
                level = space.level_of(now, names)
                below = next((each for each in space.levels if each < level), None)
                if below is not None:
                    candidate = space.changed(now, names, below)
                    saved = space.memory(space.precisions(now)) - space.memory(space.precisions(candidate))
                    lost = max(0.0, sweep[block][below] - sweep[block].get(level, 0.0))
                    steps.append((lost / max(saved, 1), -saved, names, candidate))
            if not steps:
                break
            _, _, names, candidate = min(steps, key=lambda step: step[:2])
            trial = judge.trial(candidate)
            judge.settle(trial)
            found.append(trial)
            if trial.status == "ok":
                now = candidate
            else:
                del open_groups[names]
        return found

    return _compared(model, evaluate, strategy, options)


def plain(model: nn.Module, evaluate: Any, *, budget: float = 1000, **options: Any) -> SearchResult:
    """Search as QSLM is published: the whole sweep, the tiers, every candidate evaluated in full; the sweep counts."""

    def strategy(problem: Problem) -> Iterable[Trial]:
        space, judge = problem.space, problem.judge
        reporter = Reporter(judge, None)
        sweep = sensitivity_of(judge, problem.hierarchy, 1.0, reporter, thorough=True)
        names, ties = check_tiers(problem.settings.tiers, problem.settings.ties)
        sizes = {name: space.size([name]) for name in space.names}
        tiers = tiers_of(problem.hierarchy, names, ties, mean_drops(sweep, len(space.levels)), sizes)
        found: list[Assignment] = []
        for tier in tiers:
            if _spent(judge) > budget:
                break
            start = found[-1] if found else space.start
            steps = lower(judge, [tier], start, reporter)
            kept = [step.trial.assignment for step in steps if step.kept]
            found += kept or [start]
        return [judge.trial(assignment) for assignment in dict.fromkeys([space.start, *found])]

    return _compared(model, evaluate, strategy, options)


def tpe(model: nn.Module, evaluate: Any, *, budget: float = 1000, **options: Any) -> SearchResult:
    """Let Optuna's tree-structured Parzen estimator choose levels of modules (Bergstra et al. 2011).

    Its objective is the score, less what limits are exceeded by, in units of the limits, times 100.

    Raises:
        MissingDependencyError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingDependencyError("tpe needs Optuna: pip install 'snn-extreme-quant[optuna]'.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def strategy(problem: Problem) -> Iterable[Trial]:
        space, judge = problem.space, problem.judge
        groups = _groups(problem)
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=problem.settings.seed)
        )
        found: dict[str, Trial] = {}
        asked = 0
        while _spent(judge) <= budget - 1.0 and asked < 4 * budget:  # it may ask for what is known
            asked += 1
            trial = study.ask()
            assignment = space.start
            for number, names in enumerate(groups):
                chosen = trial.suggest_int(str(number), 0, len(space.levels) - 1)
                assignment = space.changed(assignment, names, space.levels[chosen])
            ours = judge.trial(assignment)
            judge.settle(ours)
            found[ours.key] = ours
            if ours.status == "failed":
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, judge.utility(ours) - 100.0 * _beyond(judge, ours))
        return found.values()

    return _compared(model, evaluate, strategy, options)


def _beyond(judge: Judge, trial: Trial) -> float:
    """Return by how much limits are exceeded, relative to them."""
    limits = judge.limits
    drop = max(0.0, judge.drop(trial) - limits.drop) / max(limits.drop, 1.0) if limits.drop < np.inf else 0.0
    memory = max(0.0, trial.memory / limits.memory - 1.0) if limits.memory < np.inf else 0.0
    return drop + memory


def _groups(problem: Problem) -> list[tuple[str, ...]]:
    return list(_groups_of_blocks(problem))


def _groups_of_blocks(problem: Problem) -> dict[tuple[str, ...], str]:
    """Return the matrices of each module, and its block."""
    return {part.matrices: block.name for block in problem.hierarchy.blocks for part in block.modules}
