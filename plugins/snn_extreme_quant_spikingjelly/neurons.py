r"""SpikingJelly's neurons as :class:`~snn_extreme_quant.neurons.NeuronSpec`, and the reasons where there is none.

SpikingJelly fires on :math:`v \ge \theta` and resets in the same step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks import NeuronReading
from snn_extreme_quant.frameworks.checks import fires_like_a_step, readable_class
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant_spikingjelly.unreadable import UNREADABLE

__all__ = ["READERS", "is_neuron", "read_neuron"]

#: Methods that make up a neuron's forward pass and its initial state: who overrides one computes something else.
_DYNAMICS = (
    "forward",
    "reset",
    "functional_forward",
    "single_step_forward",
    "multi_step_forward",
    "single_step_functional_forward",
    "multi_step_functional_forward",
    "materialize_states",
    "neuronal_charge",
    "neuronal_fire",
    "neuronal_reset",
)


def is_neuron(module: nn.Module) -> bool:
    """Whether ``module`` is a SpikingJelly neuron or holds state like one, also of a class that cannot be read.

    A :class:`MemoryModule` without memories of its own (a whole network may derive from it) is none; what is inside it
    counts for itself.
    """
    if "spikingjelly.activation_based.neuron" not in sys.modules:
        return False
    from spikingjelly.activation_based import base, layer

    if any(cls.__module__.startswith("spikingjelly.activation_based.neuron") for cls in type(module).__mro__):
        return True
    # Whatever holds state over time and is no readable neuron must be refused, not ignored. Dropout keeps its mask as
    # state, and does nothing in evaluation.
    stateful = isinstance(module, base.MemoryModule) and bool(vars(module).get("_memories"))
    return stateful and not isinstance(module, (layer.Dropout, layer.Dropout2d))


def _scalar(neuron: Any, name: str) -> Tensor:
    value = getattr(neuron, name)
    if not isinstance(value, (int, float)):
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__}.{name} is a {type(value).__name__}; SpikingJelly computes with a number alone."
        )
    return torch.tensor(value, dtype=torch.float32)


def _initial(neuron: Any, memories: Mapping[str, str]) -> dict[str, float]:
    """Return where each memory starts, by the name that the spec has for it."""
    initial = {}
    for memory, state in memories.items():
        value = neuron.get_reset_value(memory)
        if not isinstance(value, (int, float)):
            raise UnsupportedNeuronError(
                f"{type(neuron).__name__} starts from a tensor of {memory}; use set_reset_value({memory!r}, <number>)."
            )
        initial[state] = float(value)
    return initial


def _refuse_precision(neuron: Any) -> None:
    if getattr(neuron, "_neuron_precision", None) is not None:
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__} runs at a reduced precision; clear it to compute in float32."
        )


def _refuse_surrogate(neuron: Any) -> None:
    if not fires_like_a_step(neuron.surrogate_function, at_zero=True):
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__}(surrogate_function=...) does not give 1 at and above and 0 below threshold; use"
            " one of spikingjelly.activation_based.surrogate with spiking=True."
        )


def _read(
    neuron: Any,
    charge: str,
    parameters: Mapping[str, Tensor],
    *,
    fire: str = "spike",
    memories: Mapping[str, str] | None = None,
) -> NeuronReading:
    _refuse_precision(neuron)
    if fire != "count":
        _refuse_surrogate(neuron)
    soft = neuron.v_reset is None
    reset = "subtract" if soft else "value"
    spec = NeuronSpec(charge, "ge", reset, "same_step", fire=fire)  # type: ignore[arg-type]
    numbers = {"threshold": _scalar(neuron, "v_threshold"), **parameters}
    if not soft:
        numbers["v_reset"] = _scalar(neuron, "v_reset")
    memories = memories or {"v": "v"}
    multi_step = neuron.step_mode == "m"
    attributes = {state: memory for memory, state in memories.items()}
    if multi_step and getattr(neuron, "store_v_seq", False):  # the simple nodes lack it
        attributes["v_sequence"] = "v_seq"
    return NeuronReading(spec, numbers, _initial(neuron, memories), multi_step=multi_step, attributes=attributes)


def _rest(neuron: Any) -> Tensor:
    return torch.zeros(()) if neuron.v_reset is None else _scalar(neuron, "v_reset")


def _integrate(neuron: Any) -> NeuronReading:
    return _read(neuron, "integrate", {})


def _relax(neuron: Any) -> NeuronReading:
    charge = "relax_input" if neuron.decay_input else "relax"
    return _read(neuron, charge, {"rest": _rest(neuron), "tau": _scalar(neuron, "tau")})


def _ottt_lif_node(neuron: Any) -> NeuronReading:
    """In evaluation it is a LIFNode, without the trace that training needs."""
    if neuron.step_mode != "s":
        raise UnsupportedNeuronError(f"{type(neuron).__name__} takes single steps alone; set its step_mode to 's'.")
    return _relax(neuron)


def _simple_lif_node(neuron: Any) -> NeuronReading:
    name = type(neuron).__name__
    if neuron.v_reset is None:
        raise UnsupportedNeuronError(f"{name}(v_reset=None) fails in SpikingJelly itself; use LIFNode(v_reset=None).")
    reading = _relax(neuron)
    # Its first step works on numbers in double precision, where only these give what float32 gives.
    if reading.initial["v"] != 0.0 or (neuron.v_reset != 0.0 and not neuron.decay_input):
        raise UnsupportedNeuronError(
            f"{name} computes its first step in double precision, from a number; use LIFNode, or start from 0 with"
            " decay_input=True or v_reset=0.0."
        )
    return reading


def _parametric_lif_node(neuron: Any) -> NeuronReading:
    if neuron.w.dtype != torch.float32:
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__}.w is {neuron.w.dtype}; convert the neuron with .float()."
        )
    charge = "rate_input" if neuron.decay_input else "rate"
    return _read(neuron, charge, {"rest": _rest(neuron), "rate": neuron.w.detach().sigmoid()})


def _cuba_lif_node(neuron: Any) -> NeuronReading:
    decays = {"decay": _scalar(neuron, "v_decay"), "current_decay": _scalar(neuron, "c_decay")}
    return _read(neuron, "synaptic", decays, memories={"v": "v", "c": "i"})


def _ilif_node(neuron: Any) -> NeuronReading:
    from spikingjelly.activation_based.surrogate import MultiLevelSpikeCount

    function = neuron.surrogate_function
    if type(function) is not MultiLevelSpikeCount or not function.spiking:
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__}(surrogate_function=...) gives no spike counts; use MultiLevelSpikeCount with"
            " spiking=True."
        )
    if neuron.v_reset is not None or neuron.decay_input:
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__} ignores v_reset and decay_input, which were set after it was built; set"
            " v_reset=None and decay_input=False."
        )
    levels = torch.tensor(float(function.max_spike_count))
    # The two modes leak in another order, and so round differently.
    if neuron.step_mode == "m":
        _scalar(neuron, "tau")
        decay = torch.tensor(1.0 - 1.0 / neuron.tau)
        return _read(neuron, "leak", {"decay": decay, "levels": levels}, fire="count")
    relax = {"rest": torch.zeros(()), "tau": _scalar(neuron, "tau"), "levels": levels}
    return _read(neuron, "relax", relax, fire="count")


def _ternary_if_node(neuron: Any) -> NeuronReading:
    return _read(neuron, "integrate", {}, fire="ternary")


def _ternary_lif_node(neuron: Any) -> NeuronReading:
    charge = "relax_input" if neuron.decay_input else "relax"
    return _read(neuron, charge, {"rest": _rest(neuron), "tau": _scalar(neuron, "tau")}, fire="ternary")


#: By class name.
READERS: dict[str, Callable[[Any], NeuronReading]] = {
    "CUBALIFNode": _cuba_lif_node,
    "HalfThresholdIFNode": _integrate,
    "IFNode": _integrate,
    "ILIFNode": _ilif_node,
    "LIFNode": _relax,
    "OTTTLIFNode": _ottt_lif_node,
    "ParametricLIFNode": _parametric_lif_node,
    "SLTTLIFNode": _relax,  # online only in its gradients
    "SimpleIFNode": _integrate,
    "SimpleLIFNode": _simple_lif_node,
    "TernaryIFNode": _ternary_if_node,
    "TernaryLIFNode": _ternary_lif_node,
}


def read_neuron(module: nn.Module) -> NeuronReading:
    """Read a neuron of one of the classes in :data:`READERS`.

    Raises:
        UnsupportedNeuronError: another class, a subclass with dynamics of its own, or an option without exact spec.
    """
    from spikingjelly.activation_based import neuron as sj

    readable = [getattr(sj, name) for name in READERS]
    theirs = any(cls.__module__.startswith("spikingjelly.") for cls in _own_classes(module))
    if not theirs and is_neuron(module):
        memories = ", ".join(module._memories)  # type: ignore[arg-type]
        raise UnsupportedNeuronError(
            f"{type(module).__name__} is a MemoryModule with state of its own ({memories}), which no spec describes;"
            " use SpikingJelly's neurons for what is kept over time."
        )
    base = readable_class(module, readable, _DYNAMICS, UNREADABLE)
    return READERS[base.__name__](module)


def _own_classes(module: nn.Module) -> list[type]:
    """Return the classes of a module without those that every stateful module derives from."""
    shared = "spikingjelly.activation_based.base"
    return [cls for cls in type(module).__mro__ if cls.__module__ != shared]
