r"""snnTorch's neurons as :class:`~snn_extreme_quant.neurons.NeuronSpec`, and the reasons where there is none.

snnTorch fires on :math:`v > \theta` and, by default, resets in the step after the spike.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks import NeuronReading
from snn_extreme_quant.neurons import NeuronSpec

__all__ = ["INNER_LAYERS", "READERS", "is_neuron", "read_neuron"]

#: Methods that make up a neuron's forward pass and its initial state: who overrides one computes something else.
_DYNAMICS = (
    "forward",
    "fire",
    "mem_reset",
    "reset_mem",
    "_base_state_function",
    "_base_sub",
    "_base_zero",
    "_base_int",
)
_RESETS = {"_base_sub": "subtract", "_base_zero": "zero", "_base_int": "none"}

#: Layers inside neurons that are called as modules.
INNER_LAYERS: dict[str, tuple[str, ...]] = {"RLeaky": ("recurrent",), "RSynaptic": ("recurrent",)}


def is_neuron(module: nn.Module) -> bool:
    """Whether ``module`` is a snnTorch neuron, also of a class that cannot be read."""
    snntorch = sys.modules.get("snntorch")
    if snntorch is None:  # no module of a framework that was never imported exists
        return False
    from snntorch._neurons.neurons import SpikingNeuron

    return isinstance(module, (SpikingNeuron, snntorch.LeakyParallel))


def _float32(owner: Any, name: str) -> Tensor:
    value = torch.as_tensor(getattr(owner, name)).detach()
    if value.dim() and value.dtype == torch.float64:
        raise UnsupportedNeuronError(
            f"{type(owner).__name__}.{name} is a float64 vector, which makes the neuron compute in float64;"
            f" pass {name}=....float()."
        )
    return value.float().clone()


def _reset_of(neuron: Any) -> str:
    method = getattr(neuron.state_function, "__name__", repr(neuron.state_function))
    reset = _RESETS.get(method)
    if reset is None or reset != neuron.reset_mechanism:
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__} was built with another reset mechanism than {neuron.reset_mechanism!r}, which it"
            f" says now; snnTorch then mixes the two. Build it with reset_mechanism={neuron.reset_mechanism!r}."
        )
    return reset


def _refuse_options(neuron: Any) -> None:
    name = type(neuron).__name__
    if neuron.inhibition:
        raise UnsupportedNeuronError(f"{name}(inhibition=True) couples the neurons of a layer; use inhibition=False.")
    if neuron.state_quant:
        raise UnsupportedNeuronError(
            f"{name}(state_quant=...) rounds the membrane potential by an arbitrary function; use state_quant=False."
        )
    probe = torch.tensor([-1.0, -1e-30, 0.0, 1e-30, 1.0])
    try:
        with torch.no_grad():
            fires = torch.equal(neuron.spike_grad(probe), (probe > 0).float())
    except Exception:  # a user's function may fail in any way
        fires = False
    if not fires:
        raise UnsupportedNeuronError(
            f"{name}(spike_grad=...) does not give 1 above and 0 at and below threshold; use one of snntorch.surrogate."
        )


def _leaky(neuron: Any) -> NeuronReading:
    graded = not bool((neuron.graded_spikes_factor == 1).all())
    if graded and bool((neuron.graded_spikes_factor == 0).any()):
        raise UnsupportedNeuronError("Leaky(graded_spikes_factor=0) never gives a spike; use a factor other than 0.")
    timing = "delayed" if neuron.reset_delay else "compensated"
    spec = NeuronSpec("leak", "gt", _reset_of(neuron), timing, graded)  # type: ignore[arg-type]
    parameters = {"threshold": _float32(neuron, "threshold"), "decay": _float32(neuron, "beta").clamp(0, 1)}
    if graded:
        parameters["amplitude"] = _float32(neuron, "graded_spikes_factor")
    return NeuronReading(spec, parameters, returns_state=neuron.output or not neuron.init_hidden)


def _lapicque(neuron: Any) -> NeuronReading:
    reset = {"zero": "cancel"}.get(_reset_of(neuron), neuron.reset_mechanism)
    spec = NeuronSpec("lapicque", "gt", reset, "delayed")
    for name in ("R", "C", "time_step"):
        _float32(neuron, name)
    rc = neuron.R.detach() * neuron.C.detach()
    parameters = {
        "threshold": _float32(neuron, "threshold"),
        "resistance": _float32(neuron, "R"),
        "inverse_rc": (1 / rc).float(),
        "time_step": _float32(neuron, "time_step"),
        "decay": (1 - neuron.time_step.detach() / rc).float(),
    }
    return NeuronReading(spec, parameters, returns_state=neuron.output or not neuron.init_hidden)


READERS: dict[str, Callable[[Any], NeuronReading]] = {"Leaky": _leaky, "Lapicque": _lapicque}


def read_neuron(module: nn.Module) -> NeuronReading:
    """Read a ``Leaky`` or ``Lapicque``.

    Raises:
        UnsupportedNeuronError: another class, a subclass with dynamics of its own, or an option without exact spec.
    """
    import snntorch

    known = {getattr(snntorch, name): reader for name, reader in READERS.items()}
    cls = type(module)
    base = next((c for c in cls.__mro__ if c in known), None)
    if base is None:
        raise UnsupportedNeuronError(
            f"{cls.__name__} is no neuron of snnTorch that has an exact spec; use snntorch's {' or '.join(READERS)}."
        )
    for owner in (module, *cls.__mro__[: cls.__mro__.index(base)]):
        changed = sorted(set(_DYNAMICS) & set(vars(owner)))
        if changed:
            raise UnsupportedNeuronError(
                f"{cls.__name__} overrides {changed[0]}() of snntorch.{base.__name__}, so what it computes is not"
                f" known; use snntorch.{base.__name__} itself."
            )
    _refuse_options(module)
    return known[base](module)
