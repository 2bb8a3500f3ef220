r"""Neurons of the schedule ``"step"`` that train at their steady state, or through time.

They measure the current in thresholds and put it on a grid of 1/4096, so that every sum and every comparison is exact
in float32. A framework's own neuron inside (``cell``) then gives the very same spikes, in whatever order it adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.equilibrium import Mode, TrainedThresholds, not_half, steady_state, weighted_sum

__all__ = ["GRID", "Cell", "StepIF", "on_grid"]

#: Points of the grid in one threshold.
GRID = 4096.0


def on_grid(current: Tensor, threshold: Tensor, T: int) -> Tensor:
    r"""Measure a current in thresholds, on a grid on which T steps cannot round.

    .. math:: c = \mathrm{clip}(\mathrm{round}(4096 f / \vartheta) / 4096, \pm 1024 / T)

    :math:`T |c| \le 2^{10}`, so potentials stay below :math:`2^{11}` on a grid of :math:`2^{-13}` (half a point for
    :class:`Cell`.shift): 24 bits, what float32 holds. The gradient passes straight through the
    rounding.

    Args:
        current: :math:`f`, any shape.
        threshold: broadcastable to it.
        T: number of time steps.

    Example:
        >>> on_grid(torch.tensor([0.30001, 1e9]), torch.tensor(1.0), 16).tolist()
        [0.300048828125, 64.0]
    """
    ratio = (not_half(current) / threshold).clamp(-1024.0 / T, 1024.0 / T)
    return ((ratio * GRID).round() / GRID).detach() + (ratio - ratio.detach())


@dataclass(frozen=True)
class Cell:
    """A framework's neuron with a threshold of 1 and no leak.

    Args:
        neuron: takes the current of one step and gives its spikes.
        shift: added to the current of the first step. It is half a point of the grid for neurons that compare with >,
            which then give the spikes of those that compare with >=.
        reset: puts the neuron into its initial state.
    """

    neuron: nn.Module
    shift: float
    reset: Callable[[nn.Module], None]


def _without_cell(_neurons: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """Leave out what a framework's neuron keeps: constants, so the state is the same whatever makes the spikes."""
    for name in [key for key in state if key.startswith(f"{prefix}cell.")]:
        del state[name]


