"""A student that starts from one that an earlier run left, wholly or in part."""

from __future__ import annotations

import fnmatch
from typing import Any

import torch

from snn_extreme_quant.errors import CheckpointError, ConfigError
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.training.recipe import Start

__all__ = ["take_start"]

#: What the parameters depend on.
_SHARED = (
    "vocab", "positions", "types", "layers", "hidden", "heads", "ffn",
    "signed", "offset", "amplitude", "leak", "threshold_per", "feedback",
)  # fmt: skip


def take_start(student: SpikingBert, start: Start) -> None:
    """Give a student the parameters of another one; its weights then have that one's precision.

    A pooler that stays its own goes on reading what it read: the thresholds below it are new, so its columns change
    by their ratio.

    Args:
        student: as it was made from its teacher.
        start: the other one's folder, and which of its parameters are taken.

    Raises:
        CheckpointError: the folder holds no student.
        ConfigError: the two do not fit, or a pattern matches nothing.
    """
    source = SpikingBert.from_pretrained(start.path)
    for name in _SHARED:
        ours, theirs = getattr(student.config, name), getattr(source.config, name)
        if ours != theirs:
            raise ConfigError(f"[start] {start.path} has {name}={theirs!r}, the recipe's student {name}={ours!r}.")
    found = source.state_dict()
    for pattern in start.take:
        if not fnmatch.filter(found, pattern):
            raise ConfigError(f"[start] take={pattern!r} matches no parameter of {start.path}.")
    taken = {name: found[name] for name in found if any(fnmatch.fnmatchcase(name, p) for p in start.take)}
    student.set_weights(source.config.weights)
    own = student.state_dict()
    for name, value in taken.items():
        if name not in own or own[name].shape != value.shape:
            raise ConfigError(
                f"[start] {start.path}: {name!r} does not fit the recipe's student; leave the head out with"
                ' take = ["embeddings.*", "encoder.*"], and the teacher gives it.'
            )
    last: Any = student.encoder[-1]
    before = last.neurons.threshold.detach().clone()
    try:
        student.load_state_dict(taken, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"[start] {start.path} does not fit the recipe's student: {error}") from error
    if student.config.head == "pooled" and "pooler.weight" not in taken:
        with torch.no_grad():
            student.pooler.weight.mul_(last.neurons.threshold / before)
