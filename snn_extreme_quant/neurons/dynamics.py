"""The step and sequence functions of :class:`~snn_extreme_quant.neurons.NeuronSpec`, in float32.

These few lines are what framework neurons, ONNX function bodies and native kernels are all tested against. Each
operation is written in the order in which the frameworks do it, because float addition is not associative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.spec import NeuronSpec

__all__ = ["Recurrent", "State", "neuron_sequence", "neuron_step"]

#: What a neuron carries from step to step, by the names of :attr:`NeuronSpec.states`.
State = Mapping[str, Tensor]
#: The layer that carries a neuron layer's spikes back to it.
Recurrent = Callable[[Tensor], Tensor]


def _charge(
    spec: NeuronSpec, p: Mapping[str, Tensor], x: Tensor, state: State, fed: Tensor | None
) -> dict[str, Tensor]:
    """Return the potential before firing as ``v``, and the currents."""
    v = state["v"]
    match spec.charge:
        case "leak":
            h = p["decay"] * v + x
            return {"v": h if fed is None else h + fed}
        case "lapicque":
            return {"v": x * p["resistance"] * p["inverse_rc"] * p["time_step"] + p["decay"] * v}
        case "integrate":
            return {"v": v + x}
        case "relax_input":
            return {"v": v + (x - (v - p["rest"])) / p["tau"]}
        case "relax":
            return {"v": v - (v - p["rest"]) / p["tau"] + x}
        case "rate_input":
            return {"v": v + (x - (v - p["rest"])) * p["rate"]}
        case "rate":
            return {"v": v - (v - p["rest"]) * p["rate"] + x}
        case "synaptic":
            i = p["current_decay"] * state["i"] + x
            i = i if fed is None else i + fed
            return {"v": p["decay"] * v + i, "i": i}
        case "alpha":
            excitation = p["excitation_decay"] * state["i_exc"] + x
            inhibition = p["inhibition_decay"] * state["i_inh"] - x
            return {"v": p["gain"] * (excitation + inhibition), "i_exc": excitation, "i_inh": inhibition}


def _reached(spec: NeuronSpec, v: Tensor, threshold: Tensor) -> Tensor:
    return (v > threshold if spec.comparison == "gt" else v >= threshold).to(v.dtype)


def _fire(spec: NeuronSpec, p: Mapping[str, Tensor], h: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the neuron gives, and 1 where it fired (a count for ``count``)."""
    threshold = p["threshold"]
    match spec.fire:
        case "spike":
            s = _reached(spec, h, threshold)
            return s, s
        case "ternary":
            up, down = _reached(spec, h, threshold), _reached(spec, -h, threshold)
            return up - down, up + down
        case "count":
            s = torch.minimum((h / threshold).clamp_min(0.0), p["levels"]).round()
            return s, s
        case "change":
            s = _reached(spec, (h - v).abs(), threshold)
            return s, s


def _delayed_reset(
    spec: NeuronSpec, p: Mapping[str, Tensor], x: Tensor, state: State, fed: Tensor | None, r: Tensor
) -> dict[str, Tensor]:
    """Charge, with the reset of the spike of the step before."""
    if spec.reset == "zero":
        return _charge(spec, p, x, {**state, "v": (1.0 - r) * state["v"]}, fed)
    charged = _charge(spec, p, x, state, fed)
    if spec.charge == "alpha" and spec.reset == "subtract":
        return {
            "v": charged["v"] - -state["i_inh"] * r,
            "i_exc": charged["i_exc"] - p["threshold"] * r,
            "i_inh": charged["i_inh"] - charged["i_inh"] * r,
        }
    if spec.charge == "alpha" and spec.reset == "cancel":
        return {name: value - value * r for name, value in charged.items()}
    if spec.reset == "subtract":
        charged["v"] = charged["v"] - r * p["threshold"]
    elif spec.reset == "cancel":
        charged["v"] = charged["v"] - r * charged["v"]
    return charged


_Step = tuple[Tensor, dict[str, Tensor]]


def _same_step(spec: NeuronSpec, p: Mapping[str, Tensor], x: Tensor, state: State, fed: Tensor | None) -> _Step:
    """Charge, fire and reset."""
    new = _charge(spec, p, x, state, fed)
    h = new["v"]
    s, fired = _fire(spec, p, h, state["v"])
    match spec.reset:
        case "subtract":
            new["v"] = h - s * p["threshold"]
        case "value":
            new["v"] = fired * p["v_reset"] + (1.0 - fired) * h
        case "zero":
            new["v"] = (1.0 - fired) * h
        case _:
            pass
    return s, new