def _with_own_cell(neurons: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Put a framework's constants where a strict load looks for them, in the place of any that the state has."""
    for name in [key for key in state if key.startswith(f"{prefix}cell.")]:
        del state[name]
    state.update({f"{prefix}cell.{name}": value for name, value in neurons.get_submodule("cell").state_dict().items()})


class StepIF(TrainedThresholds):
    r"""A layer of (leaky) integrate-and-fire neurons, step by step (2308.10873, equations of the neuron).

    .. math:: p_t = g u_{t-1} + c_t, \quad s_t = [p_t \ge 1], \quad u_t = p_t - s_t

    with :math:`c_t` from :func:`on_grid`; signed: :math:`s_t = [p_t \ge 1] - [-p_t \ge 1]`.

    What it gives depends on ``mode``: all spikes with a surrogate gradient (``"surrogate"``), the steady state
    (``"equilibrium"``), or (``"simulated"``) the rates that the last simulation in ``"surrogate"`` had, with the
    gradient of the steady state. In ``"surrogate"`` a call is a simulation of T steps from the initial potential; with
    ``continues = True`` it makes the next steps, as many as it is given, of the simulation that :meth:`restart` began.

    Args:
        T: number of time steps.
        channels: length of the last axis; None for one threshold.
        threshold: where all thresholds start, positive.
        signed: whether spikes may be -1 too.
        learn_threshold: whether the logarithm of the threshold is a Parameter.
        leak: :math:`g` in (0, 1].
        start: :math:`u_0`, in thresholds, a multiple of 1/4096.
        cell: a framework's neuron that makes the spikes.

    Shapes:
        current ``(T, B, ...)``, or ``(B, ...)`` for the same in all steps (``constant=True``); spikes ``(T, B, ...)``,
        rates ``(B, ...)``.

    Raises:
        ConfigError: a value that means nothing.

    Example:
        >>> neuron = StepIF(T=4)
        >>> neuron.mode = "surrogate"
        >>> neuron(torch.tensor([0.5, 1.5]), constant=True).sum(0).tolist()
        [2.0, 4.0]
    """

    def __init__(
        self,
        T: int,
        channels: int | None = None,
        threshold: float = 1.0,
        signed: bool = False,
        learn_threshold: bool = True,
        leak: float = 1.0,
        start: float = 0.0,
        cell: Cell | None = None,
    ) -> None:
        """Check the options."""
        super().__init__()
        if type(T) is not int or not 1 <= T <= 1024:
            raise ConfigError(f"StepIF(T={T!r}): use a whole number from 1 to 1024.")
        if not 0.0 < leak <= 1.0:
            raise ConfigError(f"StepIF(leak={leak}): use a number above 0 and up to 1; 1 is no leak.")
        if not (math.isfinite(start) and -1.0 < start < 1.0 and start * GRID == round(start * GRID)):
            raise ConfigError(f"StepIF(start={start}): use a multiple of 1/4096 between -1 and 1, such as 0.5.")
        if cell is not None and leak != 1.0:
            raise ConfigError(f"StepIF(leak={leak}) with a framework's neuron: their leaks round differently; use 1.0.")
        self.T, self.signed, self.leak, self.start = T, signed, leak, start
        self.mode: Mode = "simulated"
        self.cell = None if cell is None else cell.neuron
        self._facts = cell
        self.continues = False
        self.last: Tensor | None = None
        self._potential: Tensor | None = None
        self._sum: Tensor | None = None
        self._weight = 0.0
        self.start_thresholds(channels, threshold, learn_threshold)
        if cell is not None:
            hooked: Any = self  # torch types neither of the two
            hooked.register_state_dict_post_hook(_without_cell)
            hooked.register_load_state_dict_pre_hook(_with_own_cell)

    def forward(self, current: Tensor, constant: bool = False) -> Tensor:
        """Return spikes ``(T, B, ...)`` in the mode ``"surrogate"``, else rates ``(B, ...)``."""
        if self.mode == "surrogate":
            scaled = on_grid(current, self.threshold, self.T)
            if self.continues:
                return self._steps(scaled)
            self.restart()
            spikes = self._steps(scaled.expand(self.T, *scaled.shape) if constant else scaled)
            self.restart()
            return spikes
        soft = steady_state(not_half(current), self.threshold, self.signed)
        if self.mode == "equilibrium":
            return soft
        if self.last is None or self.last.shape != soft.shape:
            raise ConfigError('StepIF in the mode "simulated" needs a call in "surrogate" first: it gives those rates.')
        return self.last + (soft - soft.detach())

    def restart(self) -> None:
        """Go to the initial potential; the rates of the last simulation stay."""
        self._potential = self._sum = None
        self._weight = 0.0
        if self._facts is not None:
            self._facts.reset(self._facts.neuron)

    def _steps(self, currents: Tensor) -> Tensor:
        """Make the next steps of a simulation; count their spikes."""
        spikes = self._framework_steps(currents) if self._facts is not None else self._own_steps(currents)
        total, weight = weighted_sum(spikes.detach(), self.leak)
        decay = self.leak ** len(currents)
        self._sum = total if self._sum is None else decay * self._sum + total
        self._weight = decay * self._weight + weight
        self.last = self._sum / self._weight
        return spikes

    def _framework_steps(self, currents: Tensor) -> Tensor:
        cell = cast("Cell", self._facts)
        first = currents[0] if self._sum is not None else currents[0] + (self.start + cell.shift)
        return torch.stack([cell.neuron(current) for current in (first, *currents[1:])])

    def _own_steps(self, currents: Tensor) -> Tensor:
        potential = torch.full_like(currents[0], self.start) if self._potential is None else self._potential
        spikes = []
        for current in currents:
            potential = self.leak * potential + current
            spike = _spike(potential) - _spike(-potential) if self.signed else _spike(potential)
            potential = potential - spike
            spikes.append(spike)
        self._potential = potential
        return torch.stack(spikes)

    def extra_repr(self) -> str:
        """Show the options."""
        return f"T={self.T}, channels={tuple(self.log_threshold.shape)}, signed={self.signed}, mode={self.mode!r}"


def _spike(potential: Tensor) -> Tensor:
    """Return [p >= 1], with the gradient of an arctangent of width 2 / pi (Fang et al. 2021)."""
    hard = (potential >= 1.0).to(potential.dtype)
    if not (torch.is_grad_enabled() and potential.requires_grad):
        return hard
    soft = torch.atan(math.pi * (potential - 1.0)) / math.pi
    return hard + (soft - soft.detach())
