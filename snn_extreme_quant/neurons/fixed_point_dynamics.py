r"""The step and sequence functions of fixed-point neurons, in whole numbers.

What :mod:`~snn_extreme_quant.neurons.dynamics` is in float32, this is in integers: the few lines that ONNX function
bodies, native kernels and the numpy golden model are tested against. Nothing is rounded but the leak, and that as
written: :math:`\lambda_d(v) = \lfloor (v d + 2^{k-1}) / 2^k \rfloor`, in 64 bits. All else is 32 bit arithmetic, which
wraps around; after a step each state is clipped to :math:`\pm 2^{30}`. Folding proves that neither ever happens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.dynamics import Recurrent, State
from snn_extreme_quant.neurons.fixed_point_spec import STATE_LIMIT, fixed_point_parameters, spike_limits
from snn_extreme_quant.neurons.spec import NeuronSpec

__all__ = ["fixed_point_sequence", "fixed_point_step"]


def _leak(value: Tensor, decay: Tensor, shift: int) -> Tensor:
    """Multiply by ``decay / 2**shift`` and round half up; torch's right shift of negative numbers rounds down."""
    return ((value.long() * decay.long() + (1 << (shift - 1))) >> shift).int()


def _charge(spec: NeuronSpec, p: Mapping[str, Tensor], current: Tensor, state: State, shift: int) -> dict[str, Tensor]:
    """Return the potential before firing as ``v``, and the currents."""
    v = state["v"]
    match spec.charge:
        case "leak":
            return {"v": _leak(v, p["decay"], shift) + current}
        case "integrate":
            return {"v": v + current}
        case "synaptic":
            i = _leak(state["i"], p["current_decay"], shift) + current
            return {"v": _leak(v, p["decay"], shift) + i, "i": i}
        case _:
            e = _leak(state["i_exc"], p["excitation_decay"], shift) + current
            f = _leak(state["i_inh"], p["inhibition_decay"], shift) - current
            return {"v": _leak(e + f, p["potential_gain"], shift), "i_exc": e, "i_inh": f}


def _reached(spec: NeuronSpec, v: Tensor, threshold: Tensor) -> Tensor:
    return v > threshold if spec.comparison == "gt" else v >= threshold


