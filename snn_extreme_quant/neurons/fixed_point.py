r"""From a neuron with float parameters, fed by integer sums, to one in fixed point.

A neuron layer is fed by a current that is an affine combination of integer sums, per channel
:math:`x = \sum_j S_j c_j + b`. In units of :math:`u\,2^{-F}`, with the real number :math:`u` the largest
:math:`|c_j|` of the channel, everything is a whole number: :math:`m_j = \mathrm{round}(c_j 2^F / u)`,
:math:`\theta = \mathrm{round}(V_{th} 2^F / u)`, likewise biases and states. With one sum :math:`m` is exactly
:math:`\pm 2^F`, so sums enter exactly and only threshold, bias and leak are rounded. A product of two sums, of which
each channel has its own, never occurs: one integer multiplication a sum is all that folding costs.

:math:`F` is the largest for which it is proved that nothing overflows (:mod:`.fixed_point_bounds`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from snn_extreme_quant.errors import UnsupportedModelError
from snn_extreme_quant.neurons.fixed_point_bounds import Bounds
from snn_extreme_quant.neurons.fixed_point_defaults import DECAY_BITS, MAX_STEPS
from snn_extreme_quant.neurons.fixed_point_positions import Trial, Whole, positions
from snn_extreme_quant.neurons.fixed_point_spec import MOST_LEVELS, NEVER, STATE_LIMIT, fixed_point_parameters
from snn_extreme_quant.neurons.spec import NeuronSpec

__all__ = [
    "DECAY_BITS",
    "MAX_STEPS",
    "MOST_FRACTION",
    "FixedPointNeuron",
    "IntegerCurrent",
    "IntegerSum",
    "RecurrentSums",
    "fold_neuron",
]

#: The largest fraction F that is tried, and the smallest that is taken.
MOST_FRACTION, LEAST_FRACTION = 16, 0


@dataclass(frozen=True)
class IntegerSum:
    """Integer sums that feed a neuron layer, and what one of them is worth.

    Args:
        scale: float64, broadcastable to one step's shape; may be negative (a folded batch norm) or 0.
        low: the smallest sum, a number or whole numbers broadcastable to one step's shape.
        high: the largest.
    """

    scale: Tensor
    low: Tensor | int
    high: Tensor | int

    @property
    def magnitude(self) -> Tensor:
        """The largest magnitude of a sum."""
        low, high = (torch.as_tensor(value, dtype=torch.float64).abs() for value in (self.low, self.high))
        return torch.maximum(low, high)


@dataclass(frozen=True)
class IntegerCurrent:
    r"""The current of a neuron layer: :math:`x = \sum_j S_j c_j + b`; ``bias`` broadcasts to one step's shape."""

    sums: tuple[IntegerSum, ...]
    bias: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))


@dataclass(frozen=True)
class RecurrentSums:
    """The layer that carries a neuron layer's spikes back to it: integer sums of them, their scale and bias.

    Args:
        scale: broadcastable to one step's shape (a convolution's: ``(N, 1, 1)``).
        reach: the largest sum of magnitudes of the codes of one output, a number or one for each output.
        bias: broadcastable to one step's shape.
    """

    scale: Tensor
    reach: Tensor | int
    bias: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))


