r"""Proof that a fixed-point neuron layer cannot overflow: upper bounds of every magnitude in it.

Let :math:`|I| \le A` for the current, :math:`D = |d| 2^{-k}` for a decay, and :math:`|\lambda_d(v)| \le D|v| + 1/2`.
A state that obeys :math:`|v_t| \le \max(L, D |v_{t-1}| + B)` with :math:`|v_0| \le L` obeys for :math:`D < 1`
:math:`|v_t| \le \max(L, B / (1 - D))` for ever, and within :math:`T` steps in any case
:math:`|v_t| \le \max(1, D^T) L + B (1 + D + \dots + D^{T-1})`.

Resets with a threshold :math:`\theta \ge 0` never add to a magnitude beyond :math:`\theta`: where
:math:`v \triangleright \theta`, both :math:`v - \theta` and :math:`\lambda(v) - \theta` lie between :math:`-\theta - 1`
and :math:`v`. A negative threshold (or decay, with ``delayed`` timing) counts as one more current, and so do those of
:math:`\theta` that ``compensated`` takes off later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from snn_extreme_quant.neurons.fixed_point_spec import STATE_LIMIT
from snn_extreme_quant.neurons.spec import NeuronSpec

__all__ = ["Bounds", "Magnitudes", "bounds_of", "magnitudes_of"]

#: Bounds are computed in float64: this much more than their rounding.
_MARGIN = 1 + 1e-9


@dataclass(frozen=True)
class Bounds:
    """The largest magnitudes, over all neurons of a layer, that can occur.

    Args:
        current: of the input with all partial sums, times gain, with bias and feedback.
        potential: of states and of the potential before firing.
        parameter: of a threshold, bias, multiplier or initial state.
        decay: of a decay.
    """

    current: float
    potential: float
    parameter: float
    decay: float

    @property
    def fits(self) -> bool:
        """Whether nothing leaves 31 bits and no state is ever clipped."""
        return max(self.current, self.potential, self.parameter, self.decay) * _MARGIN <= STATE_LIMIT


@dataclass(frozen=True)
class Magnitudes:
    """What :class:`Bounds` says of a layer, for each neuron: float64, broadcastable to one step's shape."""

    current: Tensor
    potential: Tensor
    parameter: Tensor
    decay: Tensor

    @property
    def fits(self) -> Tensor:
        """Which neurons never leave 31 bits and are never clipped."""
        most = _joined([self.current, self.potential, self.parameter, self.decay])
        return most * _MARGIN <= STATE_LIMIT

    def where(self, choose: Tensor, other: Magnitudes) -> Magnitudes:
        """Return these where ``choose`` says so, and others elsewhere."""
        return Magnitudes(
            torch.where(choose, self.current, other.current),
            torch.where(choose, self.potential, other.potential),
            torch.where(choose, self.parameter, other.parameter),
            torch.maximum(self.decay, other.decay),
        )

    def bounds(self) -> Bounds:
        """Return the largest of all neurons."""
        return Bounds(_most([self.current]), _most([self.potential]), _most([self.parameter]), _most([self.decay]))


def bounds_of(
    spec: NeuronSpec,
    parameters: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    current: Tensor,
    shift: int,
    steps: int | None,
) -> Bounds:
    """Return bounds of a fixed-point neuron layer.

    Args:
        spec: which neuron, its charge one of fixed point's.
        parameters: whole numbers by name, as float64.
        initial: whole numbers by state, as float64.
        current: the largest magnitude of the current, per neuron.
        shift: bits behind the point of each decay.
        steps: number of time steps; None for any number.
    """
    return magnitudes_of(spec, parameters, initial, current, shift, steps).bounds()


def magnitudes_of(
    spec: NeuronSpec,
    parameters: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    current: Tensor,
    shift: int,
    steps: int | None,
) -> Magnitudes:
    """Return the same as :func:`bounds_of`, neuron by neuron."""
    decays = {name: value for name, value in parameters.items() if name.endswith(("decay", "potential_gain"))}
    others = [value for name, value in (*parameters.items(), *initial.items()) if name not in decays]
    shares = {name: value.abs() * 2.0**-shift for name, value in decays.items()}
    potential = _potential(spec, parameters, {k: v.abs() for k, v in initial.items()}, current, shares, steps)
    return Magnitudes(current, potential, _joined(others), _joined(list(decays.values())))


def _joined(values: list[Tensor]) -> Tensor:
    """Return the largest magnitude of values, neuron by neuron."""
    most = torch.zeros((), dtype=torch.float64)
    for value in values:
        most = torch.maximum(most, value.abs().double())
    return most


def _most(values: list[Tensor]) -> float:
    return max((float(value.abs().max()) for value in values if value.numel()), default=0.0)


def _settled(start: Tensor, share: Tensor, added: Tensor, steps: int | None) -> Tensor:
    """Return the bound of a state that starts below ``start``, keeps ``share`` of itself and gets ``added``."""
    start, share, added = torch.broadcast_tensors(start, share, added)  # type: ignore[no-untyped-call]
    if steps is None:
        lasting = torch.where(share < 1, added / (1 - share).clamp_min(1e-300), torch.inf)
        return torch.maximum(start, torch.where(added > 0, lasting, torch.where(share <= 1, start, torch.inf)))
    power = share**steps
    series = torch.where(share == 1, float(steps), (1 - power) / torch.where(share == 1, 1.0, 1 - share))
    return start * power.clamp_min(1) + added * series


def _potential(
    spec: NeuronSpec,
    p: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    current: Tensor,
    shares: Mapping[str, Tensor],
    steps: int | None,
) -> Tensor:
    """Bound the states, and the potential before firing."""
    one = torch.ones((), dtype=torch.float64)
    half, threshold = 0.5 * one, p["threshold"].abs()
    if spec.charge == "alpha":
        taken = threshold if spec.reset == "subtract" else 0 * one
        e = _settled(start["i_exc"], shares["excitation_decay"], current + taken + half, steps)
        f = _settled(start["i_inh"], shares["inhibition_decay"], current + half, steps)
        # What is charged is bounded like the state that it becomes.
        return _joined([e, f, shares["potential_gain"] * (e + f) + f + half, start["v"]])
    added, seen = current, []
    if spec.charge == "synaptic":
        added = _settled(start["i"], shares["current_decay"], current + half, steps)
        seen.append(added)
    share = one if spec.charge == "integrate" else shares["decay"]
    added = added + (half if "decay" in p else 0)
    # A reset that may take a potential away from 0; see the module's text.
    odd = (p["threshold"] < 0) | ((p.get("decay", one) < 0) if spec.timing != "same_step" else False)
    pushed = torch.where(odd, 2 * threshold, 0.0) if spec.reset == "subtract" else 0 * one
    least = torch.maximum(start["v"], threshold if spec.reset == "subtract" else 0 * one)
    if spec.reset == "value":
        least = torch.maximum(least, p["v_reset"].abs())
    if spec.timing == "compensated" and spec.reset == "zero":
        least = torch.maximum(least, 2 * added)
    if spec.timing != "same_step" and spec.reset == "subtract":
        # From max(share * v, threshold + 1/2) + added, the potential after a reset that came late.
        least = torch.maximum(least, threshold + half + added)
    v = _settled(least, share, added + pushed, steps)
    charged = share * v + added + pushed + (threshold if spec.reset == "subtract" else 0)
    return _joined([*seen, v, charged, start["v"]])