def _fire(spec: NeuronSpec, p: Mapping[str, Tensor], h: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the neuron gives, and whether it fired."""
    threshold = p["threshold"]
    match spec.fire:
        case "spike":
            fired = _reached(spec, h, threshold)
            return fired.int(), fired
        case "ternary":
            up, down = _reached(spec, h, threshold), _reached(spec, -h, threshold)
            return up.int() - down.int(), up | down
        case "count":
            nearest = torch.div(h.clamp_min(0) + (threshold >> 1), threshold, rounding_mode="floor")
            count = torch.minimum(nearest, p["levels"])
            return count, count > 0
        case "change":
            fired = _reached(spec, (h - v).abs(), threshold)
            return fired.int(), fired


_Step = tuple[Tensor, dict[str, Tensor]]


def _same_step(spec: NeuronSpec, p: Mapping[str, Tensor], current: Tensor, state: State, shift: int) -> _Step:
    """Charge, fire and reset."""
    new = _charge(spec, p, current, state, shift)
    h = new["v"]
    s, fired = _fire(spec, p, h, state["v"])
    match spec.reset:
        case "subtract":
            new["v"] = h - s * p["threshold"]
        case "value":
            new["v"] = torch.where(fired, p["v_reset"], h)
        case "zero":
            new["v"] = torch.where(fired, 0, h)
        case _:
            pass
    return s, new


def _reset_by_last(
    spec: NeuronSpec, p: Mapping[str, Tensor], current: Tensor, state: State, shift: int, r: Tensor
) -> dict[str, Tensor]:
    """Charge, with the reset of the spike of the step before (``r``: whether there was one)."""
    if spec.reset == "zero":
        return _charge(spec, p, current, {**state, "v": torch.where(r, 0, state["v"])}, shift)
    charged = _charge(spec, p, current, state, shift)
    if spec.reset == "cancel":
        return (
            {name: torch.where(r, 0, value) for name, value in charged.items()}
            if spec.charge == "alpha"
            else ({**charged, "v": torch.where(r, 0, charged["v"])})
        )
    if spec.reset == "subtract" and spec.charge == "alpha":
        return {
            "v": charged["v"] + torch.where(r, state["i_inh"], 0),
            "i_exc": charged["i_exc"] - torch.where(r, p["threshold"], 0),
            "i_inh": torch.where(r, 0, charged["i_inh"]),
        }
    if spec.reset == "subtract":
        charged["v"] = charged["v"] - torch.where(r, p["threshold"], 0)
    return charged


def _delayed(spec: NeuronSpec, p: Mapping[str, Tensor], current: Tensor, state: State, shift: int) -> _Step:
    """Charge with the reset of the last spike, and fire; ``compensated``, what this spike resets follows at once."""
    r = _reached(spec, state["v"], p["threshold"])
    new = _reset_by_last(spec, p, current, state, shift, r)
    h = new["v"]
    s = _reached(spec, h, p["threshold"]).int()
    if spec.timing == "compensated" and spec.reset != "none":
        new["v"] = h - (s - r.int()) * (p["threshold"] if spec.reset == "subtract" else h)
    return s, new


def fixed_point_step(
    spec: NeuronSpec,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    state: State,
    shift: int,
    recurrent: Recurrent | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Advance a layer of fixed-point neurons by one time step.

    With the input :math:`x`, the current is :math:`I = g x + b + w R(s_{t-1})` (:math:`g` ``gain``, :math:`b` ``bias``,
    :math:`w` ``feedback``; the last term with feedback alone), and the potential before firing, by ``spec.charge``,

    =============  ==============================================================================================
    ``leak``       :math:`\lambda_d(v) + I`
    ``integrate``  :math:`v + I`
    ``synaptic``   :math:`\lambda_d(v) + i_t,\; i_t = \lambda_a(i_{t-1}) + I`
    ``alpha``      :math:`\lambda_\tau(e_t + f_t),\; e_t = \lambda_\alpha(e_{t-1}) + I,\;
                   f_t = \lambda_\beta(f_{t-1}) - I`
    =============  ==============================================================================================

    Firing and reset are those of :class:`~snn_extreme_quant.neurons.NeuronSpec`, on whole numbers, but for ``count``:
    :math:`s = \min(\lfloor (\max(h, 0) + \lfloor \theta / 2 \rfloor) / \theta \rfloor, D)`. At
    :math:`h = (n + 1/2)\theta` it rounds up, where float rounds to the even neighbour.

    Args:
        spec: which neuron; its charge one of the four above, not graded.
        parameters: whole numbers for each of :func:`fixed_point_parameters`, broadcastable to ``x``.
        x: input of one step, whole numbers of any shape.
        state: whole numbers of ``x``'s shape for each of ``spec.states``.
        shift: :math:`k`, the bits behind the point of each decay; 1 to 30.
        recurrent: the integer sums :math:`R` of the last spikes, for ``feedback`` ``"linear"`` and ``"conv"``.

    Returns:
        Spikes (uint8; int8 for ``ternary``) and the state after the step (int32; the spikes ``s`` uint8).

    Raises:
        ConfigError: a parameter, a state or the recurrent layer is missing, the neuron has no fixed-point form, or a
            current is beyond the limit of the states.

    Example:
        >>> spec = NeuronSpec("leak", "gt", "subtract", "same_step")
        >>> whole = {"threshold": 10, "gain": 4, "bias": 1, "decay": 24576}
        >>> p = {name: torch.tensor(value) for name, value in whole.items()}
        >>> spikes, state = fixed_point_step(spec, p, torch.tensor([1, 2]), {"v": torch.tensor([-6, 6])}, 15)
        >>> spikes.tolist(), state["v"].tolist()
        ([0, 1], [1, 4])
    """
    names = fixed_point_parameters(spec)
    for what, needed, given in (("parameter", names, parameters), ("state", spec.states, state)):
        missing = [name for name in needed if name not in given]
        if missing:
            raise ConfigError(f"{spec.operator} in fixed point needs the {what} {missing[0]!r}; got {sorted(given)}.")
    if not 1 <= shift <= 30:
        raise ConfigError(f"{spec.operator} in fixed point: shift={shift}; use 1 to 30.")
    p = {name: parameters[name].int() for name in names}
    whole = {name: state[name].int() for name in spec.states}
    current = x.long() * p["gain"] + p["bias"]
    if spec.feedback != "none":
        last = whole["s"].long()
        if spec.feedback != "elementwise":
            if recurrent is None:
                raise ConfigError(f"{spec.operator} needs its recurrent layer.")
            last = recurrent(last)
        current = current + last * p["feedback"]
    if current.numel() and int(current.abs().max()) > STATE_LIMIT:
        raise ConfigError(
            f"{spec.operator} in fixed point: a current of {int(current.abs().max())} is beyond the limit of 2^30; its"
            " input is larger than it was folded for."
        )
    step = _same_step if spec.timing == "same_step" else _delayed
    s, new = step(spec, p, current.int(), whole, shift)
    after = {name: value.clamp(-STATE_LIMIT, STATE_LIMIT) for name, value in new.items()}
    spikes = s.to(torch.int8 if spike_limits(spec)[0] < 0 else torch.uint8)
    return spikes, (after if spec.feedback == "none" else {**after, "s": spikes})


def fixed_point_sequence(
    spec: NeuronSpec,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    state: State,
    shift: int,
    recurrent: Recurrent | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run :func:`fixed_point_step` over the leading time axis.

    Args:
        spec: as for :func:`fixed_point_step`, like the other arguments that are not named here.
        parameters: whole numbers.
        x: inputs, shape ``(T, ...)``; T may be 0.
        state: state before the first step, each broadcastable to ``x[0]``.
        shift: bits behind the point of each decay.
        recurrent: integer sums of the last spikes.

    Returns:
        Spikes and, by name, the states after each step, all of shape ``(T, ...)``.

    Example:
        >>> spec = NeuronSpec("integrate", "ge", "subtract", "same_step")
        >>> p = {"threshold": torch.tensor(3), "gain": torch.tensor(2), "bias": torch.tensor(0)}
        >>> fixed_point_sequence(spec, p, torch.tensor([[1], [1], [0]]), {"v": torch.zeros(1)}, 15)[0].flatten()
        tensor([0, 1, 0], dtype=torch.uint8)
    """
    now: State = {name: value.expand(x.shape[1:]) for name, value in state.items()}
    kind = torch.int8 if spike_limits(spec)[0] < 0 else torch.uint8
    spikes = torch.empty(x.shape, dtype=kind)
    states = {name: torch.empty(x.shape, dtype=kind if name == "s" else torch.int32) for name in spec.states}
    for t in range(x.shape[0]):
        spikes[t], now = fixed_point_step(spec, parameters, x[t], now, shift, recurrent)
        for name, value in now.items():
            states[name][t] = value
    return spikes, states
