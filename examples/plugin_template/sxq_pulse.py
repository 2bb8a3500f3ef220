import importlib.util
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from snn_extreme_quant import NeuronSpec
from snn_extreme_quant.frameworks import NeuronReading
from snn_extreme_quant.frameworks.checks import readable_class
from snn_extreme_quant.layers import Linear


class Pulse:
    name, api_version, requirement, install = "pulse", 2, "pulse-example>=1,<2", "pip install pulse-example"
    reset_methods = ("clear",)

    def is_available(self) -> bool:
        return importlib.util.find_spec("pulse") is not None

    def neuron_classes(self) -> list[type[nn.Module]]:
        import pulse

        return [pulse.Cell, pulse.Current]

    def unreadable_neurons(self) -> dict[str, str]:
        return {"Noisy": "adds random numbers to its current; train with it and deploy Cell"}

    def is_neuron(self, module: nn.Module) -> bool:
        return isinstance(module, self.neuron_classes()[0])

    def read_neuron(self, module: Any) -> NeuronReading:
        cls = readable_class(module, self.neuron_classes(), ["forward", "clear"], self.unreadable_neurons())
        numbers = {"threshold": module.threshold, "decay": module.leak}
        synapse = {"current_decay": module.synapse} if cls.__name__ == "Current" else {}
        spec = NeuronSpec("synaptic" if synapse else "leak", "ge", "subtract", "same_step")
        return NeuronReading(spec, {k: torch.tensor(v).float() for k, v in (numbers | synapse).items()})

    def layers(self) -> dict[type[nn.Module], type[nn.Module]]:
        import pulse

        return {pulse.Dense: Linear}

    def reset(self, model: nn.Module) -> None:
        for module in filter(self.is_neuron, model.modules()):
            module.clear()

    def get_state(self, module: nn.Module) -> dict[str, torch.Tensor]:
        return {name: getattr(module, name) for name in ("v", "i") if hasattr(module, name)}

    def set_state(self, module: nn.Module, state: dict[str, torch.Tensor]) -> None:
        vars(module).update(state)

    inner_layers = staticmethod(lambda _: ())  # no layers inside neurons
    after_swap = staticmethod(lambda _: None)  # no caches to clear
    capturing = staticmethod(nullcontext)  # a forward pass touches nothing but the model


plugin = Pulse()
