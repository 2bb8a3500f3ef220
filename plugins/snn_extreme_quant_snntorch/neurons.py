r"""snnTorch's neurons as :class:`~snn_extreme_quant.neurons.NeuronSpec`, and the reasons where there is none.

snnTorch fires on :math:`v > \theta` and, by default, resets in the step after the spike.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks import NeuronReading
from snn_extreme_quant.frameworks.checks import readable_class
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant_snntorch.options import (
    amplitude_of,
    float32,
    refuse_options,
    reset_of,
    returns_state,
    timing_of,
    unit_interval,
)
from snn_extreme_quant_snntorch.recurrent import read_rleaky, read_rsynaptic
from snn_extreme_quant_snntorch.unreadable import UNREADABLE

__all__ = ["READERS", "is_neuron", "read_neuron"]

#: Methods that make up a neuron's forward pass and its initial state: who overrides one computes something else.
_DYNAMICS = (
    "forward",
    "fire",
    "mem_reset",
    "reset_mem",
    "_base_state_function",
    "_base_state_reset_zero",
    "_base_state_reset_sub_function",
    "_base_sub",
    "_base_zero",
    "_base_int",
)


def is_neuron(module: nn.Module) -> bool:
    """Whether ``module`` is a snnTorch neuron, also of a class that cannot be read."""
    snntorch = sys.modules.get("snntorch")
    if snntorch is None:  # no module of a framework that was never imported exists
        return False
    from snntorch._neurons.neurons import SpikingNeuron

    return isinstance(module, (SpikingNeuron, snntorch.LeakyParallel))


def _reading(
    neuron: Any, charge: str, reset: str, parameters: dict[str, Tensor], arguments: tuple[str, ...] = ()
) -> NeuronReading:
    amplitude = amplitude_of(neuron)
    spec = NeuronSpec(charge, "gt", reset, timing_of(neuron), graded=amplitude is not None)  # type: ignore[arg-type]
    parameters["threshold"] = float32(neuron, "threshold")
    if amplitude is not None:
        parameters["amplitude"] = amplitude
    return NeuronReading(spec, parameters, returns_state=returns_state(neuron), arguments=arguments)


def _canceling(neuron: Any) -> str:
    # All but Leaky reset to zero by taking the new state off itself.
    return {"zero": "cancel"}.get(reset_of(neuron), reset_of(neuron))


def _leaky(neuron: Any) -> NeuronReading:
    return _reading(neuron, "leak", reset_of(neuron), {"decay": unit_interval(neuron, "beta")})


def _lapicque(neuron: Any) -> NeuronReading:
    parameters = {"resistance": float32(neuron, "R"), "time_step": float32(neuron, "time_step")}
    float32(neuron, "C")  # refused as a float64 vector
    rc = neuron.R.detach() * neuron.C.detach()
    parameters |= {"inverse_rc": (1 / rc).float(), "decay": (1 - neuron.time_step.detach() / rc).float()}
    return _reading(neuron, "lapicque", _canceling(neuron), parameters)


def _synaptic(neuron: Any) -> NeuronReading:
    parameters = {"decay": unit_interval(neuron, "beta"), "current_decay": unit_interval(neuron, "alpha")}
    return _reading(neuron, "synaptic", _canceling(neuron), parameters, ("i", "v"))


def _alpha(neuron: Any) -> NeuronReading:
    parameters = {
        "excitation_decay": unit_interval(neuron, "alpha"),
        "inhibition_decay": unit_interval(neuron, "beta"),
    }
    # In the precision and the order of snnTorch: rounding to float32 comes last.
    alpha, beta = neuron.alpha.detach().clamp(0, 1), neuron.beta.detach().clamp(0, 1)
    parameters["gain"] = (torch.log(alpha) / (torch.log(beta) - torch.log(alpha)) + 1).float()
    if not bool(torch.isfinite(parameters["gain"]).all()):
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__} has alpha or beta of 0, or both equal: its gain"
            " log(alpha) / (log(beta) - log(alpha)) + 1 is not finite; use 0 < beta < alpha."
        )
    return _reading(neuron, "alpha", _canceling(neuron), parameters, ("i_exc", "i_inh", "v"))


def _delta_leaky(neuron: Any) -> NeuronReading:
    spec = NeuronSpec("leak", "gt", "none", "same_step", fire="change")
    # Unlike Leaky it does not clamp beta; resets, grading and quantised states it takes and ignores.
    parameters = {"threshold": float32(neuron, "delta_threshold"), "decay": float32(neuron, "beta")}
    return NeuronReading(spec, parameters, returns_state=True, arguments=("v", "v_before"), grouped=True)


#: What snnTorch calls the states.
_ATTRIBUTES = {
    "v": "mem", "v_before": "mem_prev", "i": "syn", "i_exc": "syn_exc", "i_inh": "syn_inh", "s": "spk"
}  # fmt: skip

#: By class name.
READERS: dict[str, Callable[[Any], NeuronReading]] = {
    "Alpha": _alpha,
    "DeltaLeaky": _delta_leaky,
    "Lapicque": _lapicque,
    "Leaky": _leaky,
    "RLeaky": read_rleaky,
    "RSynaptic": read_rsynaptic,
    "Synaptic": _synaptic,
}


def read_neuron(module: nn.Module) -> NeuronReading:
    """Read a neuron of one of the classes in :data:`READERS`.

    Raises:
        UnsupportedNeuronError: another class, a subclass with dynamics of its own, or an option without exact spec.
    """
    import snntorch

    readable = [getattr(snntorch, name) for name in READERS]
    base = readable_class(module, readable, _DYNAMICS, UNREADABLE)
    refuse_options(module)
    reading = READERS[base.__name__](module)
    return replace(reading, attributes={state: _ATTRIBUTES[state] for state in reading.arguments})
