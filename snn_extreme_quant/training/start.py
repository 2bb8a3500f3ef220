"""Models that start from one that an earlier run left, wholly or in part, and SpikeGPTs that teach another."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from snn_extreme_quant.data import TextTokens
from snn_extreme_quant.errors import CheckpointError, ConfigError
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig, SpikingBert
from snn_extreme_quant.training.recipe import Start

__all__ = ["gpt_teacher", "take_gpt_start", "take_start"]

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
    _check_same(_SHARED, student.config, source.config, f"[start] {start.path}", "student")
    student.set_weights(source.config.weights)
    taken = _taken(
        student, source, start, 'leave the head out with take = ["embeddings.*", "encoder.*"], and the teacher gives it'
    )
    last: Any = student.encoder[-1]
    before = last.neurons.threshold.detach().clone()
    _load(student, taken, start)
    if student.config.head == "pooled" and "pooler.weight" not in taken:
        with torch.no_grad():
            student.pooler.weight.mul_(last.neurons.threshold / before)


#: What a SpikeGPT's parameters depend on; tables and heads tell by their shapes.
_SHARED_GPT = (
    "layers", "hidden", "wide", "tied", "binarised", "spiking", "inputs", "input_threshold", "tau",
)  # fmt: skip


def take_gpt_start(model: SpikeGPT, start: Start) -> None:
    """Give a SpikeGPT the parameters of another one; its weights then have that one's precision.

    Args:
        model: as the recipe makes it.
        start: the other one's folder, and which of its parameters are taken.

    Raises:
        CheckpointError: the folder holds no SpikeGPT.
        ConfigError: the two do not fit, or a pattern matches nothing.
    """
    source = SpikeGPT.from_pretrained(start.path)
    _check_same(_SHARED_GPT, model.config, source.config, f"[start] {start.path}", "[gpt]")
    model.set_weights(source.config.weights)
    _load(
        model, _taken(model, source, start, 'leave it out, such as the head with take = ["emb.*", "blocks.*"]'), start
    )


def gpt_teacher(path: str, config: SpikeGPTConfig, tokens: TextTokens) -> SpikeGPT:
    """Load a SpikeGPT whose logits another one is compared with.

    It computes as in training, with products in the types of autocast, but without dropout.

    Args:
        path: its folder.
        config: of the other one.
        tokens: of the other one.

    Raises:
        CheckpointError: the folder holds no SpikeGPT.
        ConfigError: the two read other tokens, or give other logits.
    """
    teacher = SpikeGPT.from_pretrained(path)
    _check_same(("vocab", "head", "outputs"), config, teacher.config, f"[teacher] {path}", "[gpt]")
    if not TextTokens.load(Path(path)).same(tokens):
        raise ConfigError(
            f"[teacher] {path} reads other tokens than the recipe's; start from it too ([start]), or train both on the"
            " same text and [tokens]."
        )
    for module in teacher.blocks:
        block: Any = module
        block.dropout = 0.0
    return teacher.train().requires_grad_(requires_grad=False)


def _check_same(names: Sequence[str], ours: Any, theirs: Any, source: str, what: str) -> None:
    """Raise :class:`ConfigError` for the first of these fields in which two configurations differ."""
    for name in names:
        wanted, found = getattr(ours, name), getattr(theirs, name)
        if wanted != found:
            raise ConfigError(f"{source} has {name}={found!r}, the recipe's {what} {name}={wanted!r}.")


def _taken(model: nn.Module, source: nn.Module, start: Start, remedy: str) -> dict[str, torch.Tensor]:
    """Return what of another model's parameters is taken."""
    found, own = source.state_dict(), model.state_dict()
    for pattern in start.take:
        if not fnmatch.filter(found, pattern):
            raise ConfigError(f"[start] take={pattern!r} matches no parameter of {start.path}.")
    taken = {name: value for name, value in found.items() if start.takes(name)}
    for name, value in taken.items():
        if name not in own or own[name].shape != value.shape:
            raise ConfigError(f"[start] {start.path}: {name!r} does not fit the recipe's model; {remedy}.")
    return taken


def _load(model: nn.Module, taken: dict[str, torch.Tensor], start: Start) -> None:
    try:
        model.load_state_dict(taken, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"[start] {start.path} does not fit the recipe's model: {error}") from error
