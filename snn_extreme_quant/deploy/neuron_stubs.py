"""What stands in for neurons while a model is recorded: calls of the neuron operators."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks import NeuronInModel, NeuronReading
from snn_extreme_quant.layers import IntegerFirst

from . import operators
from .graphs import is_free
from .layer_stubs import packed_codes

__all__ = ["neuron_stub"]


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


def neuron_stub(neuron: NeuronInModel) -> tuple[Callable[..., Any], Callable[[], Any]]:
    """Return a forward pass that calls the operator, and a reset."""
    reading, name = neuron.read(), neuron.name
    spec = reading.spec
    parameters = [reading.parameters[p].cpu() for p in spec.parameter_names]
    fixed = (*_recurrent(reading, name), spec.operator, name)
    initial = reading.initial_state()
    memory: dict[str, Tensor] = {}
    signature = inspect.signature(type(neuron.module).forward)

    def given_states(args: tuple[Any, ...], kwargs: dict[str, Any], rank: int) -> dict[str, Tensor]:
        """Return the states passed by the caller; what is empty or of another rank means "nothing yet"."""
        bound = signature.bind(None, None, *args, **kwargs).args[2:] if args or kwargs else ()
        values = bound[0] if reading.grouped and bound and bound[0] is not None else bound
        named = zip(reading.arguments, values, strict=False)
        return {k: v for k, v in named if isinstance(v, Tensor) and v.dim() == rank and not _is_empty(v)}

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if reading.multi_step:
            outputs = operators.neuron_sequence_op(x, _ordered(spec.states, initial, memory), parameters, *fixed)
            after = dict(zip(spec.outputs, outputs, strict=True))
            memory.update({state: values[-1] for state, values in after.items()})
            return (outputs[0], *(after[n] for n in reading.returned)) if reading.returns_state else outputs[0]
        given = given_states(args, kwargs, x.dim())
        before = _ordered(spec.states, initial, memory, given)
        outputs = operators.neuron_step_op(x, before, parameters, *fixed)
        memory.update(zip(spec.outputs, outputs, strict=True))
        if not reading.returns_state:
            return outputs[0]
        after = {**memory, "v_before": before[0].expand(x.shape)}
        states = tuple(after[n] for n in reading.returned)
        return (outputs[0], states) if reading.grouped else (outputs[0], *states)

    def reset() -> Any:
        memory.clear()
        empty = tuple(torch.zeros(0) for _ in reading.arguments)
        return empty[0] if len(empty) == 1 else empty

    return forward, reset


def _ordered(names: tuple[str, ...], *sources: dict[str, Tensor]) -> list[Tensor]:
    """Return the states in the order of the spec; later sources win."""
    merged: dict[str, Tensor] = {}
    for source in sources:
        merged.update(source)
    return [merged[name] for name in names]


def _is_empty(value: Tensor) -> bool:
    return value.dim() == 1 and not is_free(value.shape[0]) and value.shape[0] == 0
