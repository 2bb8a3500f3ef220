"""A small trained network, which several files calibrate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import snn_extreme_quant as sxq

from .networks import Net, loop


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]
    return images[:1200], labels[:1200], images[1200:], labels[1200:]


@pytest.fixture(scope="session")
def trained(digits) -> Net:
    torch.manual_seed(0)
    model = Net()
    images, labels, _, _ = digits
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(6):
        for x, y in zip(images.split(100), labels.split(100), strict=True):
            sxq.reset(model)
            optimizer.zero_grad()
            F.cross_entropy(loop(model, x), y).backward()
            optimizer.step()
    sxq.reset(model)
    return model
