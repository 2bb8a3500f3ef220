"""A search made ready: model, space, measurements and judge."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from snn_extreme_quant.accounting import weight_shapes
from snn_extreme_quant.errors import UnsupportedModelError
from snn_extreme_quant.precision_search.evaluators import evaluator_of
from snn_extreme_quant.precision_search.fingerprints import model_hash
from snn_extreme_quant.precision_search.hierarchy import Hierarchy
from snn_extreme_quant.precision_search.judging import Judge
from snn_extreme_quant.precision_search.levels import level_configs
from snn_extreme_quant.precision_search.measuring import LocalWorker, Measurements, Rounds
from snn_extreme_quant.precision_search.metrics import Limits, metric_called
from snn_extreme_quant.precision_search.search_log import SearchLog
from snn_extreme_quant.precision_search.settings import Settings
from snn_extreme_quant.precision_search.space import Space
from snn_extreme_quant.precision_search.working_model import WorkingModel

__all__ = ["Problem", "opened"]


@dataclass(frozen=True)
class Problem:
    """What a search, or a baseline of it, works on.

    Args:
        hierarchy: of the model.
        space: of its candidates.
        judge: of them.
        settings: what was asked for.
    """

    hierarchy: Hierarchy
    space: Space
    judge: Judge
    settings: Settings


@contextlib.contextmanager
def opened(
    model: nn.Module, evaluate: Any, max_drop: float | None, max_memory: float | str | None, settings: Settings
) -> Iterator[Problem]:
    """Make a search ready, and tidy up behind it.

    Args:
        model: it is not changed.
        evaluate: an evaluator, or a function of a model.
        max_drop: the limit of the quality's drop, or None.
        max_memory: that of the memory, or None.
        settings: the rest.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"search() takes a torch.nn.Module; got {type(model).__name__}.")
    evaluator = evaluator_of(evaluate, settings.metric)
    metric = metric_called(evaluator.metric)
    configs = level_configs(settings.levels, settings.configs)
    hierarchy = _hierarchy(model, settings)
    shapes = weight_shapes(model)
    matrices = [shape for shape in shapes if shape.kind != "Parameter"]
    working = WorkingModel(model, matrices, configs, settings.cache_bytes)
    space = Space(shapes, hierarchy, working)
    limits = Limits.of(max_drop, max_memory, space.as_float)
    rounds = Rounds(evaluator.examples, settings.seed)
    facts = {
        "model": model_hash(model), "data": evaluator.fingerprint(), "metric": evaluator.metric,
        "examples": evaluator.examples, "seed": settings.seed, "matrices": list(space.names),
    }  # fmt: skip
    log = SearchLog(settings.log, facts, [len(rounds.rows(number)) for number in range(len(rounds))])
    with contextlib.ExitStack() as stack:
        stack.callback(log.close)
        blocks, room = tuple(block.name for block in hierarchy.blocks), 0 if log.refuted else settings.reuse_bytes
        worker: Any = LocalWorker(working, evaluator, rounds, blocks, room)
        local = worker
        if settings.workers or settings.address:
            from snn_extreme_quant.precision_search.parallel import RayWorkers

            worker = stack.enter_context(
                RayWorkers((working, evaluator, rounds, blocks, room), settings.workers, settings.address)
            )
        measurements = Measurements(worker, rounds, log)
        judge = Judge(
            space, measurements, evaluator, metric, limits, alpha=settings.alpha, confidence=settings.confidence
        )
        yield Problem(hierarchy, space, judge, settings)
        local.close()


def _hierarchy(model: nn.Module, settings: Settings) -> Hierarchy:
    given = settings.hierarchy
    if given is None:
        return Hierarchy.of(model, settings.skip)
    found = Hierarchy.from_dict(given.to_dict() if isinstance(given, Hierarchy) else given, model)
    return found.without(model, settings.skip)