@dataclass(frozen=True)
class FixedPointNeuron:
    r"""A layer of neurons in fixed point: what its operator takes, and the proof that it cannot overflow.

    Args:
        spec: which neuron, its charge brought to one that fixed point knows, not graded.
        unit: float64, :math:`u`; a potential :math:`V` stands for :math:`V u 2^{-F}`.
        fraction: :math:`F`.
        shift: :math:`k`, bits behind the point of each decay.
        multipliers: int32, one for each sum of the current. With a single sum it is in ``parameters["gain"]``, and the
            operator's input is that sum; with several the input is :math:`\sum_j S_j m_j` and ``gain`` is 1.
        parameters: int32 by name, in the order of the operator.
        initial: int32 by state (the spikes ``s`` uint8).
        bounds: magnitudes that cannot be exceeded.
        steps: for how many time steps; None for any number.
        coarse: how many channels that can fire have fewer than 8 bits behind the point.
    """

    spec: NeuronSpec
    unit: Tensor
    fraction: int
    shift: int
    multipliers: tuple[Tensor, ...]
    parameters: Mapping[str, Tensor]
    initial: Mapping[str, Tensor]
    bounds: Bounds
    steps: int | None
    coarse: int = 0

    @property
    def headroom(self) -> float:
        """Bits between the largest potential or current that can occur and the limit of the states."""
        return math.log2(STATE_LIMIT / max(self.bounds.potential, self.bounds.current, 1.0))

    def decoded(self, state: Tensor) -> Tensor:
        """Return a state (any but ``s``) as real numbers, float64."""
        return state.double() * self.unit * 2.0**-self.fraction


def fold_neuron(
    spec: NeuronSpec,
    parameters: Mapping[str, Tensor],
    current: IntegerCurrent,
    initial: Mapping[str, Tensor] | None = None,
    recurrent: RecurrentSums | None = None,
    *,
    decay_bits: int = DECAY_BITS,
    max_steps: int = MAX_STEPS,
    layer: str = "",
) -> FixedPointNeuron:
    r"""Bring a neuron layer to fixed point.

    All ways of charging are linear in state and input, and become one of four:

    =============================  ===========================================================================
    ``lapicque``                   ``leak``, the input multiplied by :math:`R \tfrac{1}{RC} \Delta t`
    ``relax_input``, ``relax``     ``leak`` with :math:`d = 1 - 1/\tau`, bias :math:`v_0/\tau`, input by
                                   :math:`1/\tau` or 1
    ``rate_input``, ``rate``       the same with :math:`\rho` for :math:`1/\tau`
    ``leak`` with a decay of 1     ``integrate``
    others                         as they are
    =============================  ===========================================================================

    A graded neuron is folded as one that is not; its amplitude is a unit of what reads it.

    Args:
        spec: the neuron.
        parameters: float tensors by name, as in a neuron's reading.
        current: what feeds it.
        initial: float tensors, the state before the first step; 0 for those not named.
        recurrent: for ``feedback`` ``"linear"`` and ``"conv"``.
        decay_bits: :math:`k`.
        max_steps: for how many time steps overflow is excluded at least.
        layer: its name, for messages.

    Raises:
        UnsupportedModelError: not even a fraction of 0 bits excludes overflow, or a number has no fixed-point form.

    Example:
        >>> spec = NeuronSpec("leak", "gt", "subtract", "delayed")
        >>> feed = IntegerCurrent((IntegerSum(torch.tensor([0.05], dtype=torch.float64), -64, 64),))
        >>> neuron = fold_neuron(spec, {"threshold": torch.tensor(1.0), "decay": torch.tensor(0.9)}, feed)
        >>> neuron.fraction, neuron.steps, {k: v.tolist() for k, v in neuron.parameters.items()}
        (16, None, {'threshold': [1310720], 'gain': [65536], 'bias': [0], 'decay': 29491})
    """
    if not 1 <= decay_bits <= 30:
        raise UnsupportedModelError(f"Layer {layer!r}: decay_bits={decay_bits}; use 1 to 30.")
    if max_steps < 1:
        raise UnsupportedModelError(f"Layer {layer!r}: max_steps={max_steps}; use 1 or more.")
    real = _linear(spec, parameters, current, recurrent)
    _check(real, layer)
    starts = {name: torch.zeros(()) for name in real.spec.states} | dict(initial or {})

    def tried(fraction: int, unit: Tensor) -> Trial:
        whole = _rounded(replace(real, unit=unit), starts, fraction, decay_bits)
        return Trial.of(real.spec, whole, decay_bits, max_steps)

    fraction, unit, coarse = positions(tried, real.unit, MOST_FRACTION)
    found = tried(fraction, unit)
    if not bool(found.fits.all()):
        raise UnsupportedModelError(_too_large(layer, tried(LEAST_FRACTION, real.unit).magnitudes.bounds(), max_steps))
    return _neuron(replace(real, unit=unit), found, fraction, decay_bits, coarse)


