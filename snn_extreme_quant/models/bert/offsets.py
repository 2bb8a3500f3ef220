"""Offsets of {0,1} spikes: what a rate stands for is o + threshold a, and only biases know of it.

``docs/spiking_bert.md`` (Offsets) derives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from snn_extreme_quant.models.bert.spiking_bert import SpikingBert

__all__ = ["absorb_offsets", "keep_zeros", "outputs_at_zero", "readers", "with_offsets"]


def readers(student: SpikingBert) -> Iterator[tuple[str, Any]]:
    """Yield each linear layer of the encoder, and the pooler, with the neurons whose spikes it reads."""
    below: Any = student.embeddings.neurons
    for index, module in enumerate(student.encoder):
        layer: Any = module
        for name in ("query", "key", "value"):
            yield f"encoder.{index}.attention.{name}", below
        yield f"encoder.{index}.attention_output", layer.attention.neurons
        yield f"encoder.{index}.intermediate", layer.attention_neurons
        yield f"encoder.{index}.output", layer.intermediate_neurons
        below = layer.neurons
    if student.config.head == "pooled":
        yield "pooler", below


def with_offsets(student: SpikingBert, hidden: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return what the carried rates of the input neurons and of each layer stand for: themselves without offsets."""
    if not student.config.offset:
        return tuple(hidden)
    parts: tuple[Any, ...] = (student.embeddings, *student.encoder)
    return tuple(carried + part.neurons.offset for carried, part in zip(hidden, parts, strict=True))


@torch.no_grad()
def outputs_at_zero(student: SpikingBert) -> dict[str, Tensor]:
    r"""Return what layers give for the offsets, with their bias: :math:`W o / \vartheta + b`; classifier: W o + b."""
    if not student.config.offset:
        return {}
    points = {name: neurons.offset / neurons.threshold for name, neurons in readers(student)}
    points["classifier"] = _last(student).offset  # it reads what spikes carry
    return {name: _layer(student, name)(point.unsqueeze(0))[0] for name, point in points.items()}


def _last(student: SpikingBert) -> Any:
    """Return the neurons that the classifier reads."""
    if student.config.head == "pooled":
        return student.pooler_neurons
    layer: Any = student.encoder[-1]
    return layer.neurons


@torch.no_grad()
def keep_zeros(student: SpikingBert, before: Mapping[str, Tensor]) -> None:
    """Mend biases after the weights changed, so that activations of zero still give what they gave.

    Args:
        student: with its new weights.
        before: :func:`outputs_at_zero` with the old ones.
    """
    for name, after in outputs_at_zero(student).items():
        _layer(student, name).bias.add_(after - before[name])


@torch.no_grad()
def absorb_offsets(student: SpikingBert) -> None:
    """Put the offsets of a student with its teacher's weights, as they are, into its biases."""
    for name, neurons in readers(student):
        reader = _layer(student, name)
        reader.bias.add_(reader.weight @ neurons.offset)
    below: Any = student.embeddings.neurons
    student.embeddings.norm.bias.sub_(below.offset)
    for module in student.encoder:
        layer: Any = module
        attention = layer.attention
        attention.key.bias.sub_(attention.key_neurons.offset)
        attention.value.bias.sub_(attention.value_neurons.offset)
        attention.bias.copy_(attention.value_neurons.offset - attention.neurons.offset)
        layer.attention_output.bias.add_(below.offset)
        layer.attention_norm.bias.sub_(layer.attention_neurons.offset)
        layer.intermediate_bias.copy_(-layer.intermediate_neurons.offset)
        layer.output.bias.add_(layer.attention_neurons.offset)
        layer.output_norm.bias.sub_(layer.neurons.offset)
        below = layer.neurons
    if student.pooler_bias is not None:
        student.pooler_bias.copy_(-student.pooler_neurons.offset)
    student.classifier.bias.add_(student.classifier.weight @ _last(student).offset)


def _layer(student: SpikingBert, name: str) -> Any:
    return student.get_submodule(name)
