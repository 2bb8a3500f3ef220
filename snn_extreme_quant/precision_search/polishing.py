"""A short quantisation-aware training of a plan that was found; ``docs/search.md`` (Polish)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snn_extreme_quant.config import PrecisionPlan
from snn_extreme_quant.errors import ConfigError, SearchError
from snn_extreme_quant.frameworks import reset
from snn_extreme_quant.models import SpikeGPT, SpikingBert
from snn_extreme_quant.models.precision import give_weights
from snn_extreme_quant.precision_search.evaluators import Evaluator, evaluator_of
from snn_extreme_quant.precision_search.measuring import Rounds
from snn_extreme_quant.precision_search.metrics import METRICS, is_number
from snn_extreme_quant.precision_search.result import Candidate, SearchResult, megabytes

__all__ = ["Loss", "Polished", "check_loss", "polish"]

#: Of a model and the number of a step: a scalar with gradients.
Loss = Callable[[nn.Module, int], Tensor]
_CLIP = 1.0


@dataclass(frozen=True)
class Polished:
    """What a polish gave. Printing it gives a line.

    Args:
        model: quantised by the plan.
        candidate: the plan with its figures afterwards.
        before: its quality before.
        metric: of both.
        feasible: whether the search's limits are met.
        kept: whether the training helped; if not the model has the weights from before.
        losses: of the steps.
    """

    model: nn.Module
    candidate: Candidate
    before: float
    metric: str
    feasible: bool
    kept: bool
    losses: tuple[float, ...]

    @property
    def plan(self) -> PrecisionPlan:
        """The precisions."""
        return self.candidate.plan

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, without the model."""
        return {
            "candidate": self.candidate.to_dict(), "before": self.before, "feasible": self.feasible,
            "kept": self.kept, "steps": len(self.losses), "losses": list(self.losses),
        }  # fmt: skip

    def __str__(self) -> str:
        """Render as a line."""
        now = self.candidate
        said = "" if self.kept else "; the training did not help, the weights are those from before"
        return (
            f"polished in {len(self.losses)} steps: {self.metric} {self.before:.4g} -> {now.quality:.4g} (drop"
            f" {now.drop:+.3g}) in {megabytes(now.memory)}, {now.saved:.1%} saved;"
            f" the limits are {'met' if self.feasible else 'not met'}{said}"
        )


def polish(
    model: nn.Module,
    evaluate: Any,
    result: SearchResult,
    loss: Loss,
    *,
    steps: int,
    rate: float = 1e-4,
    seed: int = 0,
) -> Polished:
    """Train the plan of a search for some steps, quantised in the forward pass, and measure it again.

    Args:
        model: which was searched; it is not changed.
        evaluate: what the search evaluated with.
        result: of the search.
        loss: of a model and the number of the step.
        steps: of the optimiser.
        rate: the learning rate of the first step; it falls to 0.
        seed: of dropout.

    Raises:
        ConfigError: there is no plan within the memory, or an option or the loss means nothing.
        SearchError: the plan is not what the search found it to be, or the loss is NaN or infinite.

    Example:
        >>> from snn_extreme_quant.precision_search import Classification, search
        >>> x, net = torch.eye(4).repeat(4, 1), nn.Sequential(nn.Linear(4, 4, bias=False))
        >>> labels = x.argmax(-1)
        >>> _ = nn.init.eye_(net[0].weight)
        >>> evaluator = Classification(lambda m, rows: m(x[rows]), labels)
        >>> result = search(net, evaluator, max_drop=0.0, levels=[8, 4])
        >>> done = polish(net, evaluator, result, lambda m, _: nn.functional.cross_entropy(m(x), labels), steps=2)
        >>> done.before, done.candidate.quality, done.kept
        (100.0, 100.0, False)
    """
    _check(steps, rate, seed)
    candidate = result.chosen or result.least_drop
    if candidate is None:
        raise ConfigError("The search found no plan within the memory, so there is none to polish; raise max_memory.")
    metric = METRICS[result.settings["metric"]]
    evaluator = evaluator_of(evaluate, metric.name)
    order = int(result.settings["seed"])
    made = _quantised(model, candidate.plan)
    before = _quality(made, evaluator, order)
    if candidate.exact and not math.isclose(before, candidate.quality, rel_tol=1e-6, abs_tol=1e-9):
        raise SearchError(
            f"The plan gives {metric.name} {before:g}, where the search found {candidate.quality:g}: the model or the"
            " data are others. Search again."
        )
    losses = _train(made, loss, steps, rate, seed)
    quality = _quality(made, evaluator, order)
    kept = metric.drop(before, quality) < 0.0
    if not kept:
        made, quality = _quantised(model, candidate.plan), before
    drop = metric.drop(result.baseline.quality, quality)
    alpha = float(result.settings["alpha"])
    limit = {name: result.settings[name] for name in ("max_drop", "max_memory")}
    within = limit["max_drop"] is None or drop <= limit["max_drop"] + 1e-9 * max(1.0, limit["max_drop"])
    found = replace(
        candidate,
        quality=quality,
        drop=drop,
        score=metric.score(metric.utility(quality, 1.0 - candidate.saved, alpha)),
        exact=True,
        examples=evaluator.examples,
        status="ok" if within else "violated",
    )
    feasible = within and (limit["max_memory"] is None or candidate.memory <= limit["max_memory"])
    return Polished(made, found, before, metric.name, feasible, kept, tuple(losses))


