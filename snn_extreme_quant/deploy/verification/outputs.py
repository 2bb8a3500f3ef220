"""How an output of a file differs from torch's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Answers", "OutputVerification"]


@dataclass
class Answers:
    """For how many samples file and torch give the same answer: the place of the largest logit.

    Args:
        samples: how many samples were run.
        same: for how many of them the answer is the same.
    """

    samples: int = 0
    same: int = 0

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Add a batch of logits ``(B, classes)``.

        Example:
            >>> found = Answers()
            >>> found.add(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
            >>> found
            Answers(samples=1, same=0)
        """
        self.samples += len(theirs)
        self.same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())

    def __str__(self) -> str:
        """Say it in a sentence."""
        return f"{self.same} of {self.samples} samples get the same answer"


@dataclass
class OutputVerification:
    """The comparison of one output of the model (membrane potentials, rates, class scores).

    Args:
        difference: the largest; infinite if only one of two values is NaN, or infinite.
        scale: the largest finite magnitude of the output in torch.
        ratio: the largest difference in a batch, by the largest finite magnitude in that batch.
        name: the output's name in the file.
    """

    difference: float = 0.0
    scale: float = 0.0
    ratio: float = 0.0
    name: str = ""

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Add the comparison of a batch: each is measured by its own values; truth values count as 0 and 1.

        Args:
            ours: what the file gives.
            theirs: what torch gives, of the same shape.

        Example:
            >>> found = OutputVerification()
            >>> found.add(torch.tensor([0.5, -torch.inf]), torch.tensor([1.0, -torch.inf]))
            >>> found
            OutputVerification(difference=0.5, scale=1.0, ratio=0.5, name='')
        """
        if not theirs.numel():
            return
        ours, theirs = (value.to(torch.uint8) if value.dtype is torch.bool else value for value in (ours, theirs))
        difference = _largest_difference(ours, theirs)
        finite = theirs[theirs.isfinite()]
        scale = float(finite.abs().max()) if finite.numel() else 0.0
        self.difference, self.scale = max(self.difference, difference), max(self.scale, scale)
        if difference:
            self.ratio = max(self.ratio, difference / scale if scale else float("inf"))


def _largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference; NaN or infinity in one place only counts as infinite."""
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    difference = (ours.double() - theirs.double()).abs().nan_to_num(nan=float("inf"), posinf=float("inf"))
    return float(torch.where(same, 0.0, difference).max())
