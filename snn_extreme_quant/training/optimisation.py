"""Learning rates, groups of parameters, and the parts that a batch is computed in."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snn_extreme_quant.data import Batch
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.training.distillation import Shares
from snn_extreme_quant.training.recipe import Stage

__all__ = ["check_frozen", "freeze", "learning_rate", "parameter_groups", "parts_of", "seed_part"]


def learning_rate(stage: Stage, step: int, steps: int) -> float:
    """Return the learning rate's factor at a step: it rises, then falls to 0 or stays.

    Example:
        >>> from snn_extreme_quant.training.recipe import LossWeights
        >>> stage = Stage(steps=4, warmup=0.5, loss=LossWeights(labels=1.0))
        >>> [learning_rate(stage, n, 4) for n in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    rise = math.ceil(stage.warmup * steps)
    if step < rise:
        return (step + 1) / rise
    return 1.0 if stage.schedule == "constant" else (steps - step) / max(1, steps - rise)


def freeze(names: Mapping[str, Tensor], stage: Stage) -> None:
    """Set which parameters are trained."""
    for name, parameter in names.items():
        parameter.requires_grad_(not _is_frozen(name, stage))


def check_frozen(names: Iterable[str], stage: Stage) -> None:
    """Raise :class:`ConfigError` if a pattern matches no parameter, or nothing is left to train."""
    names = list(names)
    for pattern in stage.freeze:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"stage {stage.name!r}: freeze={pattern!r} matches no parameter of the student.")
    if all(_is_frozen(name, stage) for name in names):
        raise ConfigError(f"stage {stage.name!r}: freeze={list(stage.freeze)} leaves nothing to train.")


def _is_frozen(name: str, stage: Stage) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in stage.freeze)


def parameter_groups(model: nn.Module, stage: Stage, decay: float) -> list[dict[str, Any]]:
    """Return groups of parameters: matrices decay, thresholds have their own rate."""
    matrices: list[Tensor] = []
    vectors: list[Tensor] = []
    thresholds: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.dim() > 1 and "time_mix" not in name  # vectors (1, 1, d), as released
            kind = thresholds if name.endswith("log_threshold") else matrices if matrix else vectors
            kind.append(parameter)
    threshold_lr = stage.threshold_lr or stage.lr
    groups = [(matrices, stage.lr, decay), (vectors, stage.lr, 0.0), (thresholds, threshold_lr, 0.0)]
    return [{"params": params, "lr": lr, "peak": lr, "weight_decay": wd} for params, lr, wd in groups if params]


def parts_of(batch: Batch, accumulate: int, process: int, processes: int) -> Iterator[tuple[int, Batch, Shares]]:
    """Yield this process' parts of a batch: a part's number among all, its sentences, and their shares of the batch.

    Each process gets as many parts, or they would wait for each other: where a batch has too few sentences, a part is
    the first one again, with no share.
    """
    for part in range(accumulate):
        number = part * processes + process
        rows = slice(number, None, accumulate * processes)
        if len(batch.rows[rows]):
            ours = batch.taken(rows)
            yield number, ours, Shares.of(ours, batch, processes)
        else:
            yield number, batch.taken(slice(1)), Shares(0.0, 0.0, 0.0)


def seed_part(seed: int, stage: int, step: int, part: int) -> None:
    """Start torch's random numbers, which dropout takes, as a function of the arguments alone."""
    state = np.random.SeedSequence([seed, stage, step, part]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))
