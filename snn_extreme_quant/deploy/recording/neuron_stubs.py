"""What stands in for neurons while a model is recorded: calls of the neuron operators."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snn_extreme_quant.deploy.lowering import operators
from snn_extreme_quant.deploy.recording.layer_stubs import packed_codes
from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks import NeuronInModel, NeuronReading
from snn_extreme_quant.layers import IntegerFirst

__all__ = ["NeuronStub"]


def _recurrent(reading: NeuronReading, name: str) -> tuple[list[Tensor], str, list[int]]:
    """Return weights, packing layout and geometry of the layer that carries a neuron's spikes back."""
    layer: Any = reading.recurrent
    if layer is None:
        return [], "", []
    geometry: list[int] = []
    if reading.spec.feedback == "conv":
        geometry = [*layer.weight.shape, *layer.padding, *layer.padding]
    bias = [] if layer.bias is None else [layer.bias.detach().clone()]
    if not isinstance(layer, IntegerFirst):
        return [layer.weight.detach().clone(), *bias], "float", geometry
    parts = packed_codes(layer, f"{name}.recurrent")
    if len(parts) > 1:
        raise UnsupportedNeuronError(
            f"Layer {name!r}: its recurrent layer has scales by group; quantise it with per='channel' or per='tensor'."
        )
    return [parts[0].packed, parts[0].scale, *bias], parts[0].layout, geometry


class NeuronStub:
    """Takes the place of one neuron: its forward pass calls the operator, and the states are kept here.

    Args:
        neuron: the neuron, as yet unchanged.

    Raises:
        UnsupportedNeuronError: it has no exact spec.
    """

    def __init__(self, neuron: NeuronInModel) -> None:
        """Read the neuron."""
        self.module = neuron.module
        self.reading = reading = neuron.read()
        self.spec = reading.spec
        self.initial = reading.initial_state()
        self.parameters = [reading.parameters[p].cpu() for p in self.spec.parameter_names]
        self.fixed = (*_recurrent(reading, neuron.name), self.spec.operator, neuron.name)
        self.signature = inspect.signature(type(neuron.module).forward)
        self.memory: dict[str, Tensor] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the operator as the neuron is called, and give what the neuron gives."""
        x, *states = self.signature.bind(None, *args, **kwargs).args[1:]
        return self._sequence(x) if self.reading.multi_step else self._step(x, states)

    def _sequence(self, x: Tensor) -> Any:
        before = _ordered(self.spec.states, self.initial, self.memory)
        outputs = operators.neuron_sequence_op(x, before, self.parameters, *self.fixed)
        after = dict(zip(self.spec.outputs, outputs, strict=True))
        self.memory.update({state: values[-1] for state, values in after.items()})
        self._show({**self.memory, "v_sequence": after["v"]})
        states = tuple(after[name] for name in self.reading.returned)
        return (outputs[0], *states) if self.reading.returns_state else outputs[0]

    def _step(self, x: Tensor, states: Sequence[Any]) -> Any:
        given = self._given_states(states, x)
        before = _ordered(self.spec.states, self.initial, self.memory, given)
        outputs = operators.neuron_step_op(x, before, self.parameters, *self.fixed)
        self.memory.update(zip(self.spec.outputs, outputs, strict=True))
        after = {**self.memory, "v_before": before[0].expand(x.shape)}
        self._show(after)
        if not self.reading.returns_state:
            return outputs[0]
        states = tuple(after[name] for name in self.reading.returned)
        return (outputs[0], states) if self.reading.grouped else (outputs[0], *states)

    def _given_states(self, values: Sequence[Any], x: Tensor) -> dict[str, Tensor]:
        """Return the states that the caller passed.

        None keeps the state of the last call; in a tuple of states it means the initial state. So does a tensor of
        another shape than the input's: frameworks start anew where the shape changes.
        """
        grouped = self.reading.grouped
        if grouped and values:
            values = values[0] or ()
        given = {}
        for name, value in zip(self.reading.arguments, values, strict=False):
            if name in self.initial and (value is not None or grouped):
                fits = isinstance(value, Tensor) and value.dim() == x.dim() and value.shape == x.shape
                given[name] = value if fits else self.initial[name]
        return given

    def reset(self) -> Any:
        """Forget the state, and give what stands for no state."""
        self.memory.clear()
        self.hide()
        empty = tuple(torch.zeros(0) for _ in self.reading.arguments)
        return empty[0] if len(empty) == 1 else empty

    def _show(self, values: dict[str, Tensor]) -> None:
        """Let models that read a state from the neuron's attribute find it there."""
        for state, attribute in self.reading.attributes.items():
            self.module.__dict__[attribute] = values[state]

    def hide(self) -> None:
        """Take away what stood in for the neuron's attributes: its own show again."""
        for attribute in self.reading.attributes.values():
            self.module.__dict__.pop(attribute, None)


def _ordered(names: tuple[str, ...], *sources: dict[str, Tensor]) -> list[Tensor]:
    """Return the states in the order of the spec; later sources win."""
    merged: dict[str, Tensor] = {}
    for source in sources:
        merged.update(source)
    return [merged[name] for name in names]