def _check(steps: int, rate: float, seed: int) -> None:
    for name, value, good, remedy in (
        ("steps", steps, type(steps) is int and steps > 0, "a whole number from 1"),
        ("rate", rate, is_number(rate) and rate > 0, "a number above 0, such as 1e-4"),
        ("seed", seed, type(seed) is int and seed >= 0, "a whole number from 0"),
    ):
        if not good:
            raise ConfigError(f"polish({name}={value!r}): use {remedy}.")


def _quantised(model: nn.Module, plan: PrecisionPlan) -> nn.Module:
    """Return a copy of a model with the precisions of a plan."""
    reset(model)  # neurons may hold potentials with their history, which cannot be copied
    made = copy.deepcopy(model)
    if isinstance(made, (SpikeGPT, SpikingBert)):
        made.set_weights(plan)
    else:
        give_weights(made, plan)
    return made.eval()


@torch.no_grad()
def _quality(model: nn.Module, evaluator: Evaluator, seed: int) -> float:
    """Return the metric, evaluated in the rounds of a search of this seed."""
    model.eval()
    rounds = Rounds(evaluator.examples, seed)
    scores = np.empty(evaluator.examples)
    for number in range(len(rounds)):
        rows = rounds.rows(number)
        reset(model)
        scores[rows] = evaluator.scores(model, rows)
    reset(model)
    return float(evaluator.reduce(scores))


def _train(model: nn.Module, loss: Loss, steps: int, rate: float, seed: int) -> list[float]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ConfigError("No parameter of the model asks for gradients: there is nothing to train.")
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.0)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate * (1.0 - step / steps)
            model.train()
            reset(model)
            optimizer.zero_grad(set_to_none=True)
            value = _loss(loss, model, step)
            losses.append(value.item())
            if not math.isfinite(losses[-1]):
                raise SearchError(f"The loss of step {step} is {losses[-1]}; try a lower rate than {rate:g}.")
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, _CLIP)
            optimizer.step()
    return losses


def _loss(loss: Loss, model: nn.Module, step: int) -> Tensor:
    try:
        value: object = loss(model, step)
    except Exception as error:
        raise SearchError(f"loss(model, {step}) failed: {type(error).__name__}: {error}") from error
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise ConfigError(f"loss(model, {step}) has to give a tensor of one number with gradients.")
    return value


def check_loss(model: nn.Module, loss: Loss, seed: int = 0) -> None:
    """Ask for the loss of the first step, of a copy of the model: what is wrong with it shows before a search.

    Raises:
        ConfigError: it is no number with gradients.
        SearchError: it raises.
    """
    reset(model)
    made = copy.deepcopy(model).train()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _loss(loss, made, 0)
