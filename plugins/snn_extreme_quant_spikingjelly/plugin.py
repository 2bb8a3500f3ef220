"""SpikingJelly as a :class:`~snn_extreme_quant.frameworks.Framework`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from snn_extreme_quant.frameworks import NeuronReading
from snn_extreme_quant_spikingjelly.neurons import READERS, is_neuron, read_neuron
from snn_extreme_quant_spikingjelly.unreadable import UNREADABLE

__all__ = ["SpikingJelly"]


class SpikingJelly:
    """The plugin."""

    name = "spikingjelly"
    api_version = 2
    requirement = "spikingjelly>=2.0,<3"
    install = 'pip install "snn-extreme-quant[spikingjelly]"'
    reset_methods: Sequence[str] = ("reset",)

    def is_available(self) -> bool:
        """Whether SpikingJelly is installed."""
        spec = importlib.util.find_spec("spikingjelly")
        return spec is not None and spec.origin is not None  # a mere folder of that name has no origin

    def neuron_classes(self) -> Sequence[type[nn.Module]]:
        """The classes with an exact spec."""
        from spikingjelly.activation_based import neuron

        return [getattr(neuron, name) for name in READERS]

    def unreadable_neurons(self) -> Mapping[str, str]:
        """SpikingJelly's other neurons and stateful layers, each with the reason why it has no exact spec."""
        return UNREADABLE

    def inner_layers(self, module: nn.Module) -> Sequence[str]:
        """Names of the layers inside a stateful container that it calls as modules."""
        if "spikingjelly.activation_based.layer" not in sys.modules:
            return ()
        from snn_extreme_quant_spikingjelly.layers import inner_layers

        return inner_layers(module)

    def is_neuron(self, module: nn.Module) -> bool:
        """Whether ``module`` is one of SpikingJelly's neurons."""
        return is_neuron(module)

    def read_neuron(self, module: nn.Module) -> NeuronReading:
        """Read a neuron of one of :meth:`neuron_classes`; others are refused with the reason."""
        return read_neuron(module)

    def write_neuron(self, reading: NeuronReading) -> nn.Module:
        """Make the neuron that reads as ``reading``, for ``from_nir``."""
        from snn_extreme_quant_spikingjelly.writing import write_neuron

        return write_neuron(reading)

    def write_layer(self, module: nn.Module, multi_step: bool) -> nn.Module:
        """Make torch's layer into SpikingJelly's, which know step modes, for ``from_nir``."""
        from snn_extreme_quant_spikingjelly.writing import write_layer

        return write_layer(module, multi_step)

    def layers(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """SpikingJelly's own layers with weights, which know ``step_mode``."""
        if "spikingjelly.activation_based.layer" not in sys.modules:
            return {}  # never imported, so no model holds one; a snnTorch user need not wait for the import
        from snn_extreme_quant_spikingjelly.layers import LAYERS

        return LAYERS

    def reset(self, model: nn.Module) -> None:
        """Reset every stateful module of ``model``; not by ``reset_net``, whose cache may miss swapped modules."""
        if "spikingjelly.activation_based.base" not in sys.modules:
            return
        from spikingjelly.activation_based.base import MemoryModule

        for module in model.modules():
            if isinstance(module, MemoryModule):
                module.reset()

    def get_state(self, module: nn.Module) -> Any:
        """Return the memories; tensors are cloned because a reset writes into them."""
        memories = {k: v.clone() if hasattr(v, "clone") else v for k, v in module._memories.items()}  # type: ignore[union-attr, operator]
        return memories, getattr(module, "v_seq", None)

    def set_state(self, module: nn.Module, state: tuple[Mapping[str, Any], Any]) -> None:
        """Put the memories back."""
        memories, v_seq = state
        module._memories.update(memories)  # type: ignore[union-attr, operator]
        if hasattr(module, "v_seq"):
            module.v_seq = v_seq

    def after_swap(self, model: nn.Module) -> None:
        """Drop SpikingJelly's cached list of the model's stateful modules."""
        if "spikingjelly.activation_based.functional" not in sys.modules:
            return
        from spikingjelly.activation_based import functional

        functional.invalidate_reset_cache(model)

    def capturing(self) -> AbstractContextManager[object]:
        """Return an empty context: tracing has no side effects on SpikingJelly."""
        return nullcontext()
