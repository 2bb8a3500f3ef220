"""The data: scikit-learn's digits, 1,797 scanned images of 8 x 8 pixels that ship with the package."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

__all__ = ["CLASSES", "Digits", "over_time", "shifted", "split_digits"]

CLASSES = 10
_TEST_SHARE = 0.3
_SPLIT_SEED = 0  # of its own, so that every --seed is tested on the same images


@dataclass(frozen=True)
class Digits:
    """Images ``(B, 1, 8, 8)``, multiples of 1/16 from 0 to 1, and labels ``(B,)``; no image is in both parts."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def split_digits() -> Digits:
    """Load the digits and keep 30 % of each class for the test."""
    bunch = load_digits()
    images = torch.tensor(bunch.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(bunch.target)
    train, test = train_test_split(
        range(len(labels)), test_size=_TEST_SHARE, stratify=bunch.target, random_state=_SPLIT_SEED
    )
    return Digits(images[train], labels[train], images[test], labels[test])


def over_time(images: Tensor, steps: int) -> Tensor:
    """Present the same images at every time step (direct coding): ``(T, B, 1, 8, 8)``."""
    return images.expand(steps, *images.shape).contiguous()


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images, about half of them moved by up to one pixel in each direction (augmentation for training)."""
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images.squeeze(1), (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, count, 1, 1), generator=generator)
    rows = down + torch.arange(height).view(1, -1, 1)
    columns = right + torch.arange(width).view(1, 1, -1)
    moved = padded[torch.arange(count).view(-1, 1, 1), rows, columns].unsqueeze(1)
    return torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.5, moved, images)
