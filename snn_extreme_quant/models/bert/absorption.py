"""What thresholds change is undone in the weights, so that a student computes what its teacher does."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from snn_extreme_quant.models.bert.spiking_bert import Neurons, SpikingBert

__all__ = ["absorb_thresholds"]


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