def _delayed(spec: NeuronSpec, p: Mapping[str, Tensor], x: Tensor, state: State, fed: Tensor | None) -> _Step:
    """Charge with the reset of the last spike, and fire; ``compensated``, what this spike resets follows at once."""
    r = _reached(spec, state["v"], p["threshold"])
    new = _delayed_reset(spec, p, x, state, fed, r)
    h = new["v"]
    s = _reached(spec, h, p["threshold"])
    if spec.timing == "compensated":
        if spec.reset == "subtract":
            new["v"] = h - (s - r) * p["threshold"]
        elif spec.reset in ("zero", "cancel"):
            new["v"] = h - (s - r) * h
    return s, new


def neuron_step(
    spec: NeuronSpec,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    state: State,
    recurrent: Recurrent | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Advance a layer of neurons by one time step.

    The equations are those of :class:`~snn_extreme_quant.neurons.NeuronSpec`. Exact reproduction of the frameworks'
    forward pass is the point, so there is no surrogate gradient here: train with the framework's own neuron.

    Args:
        spec: which neuron.
        parameters: one float32 tensor for each of ``spec.parameter_names``, broadcastable to ``x``.
        x: input current of one step, any shape.
        state: one tensor of ``x``'s shape for each of ``spec.states``.
        recurrent: the layer :math:`R` that carries the last spikes back, for ``feedback`` ``"linear"`` and ``"conv"``.

    Returns:
        Spikes and the state after the step, all of ``x``'s shape.

    Raises:
        ConfigError: a parameter, a state or the recurrent layer is missing.

    Example:
        >>> spec = NeuronSpec("integrate", "ge", "subtract", "same_step")
        >>> p = {"threshold": torch.tensor(1.0)}
        >>> spikes, state = neuron_step(spec, p, torch.tensor([1.5, 0.5]), {"v": torch.zeros(2)})
        >>> spikes.tolist(), state["v"].tolist()
        ([1.0, 0.0], [0.5, 0.5])
    """
    for what, names, given in (("parameter", spec.parameter_names, parameters), ("state", spec.states, state)):
        missing = [name for name in names if name not in given]
        if missing:
            raise ConfigError(f"{spec.operator} needs the {what} {missing[0]!r}; got {sorted(given)}.")
    fed: Tensor | None = None
    if spec.feedback == "elementwise":
        fed = state["s"] * parameters["feedback"]
    elif spec.feedback != "none":
        if recurrent is None:
            raise ConfigError(f"{spec.operator} needs its recurrent layer.")
        fed = recurrent(state["s"])
    step = _same_step if spec.timing == "same_step" else _delayed
    s, new = step(spec, parameters, x, state, fed)
    if spec.feedback != "none":
        new["s"] = s
    return (s * parameters["amplitude"] if spec.graded else s), new


def neuron_sequence(
    spec: NeuronSpec,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    state: State,
    recurrent: Recurrent | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run :func:`neuron_step` over the leading time axis.

    Args:
        spec: which neuron.
        parameters: as for :func:`neuron_step`.
        x: input current, shape ``(T, ...)``; T may be 0.
        state: state before the first step, each broadcastable to ``x[0]``.
        recurrent: as for :func:`neuron_step`.

    Returns:
        Spikes and, by name, the states after each step, all of shape ``(T, ...)``.

    Example:
        >>> spec = NeuronSpec("leak", "gt", "subtract", "delayed")
        >>> p = {"threshold": torch.tensor(1.0), "decay": torch.tensor(0.5)}
        >>> states = neuron_sequence(spec, p, torch.tensor([[1.5], [0.0], [0.0]]), {"v": torch.zeros(1)})[1]
        >>> states["v"].flatten().tolist()
        [1.5, -0.25, -0.125]
    """
    now = {name: value.expand(x.shape[1:]) for name, value in state.items()}
    spikes, states = torch.empty_like(x), {name: torch.empty_like(x) for name in spec.states}
    for t in range(x.shape[0]):
        spikes[t], now = neuron_step(spec, parameters, x[t], now, recurrent)
        for name, value in now.items():
            states[name][t] = value
    return spikes, states
