"""What thresholds and offsets change is undone in weights and biases, so that a student computes what its teacher does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from snn_extreme_quant.models.spiking_bert import Neurons, SpikingBert

__all__ = ["absorb_offsets", "absorb_thresholds"]


def absorb_offsets(student: SpikingBert, offsets: Mapping[str, Tensor]) -> None:
    """Put the offsets into biases; ``docs/spiking_bert.md`` has the table.

    Args:
        student: with the teacher's weights as they are.
        offsets: of each layer of neurons, by its name.
    """
    below = offsets["embeddings.neurons"]
    student.embeddings.norm.bias.sub_(below)
    student.embeddings.offset.copy_(below)
    for index, module in enumerate(student.encoder):
        layer: Any = module
        own = {name: offsets[f"encoder.{index}.{name}"] for name in _NEURONS}
        attention = layer.attention
        for part in (attention.query, attention.key, attention.value):
            _reads(part, below)
        attention.key.bias.sub_(own["attention.key_neurons"])
        attention.value.bias.sub_(own["attention.value_neurons"])
        attention.key_offset.copy_(own["attention.key_neurons"])
        attention.bias.copy_(own["attention.value_neurons"] - own["attention.neurons"])
        _reads(layer.attention_output, own["attention.neurons"])
        layer.attention_output.bias.add_(below)
        layer.attention_norm.bias.sub_(own["attention_neurons"])
        _reads(layer.intermediate, own["attention_neurons"])
        layer.intermediate_bias.copy_(-own["intermediate_neurons"])
        _reads(layer.output, own["intermediate_neurons"])
        layer.output.bias.add_(own["attention_neurons"])
        layer.output_norm.bias.sub_(own["neurons"])
        below = own["neurons"]
        layer.offset.copy_(below)
    if student.config.head == "pooled":
        _reads(student.pooler, below)
        below = offsets["pooler_neurons"]
        student.pooler_bias.copy_(-below)
    _reads(student.classifier, below)


_NEURONS = (
    "attention.key_neurons", "attention.value_neurons", "attention.neurons", "attention_neurons", "intermediate_neurons",
    "neurons",
)  # fmt: skip


def _reads(layer: Any, offset: Tensor) -> None:
    """Add what a layer gives for the offsets of the neurons that it reads."""
    layer.bias.add_(layer.weight @ offset)


def absorb_thresholds(student: SpikingBert) -> None:
    """Make the weights read spikes as the teacher's read activations: W diag(threshold)."""
    unit = student.config.amplitude == "unit"
    below: Neurons = student.embeddings.neurons
    for module in student.encoder:
        layer: Any = module
        _absorb_layer(layer, below, unit)
        below = layer.neurons
    if student.config.head == "pooled":
        _columns(student.pooler, below.threshold)
        below = student.pooler_neurons
    if unit:
        _columns(student.classifier, below.threshold)


def _absorb_layer(layer: Any, below: Neurons, unit: bool) -> None:
    attention = layer.attention
    for part in (attention.query, attention.key, attention.value):
        _columns(part, below.threshold)
    if unit:
        # Queries take over the keys' amplitudes; what residuals add is 1 / threshold as large, which a norm undoes.
        _rows(attention.query, attention.key_neurons.threshold)
        attention.neurons.set_thresholds(attention.neurons.threshold / attention.value_neurons.threshold)
        carried = attention.value_neurons.threshold * attention.neurons.threshold
        _columns(layer.attention_output, carried)
        _rows(layer.attention_output, 1.0 / below.threshold)
    else:
        _columns(layer.attention_output, attention.neurons.threshold)
    _columns(layer.intermediate, layer.attention_neurons.threshold)
    _columns(layer.output, layer.intermediate_neurons.threshold)
    if unit:
        _rows(layer.output, 1.0 / layer.attention_neurons.threshold)


def _columns(layer: Any, factor: Tensor) -> None:
    layer.weight.mul_(factor)


def _rows(layer: Any, factor: Tensor) -> None:
    layer.weight.mul_(factor.expand(layer.weight.shape[0]).unsqueeze(1))
    layer.bias.mul_(factor)
