r"""What a student is compared with, and by which losses (2308.10873, section on distillation).

.. math:: L_\mathrm{hidden} = \sum_l \mathrm{mean}\,(P(\alpha a_l) - H_{M(l)})^2, \quad
   L_\mathrm{scores} = \sum_l \mathrm{mean}\,(z_{S,l} - z_{T,M(l)})^2, \quad
   L_\mathrm{logits} = -\sum_c \mathrm{softmax}(z_T / \tau)_c \log \mathrm{softmax}(z_S / \tau)_c

with means over tokens that are no pads, and over the batch.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn_extreme_quant.data import Batch
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.training.recipe import LossWeights

__all__ = ["Distiller", "Shares", "Teacher", "TeacherOutputs", "given_logits", "label_loss", "soft_loss"]


@dataclass(frozen=True)
class TeacherOutputs:
    """What a teacher computes for a batch.

    Args:
        logits: ``(B, classes)``, or None where it has no classifier.
        hidden: ``(levels, B, S, hidden)``, of the levels asked for.
        scores: raw attention scores ``(levels, B, heads, S, S)``, of the levels asked for.
    """

    logits: Tensor | None
    hidden: Tensor | None
    scores: Tensor | None


@dataclass(frozen=True)
class Shares:
    """What part of a batch is computed here, by what a loss is the mean over; 1 each for all of it.

    Args:
        rows: of the sentences.
        tokens: of the tokens.
        pairs: of the pairs of tokens of one sentence.
    """

    rows: float = 1.0
    tokens: float = 1.0
    pairs: float = 1.0

    @classmethod
    def of(cls, part: Batch, batch: Batch, processes: int) -> Shares:
        """Return the shares of a part, times the processes, as their gradients are averaged."""
        ours, all_ = part.mask.sum(1).double(), batch.mask.sum(1).double()
        return cls(
            processes * len(ours) / len(all_),
            processes * float(ours.sum() / all_.sum()),
            processes * float(ours.square().sum() / all_.square().sum()),
        )


#: What each loss is the mean over.
_MEAN_OVER = {"hidden": "tokens", "scores": "pairs", "logits": "rows", "labels": "rows"}


class Teacher:
    """A BERT of transformers, run without gradient.

    Args:
        model: with or without classifier.
        levels: of hidden states, that of the input neurons first (0: the embeddings); the layers after it give scores.
        hidden: whether hidden states are wanted.
        scores: whether scores are wanted.
    """

    def __init__(self, model: Any, levels: tuple[int, ...], hidden: bool, scores: bool) -> None:
        """Remember what is wanted."""
        self.model, self.levels, self.hidden, self.scores = model, levels, hidden, scores
        self.trunk: Any = getattr(model, "bert", model)
        self.classifies = hasattr(model, "classifier")

    @torch.no_grad()
    def __call__(self, batch: Batch) -> TeacherOutputs:
        """Run the teacher on a batch."""
        found: dict[tuple[int, str], Tensor] = {}
        with ExitStack() as stack:
            for level in self.levels[1:] if self.scores else ():
                own = self.trunk.encoder.layer[level - 1].attention.self
                for name in ("query", "key"):

                    def keep(_: Any, __: Any, output: Tensor, key: tuple[int, str] = (level, name)) -> None:
                        found[key] = output

                    stack.callback(getattr(own, name).register_forward_hook(keep).remove)
            output = self.model(
                input_ids=batch.ids, attention_mask=batch.mask, token_type_ids=batch.types, output_hidden_states=True
            )
        hidden = torch.stack([output.hidden_states[level] for level in self.levels]) if self.hidden else None
        scores = None
        if self.scores:
            heads = self.model.config.num_attention_heads
            scores = torch.stack([
                _scores(found[level, "query"], found[level, "key"], heads) for level in self.levels[1:]
            ])  # fmt: skip
        return TeacherOutputs(output.logits if self.classifies else None, hidden, scores)


def _scores(query: Tensor, key: Tensor, heads: int) -> Tensor:
    q, k = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key))
    return q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])


class Distiller(nn.Module):
    """A student with the projection to its teacher's width; gives the losses of a batch.

    Args:
        student: the student.
        width: of the teacher's hidden states.
        regression: whether labels are real numbers.
    """

    def __init__(self, student: SpikingBert, width: int, regression: bool) -> None:
        """Start the projection as the identity where the widths agree."""
        super().__init__()
        self.student, self.regression = student, regression
        self.projection = nn.Linear(student.config.hidden, width)
        if width == student.config.hidden:
            nn.init.eye_(self.projection.weight)
            nn.init.zeros_(self.projection.bias)

    def forward(
        self, batch: Batch, teacher: TeacherOutputs, weights: LossWeights, shares: Shares = Shares()
    ) -> dict[str, Tensor]:
        """Return each loss times its share, unweighted, and their weighted sum as ``"loss"``."""
        details = self.student.details(batch.ids, batch.mask, batch.types)
        losses: dict[str, Tensor] = {}
        if weights.hidden:
            losses["hidden"] = self._hidden(details.hidden, _given(teacher.hidden, "hidden states"), batch.mask)
        if weights.scores:
            losses["scores"] = _score_loss(details.scores, _given(teacher.scores, "scores"), batch.mask)
        if weights.logits:
            logits = given_logits(teacher)
            if self.regression:
                losses["logits"] = F.mse_loss(details.logits.float(), logits.float())
            else:
                losses["logits"] = soft_loss(details.logits, logits, weights.temperature)
        if weights.labels:
            losses["labels"] = label_loss(details.logits, batch.labels, self.regression)
        losses = {name: value * getattr(shares, _MEAN_OVER[name]) for name, value in losses.items()}
        total = sum(getattr(weights, name) * value for name, value in losses.items())
        return {"loss": total, **losses}

    def _hidden(self, ours: tuple[Tensor, ...], theirs: Tensor, mask: Tensor) -> Tensor:
        kept = mask.bool()
        terms = [
            F.mse_loss(self.projection(mine[kept]).float(), other[kept].float())
            for mine, other in zip(ours, theirs, strict=True)
        ]
        return torch.stack(terms).sum()


def soft_loss(ours: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy with what a teacher gives each class, the mean over the rows."""
    return F.cross_entropy(ours.float() / temperature, (theirs.float() / temperature).softmax(-1))


def label_loss(logits: Tensor, labels: Tensor, regression: bool) -> Tensor:
    """Return the cross-entropy of labels, or the squared error of real numbers, the mean over a batch."""
    if regression:
        return F.mse_loss(logits[:, 0].float(), labels)
    return F.cross_entropy(logits.float(), labels.long())


def given_logits(teacher: TeacherOutputs) -> Tensor:
    """Return a teacher's logits; raises :class:`ConfigError` if it gives none."""
    return _given(teacher.logits, "logits: it has no classifier")


def _given(value: Tensor | None, what: str) -> Tensor:
    if value is None:
        raise ConfigError(f"[stage.loss]: the teacher gives no {what}.")
    return value


def _score_loss(ours: tuple[Tensor, ...], theirs: Tensor, mask: Tensor) -> Tensor:
    """Return the error over pairs of tokens that are no pads."""
    pairs = (mask[:, None, :, None] * mask[:, None, None, :]).float()
    count = pairs.sum() * theirs.shape[2]
    terms = [
        ((mine.float() - other.float()).square() * pairs).sum() / count
        for mine, other in zip(ours, theirs, strict=True)
    ]
    return torch.stack(terms).sum()
