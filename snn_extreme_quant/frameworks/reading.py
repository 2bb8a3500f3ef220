"""Finding and reading the neurons of a model, whichever framework they come from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from snn_extreme_quant.errors import PluginError, UnsupportedNeuronError
from snn_extreme_quant.frameworks.contract import Framework, NeuronReading
from snn_extreme_quant.frameworks.loader import frameworks, plugin_statuses
from snn_extreme_quant.frameworks.own import OWN

__all__ = ["NeuronInModel", "frameworks_for", "neurons_of", "reset"]


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


def frameworks_for(model: nn.Module) -> list[Framework]:
    """Return the frameworks that are installed, if the one that ``model`` was written with is among them.

    A neuron whose plugin is left out would pass for a layer without state. It is found by the package that its class
    comes from, which has the plugin's name: the plugin itself is not imported.

    Raises:
        PluginError: a plugin is broken, or ``model`` holds a module of a framework whose plugin is disabled or does not
            fit the version that is installed.
    """
    statuses = plugin_statuses()
    loaded = frameworks(statuses)
    absent = {status.name: status for status in statuses if status.framework is None}
    for name, module in model.named_modules() if absent else ():
        for cls in type(module).__mro__:
            status = absent.get(cls.__module__.partition(".")[0])
            if status is not None:
                raise PluginError(
                    f"Layer {name!r} is a {type(module).__name__} of {status.name}, whose plugin is {status.state}:"
                    f" {status.detail}."
                )
    return loaded


def neurons_of(model: nn.Module) -> list[NeuronInModel]:
    """Return the neuron layers of ``model`` in order of registration, shared ones once; not those inside a neuron.

    Raises:
        PluginError: as for :func:`frameworks_for`.
    """
    loaded = frameworks_for(model)
    found: list[NeuronInModel] = []
    for name, module in model.named_modules():
        if any(not outer.name or name.startswith(f"{outer.name}.") for outer in found):
            continue
        for framework in (*loaded, OWN):
            if framework.is_neuron(module):
                found.append(NeuronInModel(name, module, framework))
                break
    return found


def reset(model: nn.Module) -> None:
    """Put all neurons of ``model``, of whichever framework, into their initial state.

    Reaches nested modules and touches no other network (snnTorch 1.0's ``utils.reset`` does neither).

    Raises:
        PluginError: as for :func:`frameworks_for`.
    """
    for framework in frameworks_for(model):
        framework.reset(model)
