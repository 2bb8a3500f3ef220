r"""SpikingJelly's neurons as :class:`~snn_extreme_quant.neurons.NeuronSpec`, and the reasons where there is none.

SpikingJelly fires on :math:`v \ge \theta` and resets in the same step.
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
    "reset",
    "functional_forward",
    "single_step_forward",
    "multi_step_forward",
    "single_step_functional_forward",
    "multi_step_functional_forward",
    "materialize_states",
)

#: Layers inside neurons that are called as modules.
INNER_LAYERS: dict[str, tuple[str, ...]] = {}


def is_neuron(module: nn.Module) -> bool:
    """Whether ``module`` is a SpikingJelly neuron, also of a class that cannot be read."""
    if "spikingjelly.activation_based.neuron" not in sys.modules:
        return False
    from spikingjelly.activation_based import base, layer

    # Every stateful module counts: what holds state over time and is no readable neuron must be refused, not ignored.
    # Dropout keeps its mask as state, and does nothing in evaluation.
    return isinstance(module, base.MemoryModule) and not isinstance(module, (layer.Dropout, layer.Dropout2d))


def _scalar(neuron: Any, name: str) -> Tensor:
    value = getattr(neuron, name)
    if not isinstance(value, (int, float)):
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__}.{name} is a {type(value).__name__}; SpikingJelly computes with a number alone."
        )
    return torch.tensor(value, dtype=torch.float32)


def _read(neuron: Any, charge: str, parameters: dict[str, Tensor]) -> NeuronReading:
    soft = neuron.v_reset is None
    spec = NeuronSpec(charge, "ge", "subtract" if soft else "value", "same_step")  # type: ignore[arg-type]
    parameters = {"threshold": _scalar(neuron, "v_threshold"), **parameters}
    if not soft:
        parameters["v_reset"] = _scalar(neuron, "v_reset")
    v0 = neuron.get_reset_value("v")
    if not isinstance(v0, (int, float)):
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__} starts from a tensor of membrane potentials; use set_reset_value('v', <number>)."
        )
    return NeuronReading(spec, parameters, {"v": float(v0)}, multi_step=neuron.step_mode == "m")


def _if_node(neuron: Any) -> NeuronReading:
    return _read(neuron, "integrate", {})


def _lif_node(neuron: Any) -> NeuronReading:
    rest = torch.zeros(()) if neuron.v_reset is None else _scalar(neuron, "v_reset")
    charge = "relax_input" if neuron.decay_input else "relax"
    return _read(neuron, charge, {"rest": rest, "tau": _scalar(neuron, "tau")})


READERS: dict[str, Callable[[Any], NeuronReading]] = {"IFNode": _if_node, "LIFNode": _lif_node}


def read_neuron(module: nn.Module) -> NeuronReading:
    """Read an ``IFNode`` or ``LIFNode``.

    Raises:
        UnsupportedNeuronError: another class, a subclass with dynamics of its own, or an option without exact spec.
    """
    from spikingjelly.activation_based import neuron as sj

    known = {getattr(sj, name): reader for name, reader in READERS.items()}
    cls = type(module)
    base = next((c for c in cls.__mro__ if c in known), None)
    if base is None:
        raise UnsupportedNeuronError(
            f"{cls.__name__} is no neuron of SpikingJelly that has an exact spec; use its {' or '.join(READERS)}."
        )
    for owner in (module, *cls.__mro__[: cls.__mro__.index(base)]):
        changed = sorted(set(_DYNAMICS) & set(vars(owner)))
        if changed:
            raise UnsupportedNeuronError(
                f"{cls.__name__} overrides {changed[0]}() of SpikingJelly's {base.__name__}, so what it computes is not"
                f" known; use {base.__name__} itself."
            )
    node: Any = module
    if node._neuron_precision is not None:
        raise UnsupportedNeuronError(f"{cls.__name__} runs at a reduced precision; clear it to compute in float32.")
    probe = torch.tensor([-1.0, -1e-30, 0.0, 1e-30, 1.0])
    try:
        with torch.no_grad():
            fires = torch.equal(node.surrogate_function(probe), (probe >= 0).float())
    except Exception:  # a user's function may fail in any way
        fires = False
    if not fires:
        raise UnsupportedNeuronError(
            f"{cls.__name__}(surrogate_function=...) does not give 1 at and above and 0 below threshold; use one of"
            " spikingjelly.activation_based.surrogate with spiking=True."
        )
    return known[base](node)
