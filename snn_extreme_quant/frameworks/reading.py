"""Finding and reading the neurons of a model, whichever framework they come from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks.contract import Framework, NeuronReading
from snn_extreme_quant.frameworks.loader import frameworks

__all__ = ["NeuronInModel", "neurons_of", "reset"]


@dataclass(frozen=True)
class NeuronInModel:
    """A neuron layer, where it is in the model, and the framework it belongs to."""

    name: str
    module: nn.Module
    framework: Framework

    def read(self) -> NeuronReading:
        """Read the neuron; raises :class:`UnsupportedNeuronError` with the layer's name and the reason."""
        try:
            return self.framework.read_neuron(self.module)
        except UnsupportedNeuronError as error:
            raise UnsupportedNeuronError(f"Layer {self.name!r}: {error}") from error


def neurons_of(model: nn.Module) -> list[NeuronInModel]:
    """Return the neuron layers of ``model`` in order of registration, shared ones once; not those inside a neuron."""
    loaded = frameworks()
    found: list[NeuronInModel] = []
    for name, module in model.named_modules():
        if any(not outer.name or name.startswith(f"{outer.name}.") for outer in found):
            continue
        for framework in loaded:
            if framework.is_neuron(module):
                found.append(NeuronInModel(name, module, framework))
                break
    return found


def reset(model: nn.Module) -> None:
    """Put all neurons of ``model``, of whichever framework, into their initial state.

    Reaches nested modules and touches no other network (snnTorch 1.0's ``utils.reset`` does neither).
    """
    for framework in frameworks():
        framework.reset(model)
