r"""The neuron of the synchronous schedule: a layer takes in all T steps of its input, then emits its spikes.

Its number of spikes is a function of the sum of its input alone, so one pass over counts and T steps of spikes give the
same result; ``docs/synchronous.md`` says what is equal and why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.spike_train import SpikeTrain, check_steps

__all__ = ["Schedule", "SynchronousIF", "schedule", "set_schedule", "spikes_first", "synchronous_count"]

#: One pass over rates, or T steps of spikes.
Schedule = Literal["counts", "spikes"]


def synchronous_count(current: Tensor, threshold: Tensor, T: int, signed: bool = False) -> Tensor:
    r"""Count the spikes of a layer of synchronous neurons.

    .. math:: n = \mathrm{clip}(\lfloor (a / \vartheta)\,T + \tfrac12 \rfloor, 0, T)

    in float32, each operation rounded once, with :math:`-T` in the place of 0 for signed neurons.

    Args:
        current: :math:`a`, the mean over the steps of the input current, any shape.
        threshold: :math:`\vartheta`, positive, broadcastable to ``current``.
        T: number of time steps, a power of two.
        signed: whether spikes may be -1 too.

    Returns:
        Whole numbers as floats, of ``current``'s shape.

    Example:
        >>> synchronous_count(torch.tensor([-1.0, 0.1, 0.125, 0.5, 2.0]), torch.tensor(1.0), 4).tolist()
        [0.0, 0.0, 1.0, 2.0, 4.0]
    """
    return torch.floor(current / threshold * float(T) + 0.5).clamp(-float(T) if signed else 0.0, float(T))


def spikes_first(count: Tensor, T: int) -> Tensor:
    r"""Spread counts over T steps, spikes first: :math:`s_t = \mathrm{sign}(n)\,[|n| > t]`.

    Args:
        count: :math:`n`, whole numbers from -T to T, any shape.
        T: number of time steps.

    Returns:
        -1, 0 and 1 in ``count``'s type, shape ``(T, *count.shape)``.

    Example:
        >>> spikes_first(torch.tensor([2.0, -1.0]), 3).tolist()
        [[1.0, -1.0], [1.0, 0.0], [0.0, 0.0]]
    """
    steps = torch.arange(T, dtype=count.dtype, device=count.device).view(T, *(1,) * count.dim())
    return (count > steps).to(count.dtype) - (-count > steps).to(count.dtype)


class SynchronousIF(nn.Module):
    r"""An integrate-and-fire neuron that takes in all T steps and then fires.

    With :math:`S = \sum_t x_t` and :math:`a = S / T` it gives

    .. math:: n = \mathrm{clip}(\lfloor S / \vartheta + \tfrac12 \rfloor, 0, T)

    spikes: it starts at half its threshold, adds S, and fires once a step while its potential is at least
    :math:`\vartheta`, which each spike subtracts. On the schedule ``"counts"`` it takes :math:`a` and gives the rate
    :math:`n / T`; on ``"spikes"`` it gives a :class:`SpikeTrain`. :func:`set_schedule` switches a model.

    The gradient is straight-through (Bengio et al. 2013, arXiv:1308.3432): that of
    :math:`\mathrm{clip}(a / \vartheta, 0, 1)`.

    Args:
        T: number of time steps, a power of two up to 128: rates are then exact in float32, and so are their sums.
        threshold: :math:`\vartheta`, positive.
        signed: whether spikes may be -1 too: :math:`-T \le n \le T`.
        learn_threshold: whether the threshold is a Parameter, not a buffer.

    Shapes:
        current ``(B, ...)``, rates ``(B, ...)``, spikes ``(T, B, ...)``.

    Raises:
        ConfigError: T is no power of two up to 128, or the threshold is not positive.

    Example:
        >>> neuron = SynchronousIF(T=4)
        >>> neuron(torch.tensor([0.1, 0.5, 2.0])).tolist()
        [0.0, 0.5, 1.0]
        >>> set_schedule(neuron, "spikes")
        >>> neuron(torch.tensor([0.1, 0.5, 2.0])).spikes.tolist()
        [[0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    """

    threshold: Tensor

    def __init__(self, T: int, threshold: float = 1.0, signed: bool = False, learn_threshold: bool = False) -> None:
        """Check the options."""
        super().__init__()
        self.T = check_steps(T, "SynchronousIF")
        try:
            value = torch.tensor(float(threshold), dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"SynchronousIF(threshold={threshold!r}): use one positive number.") from error
        if not bool((value > 0) & torch.isfinite(value)):
            raise ConfigError(f"SynchronousIF(threshold={threshold}): use a positive number.")
        for name, given in (("signed", signed), ("learn_threshold", learn_threshold)):
            if type(given) is not bool:
                raise ConfigError(f"SynchronousIF({name}={given!r}): use True or False.")
        self.signed = signed
        self.schedule: Schedule = "counts"
        if learn_threshold:
            self.threshold = nn.Parameter(value)
        else:
            self.register_buffer("threshold", value)

    @property
    def lowest(self) -> float:
        """The lowest rate."""
        return -1.0 if self.signed else 0.0

    def forward(self, current: Tensor | SpikeTrain) -> Tensor | SpikeTrain:
        """Return the rates, or the spikes of all steps."""
        mean = current.rates if isinstance(current, SpikeTrain) else current
        if self.schedule == "counts":
            if isinstance(current, SpikeTrain):
                raise ConfigError(
                    'SynchronousIF runs on the schedule "counts" and was given a SpikeTrain; give the model rates'
                    ' (train.rates), or call sxq.set_schedule(model, "spikes") first.'
                )
            return self.straight_through(synchronous_count(mean, self.threshold, self.T, self.signed) / self.T, mean)
        spikes = spikes_first(synchronous_count(mean, self.threshold, self.T, self.signed), self.T)
        return SpikeTrain(self.straight_through(spikes, mean))

    def straight_through(self, value: Tensor, current: Tensor) -> Tensor:
        """Return ``value`` with the gradient of the clipped mean current, for a rate or for each of T spikes."""
        if not (torch.is_grad_enabled() and (current.requires_grad or self.threshold.requires_grad)):
            return value
        soft = (current / self.threshold).clamp(self.lowest, 1.0)
        return value.detach() + (soft - soft.detach())

    def extra_repr(self) -> str:
        """Show the options."""
        sign = ", signed=True" if self.signed else ""
        return f"T={self.T}, threshold={self.threshold.item():g}{sign}, schedule={self.schedule!r}"


def _neurons(model: nn.Module, name: object) -> list[SynchronousIF]:
    if name not in get_args(Schedule):
        raise ConfigError(f'There is no schedule {name!r}: use "counts" or "spikes".')
    neurons = [module for module in model.modules() if isinstance(module, SynchronousIF)]
    if not neurons:
        raise ConfigError(f"{type(model).__name__} has no synchronous neurons (sxq.SynchronousIF), so no schedule.")
    return neurons


def set_schedule(model: nn.Module, name: Schedule) -> None:
    """Run all synchronous neurons of ``model`` on the schedule ``name``.

    Args:
        model: a model with :class:`SynchronousIF` neurons.
        name: ``"counts"``: one pass over rates; ``"spikes"``: T steps of spikes. Both give the same counts.

    Raises:
        ConfigError: there is no such schedule, or the model has no synchronous neurons.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), SynchronousIF(T=4))
        >>> set_schedule(net, "spikes")
        >>> net(torch.ones(1, 2)).spikes.shape
        torch.Size([4, 1, 3])
    """
    for neuron in _neurons(model, name):
        neuron.schedule = name


@contextlib.contextmanager
def schedule(model: nn.Module, name: Schedule) -> Iterator[nn.Module]:
    """Run ``model`` on the schedule ``name`` for as long as the context lasts; errors as for :func:`set_schedule`.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), SynchronousIF(T=4))
        >>> with schedule(net, "spikes"):
        ...     spikes = net(torch.ones(1, 2)).spikes
        >>> torch.equal(spikes.mean(0), net(torch.ones(1, 2)))
        True
    """
    before = [(neuron, neuron.schedule) for neuron in _neurons(model, name)]
    try:
        set_schedule(model, name)
        yield model
    finally:
        for neuron, value in before:
            neuron.schedule = value
