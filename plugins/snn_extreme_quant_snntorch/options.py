"""Numbers and options that snnTorch's neurons share, and the refusal of those without an exact spec."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks.checks import fires_like_a_step

__all__ = ["amplitude_of", "float32", "refuse_options", "reset_of", "returns_state", "timing_of", "unit_interval"]

_RESETS = {"_base_sub": "subtract", "_base_zero": "zero", "_base_int": "none"}
_RESET_NUMBERS = {"subtract": 0, "zero": 1, "none": 2}


def float32(owner: Any, name: str) -> Tensor:
    """Return ``owner.name`` as the float32 tensor that snnTorch computes with.

    A float64 number acts as float32 on float32 tensors, a float64 vector does not.
    """
    value = torch.as_tensor(getattr(owner, name)).detach()
    if value.dim() and value.dtype == torch.float64:
        raise UnsupportedNeuronError(
            f"{type(owner).__name__}.{name} is a float64 vector, which makes the neuron compute in float64;"
            f" pass {name}=....float()."
        )
    return value.float().clone()


def unit_interval(owner: Any, name: str) -> Tensor:
    """Return a decay, which snnTorch clamps to [0, 1] in each step."""
    return float32(owner, name).clamp(0, 1)


def reset_of(neuron: Any) -> str:
    """Return ``subtract``, ``zero`` or ``none``: what the neuron was built with, if that is what it says now."""
    method = getattr(neuron.state_function, "__name__", repr(neuron.state_function))
    reset = _RESETS.get(method)
    if reset is None or reset != neuron.reset_mechanism:
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__} was built with another reset mechanism than {neuron.reset_mechanism!r}, which it"
            f" says now; snnTorch then mixes the two. Build it with reset_mechanism={neuron.reset_mechanism!r}."
        )
    return reset


def timing_of(neuron: Any) -> str:
    """Return ``delayed``, or ``compensated`` with ``reset_delay=False``."""
    if getattr(neuron, "reset_delay", True):
        return "delayed"
    # Only here does snnTorch look at the buffer, which a checkpoint of another network may have changed.
    if int(neuron.reset_mechanism_val) != _RESET_NUMBERS[neuron.reset_mechanism]:
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__} loaded the reset mechanism of another network, and with reset_delay=False mixes"
            f" it with its own; set reset_mechanism = {neuron.reset_mechanism!r} on it after loading."
        )
    return "compensated"


def amplitude_of(neuron: Any) -> Tensor | None:
    """Return the factor that spikes are multiplied by, or None where it is 1."""
    factor = float32(neuron, "graded_spikes_factor")
    if bool((factor == 1).all()):
        return None
    if bool((factor == 0).any()):
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__}(graded_spikes_factor=0) never gives a spike; use a factor other than 0."
        )
    return factor


def returns_state(neuron: Any) -> bool:
    """Whether a call gives the states after the spikes."""
    return bool(neuron.output or not neuron.init_hidden)


def refuse_options(neuron: Any) -> None:
    """Raise UnsupportedNeuronError for an option without exact spec."""
    name = type(neuron).__name__
    if neuron.inhibition:
        raise UnsupportedNeuronError(f"{name}(inhibition=True) couples the neurons of a layer; use inhibition=False.")
    if neuron.state_quant:
        raise UnsupportedNeuronError(
            f"{name}(state_quant=...) rounds the membrane potential by an arbitrary function; use state_quant=False."
        )
    if not fires_like_a_step(neuron.spike_grad, at_zero=False):
        raise UnsupportedNeuronError(
            f"{name}(spike_grad=...) does not give 1 above and 0 at and below threshold; use one of snntorch.surrogate."
        )
