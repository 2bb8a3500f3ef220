"""The verb: find a precision for each layer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from snn_extreme_quant.precision_search.algorithm import (
    Found,
    Reporter,
    mean_drops,
    pareto,
    select,
    sensitivity_of,
)
from snn_extreme_quant.precision_search.descent import Step, lower
from snn_extreme_quant.precision_search.failures import FailedInARowError
from snn_extreme_quant.precision_search.judging import Judge, Trial
from snn_extreme_quant.precision_search.levels import level_name
from snn_extreme_quant.precision_search.outcomes import ReuseRefutedError
from snn_extreme_quant.precision_search.problem import Problem, opened
from snn_extreme_quant.precision_search.result import Baseline, Candidate, PathStep, SearchResult
from snn_extreme_quant.precision_search.settings import Settings
from snn_extreme_quant.precision_search.tiers import check_tiers, tiers_of

__all__ = ["described", "result_of", "search"]


def search(
    model: nn.Module,
    evaluate: Any,
    *,
    max_drop: float | None = None,
    max_memory: float | str | None = None,
    **options: Any,
) -> SearchResult:
    r"""Find a precision for each weight matrix, within limits of quality and memory (QSLM, 2601.00679).

    Of the candidates of which the quality falls by at most ``max_drop`` and whose exported weights take at most
    ``max_memory``, the one of the best score :math:`A - \alpha M_q / M_0`, resp. the least
    :math:`P + \alpha M_q / M_0`. ``docs/search.md`` says how it is searched and what is guaranteed.

    Args:
        model: any model that :func:`~snn_extreme_quant.quantize_` takes; it is not changed.
        evaluate: an evaluator, or a function of a model that gives accuracy in percent, or perplexity.
        max_drop: points of accuracy, or perplexity; None for any.
        max_memory: bytes, or text such as ``"400MB"`` or ``"12%"``; None for any.
        options: fields of :class:`~snn_extreme_quant.precision_search.Settings`: ``levels``, ``alpha``, ``metric``,
            ``ties``, ``confidence``, ``log`` and more.

    Returns:
        The plan, with all candidates; or, where the limits cannot be met, the nearest points.

    Raises:
        ConfigError: limits or options that mean nothing.
        SearchError: evaluations fail, or model or data changed.

    Example:
        >>> import torch
        >>> from snn_extreme_quant.precision_search import Classification
        >>> x, net = torch.eye(4).repeat(4, 1), nn.Sequential(nn.Linear(4, 4, bias=False))
        >>> _ = nn.init.eye_(net[0].weight)
        >>> labels = x.argmax(-1)
        >>> result = search(net, Classification(lambda m, rows: m(x[rows]), labels), max_drop=0.0, levels=[8, 1])
        >>> result.chosen.quality, dict(result.chosen.levels)
        (100.0, {'0': 8.0})
    """
    settings = Settings.of(options)
    started = time.perf_counter()
    asked = (model, evaluate, max_drop, max_memory)
    try:
        return _searched(*asked, settings, started)
    except ReuseRefutedError as refuted:
        return _searched(*asked, replace(settings, reuse=None), started, refuted)


def _searched(
    model: nn.Module,
    evaluate: Any,
    max_drop: float | None,
    max_memory: float | str | None,
    settings: Settings,
    started: float,
    refuted: ReuseRefutedError | None = None,
) -> SearchResult:
    with opened(model, evaluate, max_drop, max_memory, settings) as problem:
        try:
            return _walked(problem, started, refuted)
        except FailedInARowError as error:
            best = _best_known(problem.judge)
            if best is not None:
                problem.judge.confirm(best)
            error.result = result_of(problem, best, time.perf_counter() - started)
            raise


def _best_known(judge: Judge) -> Trial | None:
    """Return the best of the feasible candidates that were evaluated on all examples."""
    known = [trial for trial in judge.trials.values() if trial.exact and trial.status == "ok" and judge.fits(trial)]
    return max(known, key=lambda trial: (judge.utility(trial), -trial.memory), default=None)


def _walked(problem: Problem, started: float, refuted: ReuseRefutedError | None) -> SearchResult:
    """Sweep, go down through the tiers, select."""
    settings, judge = problem.settings, problem.judge
    judge.measurements.log.settings(described(problem))
    reporter = Reporter(judge, settings.report)
    sensitivity = sensitivity_of(
        judge, problem.hierarchy, settings.sensitivity, reporter, thorough=settings.sensitivity == 1.0
    )
    names, ties = check_tiers(settings.tiers, settings.ties)
    sizes = {name: problem.space.size([name]) for name in problem.space.names}
    tiers = tiers_of(problem.hierarchy, names, ties, mean_drops(sensitivity, len(problem.space.levels)), sizes)
    survey = math.ceil(settings.survey * len(judge.measurements.rounds)) if settings.survey < 1 else None
    steps = lower(judge, tiers, problem.space.start, reporter, survey)
    tried = {step.trial.key: step.trial for step in steps}
    start = judge.trial(problem.space.start)
    judge.judge(start)
    if not ties:  # the sweep lowers one block alone
        # Of the sweep what is exact already: looking further at the rest would cost more than it can bring.
        tried |= {trial.key: trial for trial in judge.trials.values() if trial.exact}
    found = select(judge, [start, *(t for t in tried.values() if t is not start)], reporter, survey)
    trials = list(judge.trials.values())
    passed = {step.trial.key for step in steps if step.kept}
    front = pareto(judge, trials, passed, settle=settings.exact == "front")
    # No proof covers everything that a model can do: what is handed on is what full passes give.
    for trial in (*found.points, *(front if settings.exact == "front" else ())):
        judge.confirm(trial)
    return _result(problem, found, front, steps, sensitivity, time.perf_counter() - started, refuted)


def described(problem: Problem) -> dict[str, Any]:
    """Return what was asked for, JSON-ready."""
    settings, limits = problem.settings, problem.judge.limits
    names, ties = check_tiers(settings.tiers, settings.ties)
    configs = problem.space.model.configs
    return {
        "metric": problem.judge.metric.name,
        "max_drop": limits.drop if math.isfinite(limits.drop) else None,
        "max_memory": limits.memory if math.isfinite(limits.memory) else None,
        "alpha": settings.alpha,
        "levels": {level_name(level): config.to_dict() for level, config in configs.items()},
        "tiers": list(names),
        "ties": sorted(ties),
        "sensitivity": settings.sensitivity,
        "confidence": settings.confidence if problem.judge.delta is not None else None,
        "survey": settings.survey,
        "exact": settings.exact,
        "seed": settings.seed,
        "examples": problem.judge.evaluator.examples,
        "hierarchy": problem.hierarchy.to_dict(),
    }


def as_candidate(judge: Judge, trial: Trial) -> Candidate:
    """Return what is known of a trial."""
    space = judge.space
    return Candidate(
        levels=dict(zip(space.names, trial.assignment, strict=True)),
        plan=space.plan(trial.precisions),
        quality=judge.quality(trial),
        drop=judge.drop(trial),
        memory=trial.memory,
        saved=1.0 - judge.ratio(trial),
        score=judge.metric.score(judge.utility(trial)),
        exact=trial.exact,
        examples=len(trial.seen),
        status=trial.status,
        reason=trial.reason,
    )


def result_of(problem: Problem, chosen: Trial | None, seconds: float) -> SearchResult:
    """Return what another search found, with all that it evaluated."""
    front = pareto(problem.judge, list(problem.judge.trials.values()), (), settle=False)
    return _result(problem, Found(chosen), front, [], {}, seconds)


def _result(
    problem: Problem,
    found: Found,
    front: Iterable[Trial],
    steps: Iterable[Step],
    sensitivity: dict[str, dict[float, float]],
    seconds: float,
    refuted: ReuseRefutedError | None = None,
) -> SearchResult:
    judge, space = problem.judge, problem.space
    # What was never evaluated, as it does not fit, is none.
    trials = [trial for trial in judge.trials.values() if trial.scores or trial.status == "failed"]
    keys = {trial.key: number for number, trial in enumerate(trials)}
    candidates = tuple(as_candidate(judge, trial) for trial in trials)

    def of(trial: Trial | None) -> Candidate | None:
        return None if trial is None else candidates[keys[trial.key]]

    measurements = judge.measurements
    measured = measurements.measured
    reused = measurements.worker.reused()
    why_not = reused.why_not or measurements.log.refuted or (refuted.why if refuted else "")
    said = [f"Activations are not reused: {why_not}."] if why_not else []
    return SearchResult(
        chosen=of(found.chosen),
        baseline=Baseline(judge.baseline, space.as_float),
        candidates=candidates,
        front=tuple(candidates[keys[trial.key]] for trial in front),
        sensitivity=sensitivity,
        path=tuple(PathStep(s.tier, s.group, s.level, s.kept, keys[s.trial.key]) for s in steps),
        roles={block.name: block.role for block in problem.hierarchy.blocks},
        settings=described(problem),
        least_memory=of(found.least_memory),
        least_drop=of(found.least_drop),
        least_possible=space.least(),
        notes=(*space.notes(trial.assignment for trial in trials), *said),
        cost={
            "examples_evaluated": measured,
            "evaluations": measured / judge.evaluator.examples,
            "examples_checked": measurements.checked + (refuted.measured if refuted else 0),
            "decided_early": judge.decided_early,
            "seconds": seconds,
            "evaluation_seconds": measurements.seconds + (refuted.seconds if refuted else 0.0),
            "reused": reused.given / max(1, reused.given + reused.computed),
        },
    )
