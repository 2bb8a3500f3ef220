"""Our own neurons as a :class:`~snn_extreme_quant.frameworks.Framework`: built in, not a plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks.contract import API_VERSION, NeuronReading
from snn_extreme_quant.neurons import SynchronousIF

__all__ = ["OWN", "OwnNeurons"]


class OwnNeurons:
    """The neurons of the synchronous schedule.

    They have no step function, so nothing that goes step by step can read them; and no state, so there is nothing to
    reset.
    """

    name = "snn_extreme_quant"
    api_version = API_VERSION
    requirement = "snn-extreme-quant"
    install = 'pip install "snn-extreme-quant"'
    reset_methods: Sequence[str] = ()

    def is_available(self) -> bool:
        """Whether they can be used: always."""
        return True

    def neuron_classes(self) -> Sequence[type[nn.Module]]:
        """None: no class of ours goes step by step."""
        return ()

    def unreadable_neurons(self) -> Mapping[str, str]:
        """The neurons that have no step function."""
        return {"SynchronousIF": "it takes in all steps before it fires"}

    def is_neuron(self, module: nn.Module) -> bool:
        """Whether ``module`` is a neuron of ours."""
        return isinstance(module, SynchronousIF)

    def read_neuron(self, module: nn.Module) -> NeuronReading:
        """Refuse: a synchronous neuron has no step function."""
        raise UnsupportedNeuronError(
            f"{type(module).__name__} takes in all time steps before it fires, so it has no step function. Models of"
            " such neurons alone are exported by export_onnx(..., form='counts') or form='sequence'."
        )

    def layers(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """None: our layers are quantised already."""
        return {}

    def inner_layers(self, module: nn.Module) -> Sequence[str]:
        """None: our neurons hold no layers."""
        del module
        return ()

    def reset(self, model: nn.Module) -> None:
        """Do nothing: our neurons keep no state."""

    def get_state(self, module: nn.Module) -> Any:
        """Return the state of one neuron: none."""

    def set_state(self, module: nn.Module, state: Any) -> None:
        """Do nothing: there is no state."""

    def after_swap(self, model: nn.Module) -> None:
        """Do nothing: nothing of ours remembers a model's modules."""

    def capturing(self) -> AbstractContextManager[object]:
        """Return an empty context: tracing has no side effects."""
        return nullcontext()


OWN = OwnNeurons()
