"""snnTorch as a :class:`~snn_extreme_quant.frameworks.Framework`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from snn_extreme_quant.frameworks import NeuronReading
from snn_extreme_quant_snntorch.layers import inner_layers
from snn_extreme_quant_snntorch.neurons import READERS, is_neuron, read_neuron
from snn_extreme_quant_snntorch.unreadable import UNREADABLE

__all__ = ["SnnTorch"]


def _state_names(module: nn.Module) -> list[str]:
    # snnTorch keeps state in buffers that are not saved, and the pending reset in a plain attribute.
    return [*module._non_persistent_buffers_set, *(k for k, v in vars(module).items() if isinstance(v, Tensor))]


class SnnTorch:
    """The plugin. Layers between snnTorch's neurons are torch's own, so it brings none."""

    name = "snntorch"
    api_version = 2
    requirement = "snntorch>=1.0,<2"
    install = 'pip install "snn-extreme-quant[snntorch]"'
    reset_methods: Sequence[str] = ("reset_mem",)

    def is_available(self) -> bool:
        """Whether snnTorch is installed."""
        spec = importlib.util.find_spec("snntorch")
        return spec is not None and spec.origin is not None  # a mere folder of that name has no origin

    def neuron_classes(self) -> Sequence[type[nn.Module]]:
        """The classes with an exact spec."""
        import snntorch

        return [getattr(snntorch, name) for name in READERS]

    def unreadable_neurons(self) -> Mapping[str, str]:
        """The other neurons of snnTorch, each with the reason why it has no exact spec."""
        return UNREADABLE

    def inner_layers(self, module: nn.Module) -> Sequence[str]:
        """Names of the layers inside a neuron that it calls as modules."""
        return inner_layers(module)

    def is_neuron(self, module: nn.Module) -> bool:
        """Whether ``module`` is one of snnTorch's neurons."""
        return is_neuron(module)

    def read_neuron(self, module: nn.Module) -> NeuronReading:
        """Read a neuron of one of :meth:`neuron_classes`; others are refused with the reason."""
        return read_neuron(module)

    def write_neuron(self, reading: NeuronReading) -> nn.Module:
        """Make the neuron that reads as ``reading``, for ``from_nir``."""
        from snn_extreme_quant_snntorch.writing import write_neuron

        return write_neuron(reading)

    def layers(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """None: snnTorch has no layers of its own."""
        return {}

    def reset(self, model: nn.Module) -> None:
        """Reset the neurons of ``model`` alone (``snntorch.utils.reset`` misses nested ones and resets other nets)."""
        for module in model.modules():
            reset_mem = getattr(module, "reset_mem", None)  # neurons without it, as StateLeaky, keep no state
            if reset_mem is None or not is_neuron(module):
                continue
            reset_mem()
            # SLSTM and SConv2dLSTM keep their last spikes too, and with them a graph that cannot be deep-copied.
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and value.grad_fn is not None:
                    vars(module)[name] = value.detach()

    def get_state(self, module: nn.Module) -> Any:
        """Return potentials, synaptic currents and the pending reset; snnTorch replaces these tensors, never writes."""
        return {name: getattr(module, name) for name in _state_names(module)}

    def set_state(self, module: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`get_state` gave."""
        for name in set(_state_names(module)) - set(state):
            delattr(module, name)
        for name, value in state.items():
            if name in module._parameters:  # a user passed a Parameter as state, and the neuron registered it
                delattr(module, name)
                module.register_buffer(name, value, persistent=False)
            else:
                setattr(module, name, value)

    def after_swap(self, model: nn.Module) -> None:
        """Do nothing: snnTorch caches nothing about a model."""

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Hide the process-wide list of neurons, so that ``utils.reset`` inside a traced forward touches none."""
        from snntorch._neurons.neurons import SpikingNeuron

        instances, SpikingNeuron.instances = SpikingNeuron.instances, []
        try:
            yield
        finally:
            SpikingNeuron.instances = instances