@dataclass(frozen=True)
class _Real:
    """A neuron whose charge is one of fixed point's, in real numbers (float64)."""

    spec: NeuronSpec
    scales: tuple[Tensor, ...]
    magnitudes: tuple[Tensor, ...]
    bias: Tensor
    decays: Mapping[str, Tensor]
    potentials: Mapping[str, Tensor]
    levels: Tensor | None
    feedback: Tensor | None
    reach: Tensor
    unit: Tensor


def _linear(
    spec: NeuronSpec, parameters: Mapping[str, Tensor], current: IntegerCurrent, recurrent: RecurrentSums | None
) -> _Real:
    """Write the neuron as one of the canonical charges: decays, a factor of the input, and a bias."""
    p = {name: value.double() for name, value in parameters.items()}
    one = torch.ones((), dtype=torch.float64)
    charge, factor, extra, decays = spec.charge, one, 0 * one, {}
    match spec.charge:
        case "leak":
            decays = {"decay": p["decay"]}
        case "lapicque":
            charge, factor, decays = "leak", p["resistance"] * p["inverse_rc"] * p["time_step"], {"decay": p["decay"]}
        case "relax_input" | "relax" | "rate_input" | "rate":
            rate = p["rate"] if "rate" in p else 1 / p["tau"]
            charge, decays, extra = "leak", {"decay": 1 - rate}, p["rest"] * rate
            factor = rate if spec.charge.endswith("_input") else one
        case "synaptic":
            decays = {name: p[name] for name in ("decay", "current_decay")}
        case "alpha":
            decays = {name: p[name] for name in ("excitation_decay", "inhibition_decay")}
            decays["potential_gain"] = p["gain"]
        case _:
            pass
    if charge == "leak" and bool((decays["decay"] == 1).all()):
        charge, decays = "integrate", {}
    if charge == "integrate" and spec.feedback != "none":
        charge, decays = "leak", {"decay": one}
    bias, feedback, reach = current.bias.double() * factor + extra, p.get("feedback"), one
    if recurrent is not None:
        bias, feedback = bias + recurrent.bias.double(), recurrent.scale.double()
        reach = torch.as_tensor(recurrent.reach, dtype=torch.float64)
    scales = tuple(part.scale.double() * factor for part in current.sums)
    return _Real(
        spec=replace(spec, charge=charge, graded=False),
        scales=scales,
        magnitudes=tuple(part.magnitude for part in current.sums),
        bias=bias,
        decays=decays,
        potentials={name: p[name] for name in ("threshold", "v_reset") if name in p},
        levels=p.get("levels"),
        feedback=feedback,
        reach=reach,
        unit=_unit(scales),
    )


def _unit(scales: Sequence[Tensor]) -> Tensor:
    """Return, per channel, the largest scale; 1 where none feeds it."""
    unit = torch.zeros((), dtype=torch.float64)
    for scale in scales:
        unit = torch.maximum(unit, scale.abs())
    return torch.where(unit > 0, unit, 1.0)


