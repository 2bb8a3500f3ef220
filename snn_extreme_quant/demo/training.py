"""One training loop for float and for quantisation-aware training: what differs is the layers, not the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from snn_extreme_quant.demo.data import Digits, over_time, shifted
from snn_extreme_quant.frameworks import reset

__all__ = ["STEPS", "predict", "reproducible", "train"]

STEPS = 8
_BATCH = 32
_THREADS = 1  # fixed: the number of threads decides the order of sums; and so small a network gains little from two


@contextmanager
def reproducible() -> Iterator[None]:
    """Make training give the same numbers run to run on one machine; torch's settings come back at the end."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(_THREADS)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)


def train(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    digits: Digits,
    *,
    epochs: int,
    rate: float,
    seed: int,
    on_epoch: Callable[[float, float], None],
) -> None:
    """Train in place with Adam and a one-cycle learning rate that peaks at ``rate``.

    Args:
        network: spikes out for images over time in.
        loss: of output spikes ``(T, B, 10)`` and labels ``(B,)``.
        digits: only the training part is used.
        epochs: passes over the training part.
        rate: the learning rate's peak.
        seed: of shuffling and augmentation.
        on_epoch: called with the epoch's mean loss and its accuracy on the training images.
    """
    generator = torch.Generator().manual_seed(seed)
    data = TensorDataset(digits.train_images, digits.train_labels)
    loader = DataLoader(data, _BATCH, shuffle=True, generator=generator)
    optimiser = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, epochs * len(loader), pct_start=0.1)
    network.train()
    for _ in range(epochs):
        total = right = 0.0
        for images, labels in loader:
            reset(network)
            spikes = network(over_time(shifted(images, generator), STEPS))
            value = loss(spikes, labels)
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total += value.item() * len(labels)
            right += int((spikes.detach().sum(0).argmax(1) == labels).sum())
        on_epoch(total / len(data), right / len(data))
    reset(network)
    network.eval()


def predict(network: nn.Module, images: Tensor) -> Tensor:
    """Return the class with the most output spikes, the first of equals, for each image."""
    reset(network)
    with torch.no_grad():
        spikes: Tensor = network(over_time(images, STEPS))
    reset(network)
    return spikes.sum(0).argmax(1)
