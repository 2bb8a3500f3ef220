r"""The fixed-point position of a neuron layer: one for the layer, as fine as the proof of no overflow allows.

A channel whose numbers are large in units of its sums (a batch norm that all but switched it off, a threshold far away)
must not take precision from the others. It keeps a position of its own: its unit is multiplied by a power of two, and
the factor of its sums divided by it, which is exact as long as that factor is a whole number. A channel whose threshold
its potential cannot reach gets ``NEVER`` for a threshold, and needs room for its potential alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from snn_extreme_quant.neurons.fixed_point_bounds import Magnitudes, magnitudes_of
from snn_extreme_quant.neurons.fixed_point_spec import STATE_LIMIT
from snn_extreme_quant.neurons.spec import NeuronSpec

__all__ = ["COARSE", "Trial", "Whole", "positions"]

#: Fewer bits behind the point than these are reported.
COARSE = 8
#: The position at which sums that hardly count may be rounded away, at the lowest, and what they may amount to then in
#: relation to the threshold or bias that is so much larger.
_LOWEST, _NEGLIGIBLE = -128, 2.0**-20
#: Bounds and thresholds are compared in float64.
_MARGIN = 1 + 1e-9


@dataclass(frozen=True)
class Whole:
    """A neuron in whole numbers (float64).

    Args:
        multipliers: one for each sum of its current.
        parameters: by name; a threshold may be infinite.
        initial: by state.
        current: the largest magnitude of the current.
        lost: the most that rounding the multipliers changes of it.
    """

    multipliers: tuple[Tensor, ...]
    parameters: Mapping[str, Tensor]
    initial: Mapping[str, Tensor]
    current: Tensor
    lost: Tensor

    @property
    def shape(self) -> torch.Size:
        """That of all parameters together."""
        shapes = [value.shape for value in (*self.parameters.values(), *self.multipliers)]
        return torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call, no-any-return]


@dataclass(frozen=True)
class Trial:
    """A neuron at some position, and whether it fits.

    Args:
        whole: its numbers.
        never: which channels cannot reach their threshold.
        magnitudes: what can occur.
        fits: which channels fit.
        steps: for how many steps; None for any number.
    """

    whole: Whole
    never: Tensor
    magnitudes: Magnitudes
    fits: Tensor
    steps: int | None

    @classmethod
    def of(cls, spec: NeuronSpec, whole: Whole, shift: int, max_steps: int) -> Trial:
        """Find out which channels fire at all, and bound them."""
        threshold, zero = whole.parameters["threshold"], torch.zeros((), dtype=torch.float64)
        without = replace(spec, reset="none")
        free = {name: value for name, value in whole.parameters.items() if name != "v_reset"} | {"threshold": zero}
        idle = [magnitudes_of(without, free, whole.initial, whole.current, shift, n) for n in (None, max_steps)]
        never = torch.zeros((), dtype=torch.bool)
        if spec.fire != "count":
            furthest = 2.0 if spec.fire == "change" else 1.0  # a change is of two potentials
            always, long = (threshold > furthest * m.potential * _MARGIN + 1 for m in idle)
            # A potential that keeps growing is clipped to 2^30 in the end: a threshold beyond stays out of reach.
            never = torch.isinf(threshold) | always | (long & (threshold > STATE_LIMIT))
            never = _reduced(never, whole.shape, torch.all)
        used = {name: torch.where(never, 0.0, v) if name in ("threshold", "v_reset") else v
                for name, v in whole.parameters.items()}  # fmt: skip
        steady, limited = (
            i.where(never, magnitudes_of(spec, used, whole.initial, whole.current, shift, n))
            for i, n in zip(idle, (None, max_steps), strict=True)
        )
        for_ever = steady.fits
        steps = None if bool(for_ever.all()) else max_steps
        found = steady if steps is None else steady.where(for_ever, limited)
        fits = _reduced(for_ever | limited.fits, whole.shape, torch.all)
        return cls(replace(whole, parameters=used), never, found, fits, steps)

    @property
    def negligible(self) -> Tensor:
        """Whether what rounding takes from a channel's sums is nothing beside its threshold and bias."""
        p = self.whole.parameters
        large = torch.maximum(p["threshold"].abs(), p["bias"].abs())
        return _reduced(self.whole.lost <= _NEGLIGIBLE * large, self.whole.shape, torch.all)


def _reduced(values: Tensor, shape: Sequence[int], join: Callable[..., Tensor]) -> Tensor:
    """Return values joined over the axes that ``shape`` has not, or has with length 1."""
    whole = torch.broadcast_shapes(values.shape, shape)  # type: ignore[no-untyped-call]
    values = values.expand(whole)
    while values.dim() > len(shape):
        values = join(values, 0)
    for axis, size in enumerate(shape):
        if size == 1:
            values = join(values, axis, keepdim=True)
    return values


def positions(tried: Callable[[int, Tensor], Trial], unit: Tensor, most: int) -> tuple[int, Tensor, int]:
    """Find the position of a layer.

    Args:
        tried: the neuron at a position, with a unit.
        unit: float64, the largest scale of each channel's sums.
        most: the largest position.

    Returns:
        The position, the units (of channels with a position of their own, larger ones), and how many channels that can
        fire have fewer than ``COARSE`` bits behind the point.
    """
    own = torch.full((), -torch.inf, dtype=torch.float64)
    never = torch.zeros((), dtype=torch.bool)
    for fraction in range(most, _LOWEST - 1, -1):
        scale = 2.0 ** -min(fraction, 0)
        trial = tried(max(fraction, 0), unit * scale)
        fits = trial.fits & trial.negligible if fraction < 0 else trial.fits
        new = fits & torch.isinf(own)
        own, never = torch.where(new, float(fraction), own), torch.where(new, trial.never, never)
        if bool(torch.isfinite(own).all()):
            break
    known = own[torch.isfinite(own) & (own >= 0)]
    fine = known[known >= COARSE]
    layer = int((fine if fine.numel() else known).min()) if known.numel() else 0
    apart = torch.where(torch.isfinite(own), (layer - own).clamp_min(0), 0.0)
    units = unit * 2.0**apart if bool((apart > 0).any()) else unit
    return layer, units, int(((own < COARSE) & ~never).sum())
