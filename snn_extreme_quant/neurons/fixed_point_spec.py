"""Names and limits of fixed-point neurons: what their operators, kernels and folding have in common."""

from __future__ import annotations

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.spec import NeuronSpec

__all__ = ["MOST_LEVELS", "NEVER", "STATE_LIMIT", "fixed_point_parameters", "spike_limits"]

#: States are clipped to this magnitude after each step, so that sums of a few of them fit 32 bits.
STATE_LIMIT = 2**30
#: A threshold that is never reached: a clipped state and a current, of at most 2^30 - 2, stay below it together.
NEVER = 2**31 - 1
#: The largest count that a step may give: spikes are bytes.
MOST_LEVELS = 255

#: The parameters that each way of charging needs besides ``gain`` and ``bias``. Others are brought to one of these.
_DECAYS: dict[str, tuple[str, ...]] = {
    "leak": ("decay",),
    "integrate": (),
    "synaptic": ("decay", "current_decay"),
    "alpha": ("excitation_decay", "inhibition_decay", "potential_gain"),
}


def fixed_point_parameters(spec: NeuronSpec) -> tuple[str, ...]:
    """Return the names of the whole-number parameters of a fixed-point neuron, in the order that operators take them.

    Raises:
        ConfigError: the neuron has no fixed-point form of its own; ``fold_neuron`` brings it to one.

    Example:
        >>> fixed_point_parameters(NeuronSpec("leak", "ge", "value", "same_step"))
        ('threshold', 'gain', 'bias', 'decay', 'v_reset')
    """
    if spec.charge not in _DECAYS or spec.graded:
        raise ConfigError(f"{spec.operator} is computed in fixed point as one of {', '.join(_DECAYS)}, not graded.")
    names = ("threshold", "gain", "bias", *_DECAYS[spec.charge])
    if spec.reset == "value":
        names += ("v_reset",)
    if spec.fire == "count":
        names += ("levels",)
    return names if spec.feedback == "none" else (*names, "feedback")


def spike_limits(spec: NeuronSpec, levels: int = MOST_LEVELS) -> tuple[int, int]:
    """Return the smallest and the largest spike of a neuron; ``levels`` is the most that one that counts gives."""
    if spec.fire == "count":
        return 0, levels
    return (-1, 1) if spec.fire == "ternary" else (0, 1)
