r"""snnTorch's recurrent neurons: the layer's last spikes are a second current, :math:`R(s_{t-1})`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks import NeuronReading
from snn_extreme_quant.layers import Conv2d, Linear
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant_snntorch.options import (
    amplitude_of,
    float32,
    reset_of,
    returns_state,
    timing_of,
    unit_interval,
)

__all__ = ["read_rleaky", "read_rsynaptic"]

_LINEAR = (nn.Linear, Linear)
_CONV = (nn.Conv2d, Conv2d)


def _feedback(neuron: Any) -> tuple[Literal["elementwise", "linear", "conv"], dict[str, Tensor], nn.Module | None]:
    """Return the kind of feedback, its parameter, and the layer that carries it."""
    if amplitude_of(neuron) is not None:
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__} with a graded_spikes_factor feeds back graded spikes; use a factor of 1."
        )
    layer = neuron.recurrent
    name = f"{type(neuron).__name__}.recurrent"
    if layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):
        raise UnsupportedNeuronError(f"{name} has hooks or a forward() of its own; remove them.")
    if type(layer).__name__ == "RecurrentOneToOne" and type(layer).__module__ == type(neuron).__module__:
        return "elementwise", {"feedback": float32(layer, "V")}, None
    # Exact types: a subclass may compute anything.
    if type(layer) not in (*_LINEAR, *_CONV):
        raise UnsupportedNeuronError(
            f"{name} is a {type(layer).__name__}; use the torch.nn.Linear or Conv2d that snnTorch puts there."
        )
    if layer.weight.dtype != torch.float32:
        raise UnsupportedNeuronError(f"{name} computes in {layer.weight.dtype}; convert the model with .float().")
    if type(layer) in _LINEAR:
        return "linear", {}, layer
    same = tuple(k // 2 for k in layer.kernel_size)
    if (layer.stride, layer.dilation, layer.groups, layer.padding, layer.padding_mode) != (
        (1, 1), (1, 1), 1, same, "zeros",
    ):  # fmt: skip
        raise UnsupportedNeuronError(
            f"{name} has another geometry than the Conv2d that snnTorch puts there: use stride 1, dilation 1, groups 1"
            " and zero padding by half the kernel."
        )
    return "conv", {}, layer


def read_rleaky(neuron: Any) -> NeuronReading:
    r"""Read an ``RLeaky``: :math:`\beta v + x + R(s_{t-1})`."""
    feedback, parameters, layer = _feedback(neuron)
    reset = {"zero": "cancel"}.get(reset_of(neuron), reset_of(neuron))
    spec = NeuronSpec("leak", "gt", reset, timing_of(neuron), feedback=feedback)  # type: ignore[arg-type]
    parameters |= {"threshold": float32(neuron, "threshold"), "decay": unit_interval(neuron, "beta")}
    return NeuronReading(spec, parameters, returns_state=returns_state(neuron), arguments=("s", "v"), recurrent=layer)


def read_rsynaptic(neuron: Any) -> NeuronReading:
    r"""Read an ``RSynaptic``: :math:`\beta v + i_t` with :math:`i_t = \alpha i_{t-1} + x + R(s_{t-1})`."""
    if not neuron.reset_delay:
        raise UnsupportedNeuronError(
            f"{type(neuron).__name__}(reset_delay=False) fails in snnTorch 1.0 itself; use reset_delay=True."
        )
    feedback, parameters, layer = _feedback(neuron)
    reset = {"zero": "cancel"}.get(reset_of(neuron), reset_of(neuron))
    spec = NeuronSpec("synaptic", "gt", reset, "delayed", feedback=feedback)  # type: ignore[arg-type]
    parameters |= {
        "threshold": float32(neuron, "threshold"),
        "decay": unit_interval(neuron, "beta"),
        "current_decay": unit_interval(neuron, "alpha"),
    }
    return NeuronReading(
        spec, parameters, returns_state=returns_state(neuron), arguments=("s", "i", "v"), recurrent=layer
    )