def _check(real: _Real, layer: str) -> None:
    """Refuse numbers that have no fixed-point form."""
    numbers = {**real.decays, **real.potentials, "bias": real.bias}
    numbers |= {f"scale {index}": scale for index, scale in enumerate(real.scales)}
    numbers |= {} if real.feedback is None else {"feedback": real.feedback}
    for name, value in numbers.items():
        # A threshold of +inf is one that is never reached.
        finite = torch.isfinite(value) | torch.isposinf(value) if name == "threshold" else torch.isfinite(value)
        if not bool(finite.all()) or (real.levels is not None and not bool(torch.isfinite(value).all())):
            raise UnsupportedModelError(f"Layer {layer!r}: its {name} holds NaN or infinite values.")
    if real.levels is not None:
        whole = bool(((real.levels == real.levels.round()) & (real.levels >= 0) & (real.levels <= MOST_LEVELS)).all())
        if not whole:
            raise UnsupportedModelError(
                f"Layer {layer!r} counts up to {float(real.levels.max()):g}; counts are bytes: use whole levels of at"
                f" most {MOST_LEVELS}."
            )
        if not bool((real.potentials["threshold"] > 0).all()):
            raise UnsupportedModelError(f"Layer {layer!r} counts thresholds, so its threshold must be positive.")


def _rounded(real: _Real, starts: Mapping[str, Tensor], fraction: int, shift: int) -> Whole:
    """Return all numbers in units of ``unit * 2**-fraction``."""
    per_unit = 2.0**fraction / real.unit

    def whole(value: Tensor) -> Tensor:
        return (value.double() * per_unit).round()

    multipliers = tuple(whole(scale) for scale in real.scales)
    lost = torch.zeros((), dtype=torch.float64)
    for scale, multiplier, magnitude in zip(real.scales, multipliers, real.magnitudes, strict=True):
        lost = lost + (scale.double() * per_unit - multiplier).abs() * magnitude
    gain = multipliers[0] if len(multipliers) == 1 else torch.ones((), dtype=torch.float64)
    parameters = {name: whole(value) for name, value in real.potentials.items()}
    parameters |= {"gain": gain, "bias": whole(real.bias)}
    parameters |= {name: (value * 2.0**shift).round() for name, value in real.decays.items()}
    if real.levels is not None:
        parameters["levels"] = real.levels
        parameters["threshold"] = parameters["threshold"].clamp_min(1)
    current = parameters["bias"].abs()
    for multiplier, magnitude in zip(multipliers, real.magnitudes, strict=True):
        current = current + multiplier.abs() * magnitude
    if real.feedback is not None:
        parameters["feedback"] = whole(real.feedback)
        current = current + parameters["feedback"].abs() * real.reach
    initial = {name: value.double() if name == "s" else whole(value) for name, value in starts.items()}
    ordered = {name: parameters[name] for name in fixed_point_parameters(real.spec)}
    return Whole(multipliers, ordered, initial, current, lost)


def _neuron(real: _Real, trial: Trial, fraction: int, shift: int, coarse: int) -> FixedPointNeuron:
    kinds = {"s": torch.uint8}
    parameters = dict(trial.whole.parameters)
    if bool(trial.never.any()):
        parameters["threshold"] = torch.where(trial.never, float(NEVER), parameters["threshold"])
    return FixedPointNeuron(
        spec=real.spec,
        unit=real.unit,
        fraction=fraction,
        shift=shift,
        multipliers=tuple(value.int() for value in trial.whole.multipliers),
        parameters={name: value.int() for name, value in parameters.items()},
        initial={name: value.to(kinds.get(name, torch.int32)) for name, value in trial.whole.initial.items()},
        bounds=trial.magnitudes.bounds(),
        steps=trial.steps,
        coarse=coarse,
    )


def _too_large(layer: str, largest: Bounds, max_steps: int) -> str:
    return (
        f"Layer {layer!r} does not fit 32 bit integers: within {max_steps} time steps its current may reach"
        f" {largest.current:.3g}, its potential {largest.potential:.3g}, a parameter {largest.parameter:.3g} and a"
        f" decay {largest.decay:.3g}, in units of one sum (at most 2^30 = {STATE_LIMIT:.3g}); lower max_steps or"
        " decay_bits, or use inputs or weights of fewer bits, or a smaller threshold in relation to the scale."
    )
