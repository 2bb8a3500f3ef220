"""What each torch operator of an integer network becomes as a node: the operator's name and attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from snn_extreme_quant.deploy.integer.functions import IntegerLayer, places_of
from snn_extreme_quant.deploy.integer.neuron_functions import IntegerNeuron
from snn_extreme_quant.neurons import NeuronSpec

__all__ = [
    "IntegerNode",
    "conv_node",
    "conv_transpose_node",
    "embedding_node",
    "linear_node",
    "neuron_node",
    "sum_pool_node",
]

#: The largest magnitude of an int32 input of which nothing is known.
_WIDEST = 2**31 - 1


@dataclass(frozen=True)
class IntegerNode:
    """A node to be: operator, and all its attributes."""

    operator: str
    attributes: dict[str, Any] = field(default_factory=dict)


def _node(layer: IntegerLayer, magnitude: int, **attributes: Any) -> IntegerNode:
    places = {"places": places_of(magnitude)} if layer.input == "int32" else {}
    return IntegerNode(layer.name, attributes | places)


def linear_node(kind: str, out_features: int, layout: str, magnitude: int = _WIDEST) -> IntegerNode:
    """Return the node of ``packed_linear_sum``.

    Args:
        kind: type of the input: ``"uint8"``, ``"int8"`` or ``"int32"``.
        out_features: N.
        layout: packing layout.
        magnitude: the largest magnitude of an int32 input: fewer digits make a wide product faster.

    Example:
        >>> linear_node("int32", 10, "ternary4", 255)
        IntegerNode(operator='TernaryMatMulIntegerWide', attributes={'columns': [10], 'places': [1, 128]})
    """
    return _node(IntegerLayer("MatMul", layout, kind), magnitude, columns=[out_features])


def conv_node(
    kind: str,
    weight_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    layout: str,
    magnitude: int = _WIDEST,
) -> IntegerNode:
    """Return the node of ``packed_conv_sum``; see :func:`linear_node` for ``kind`` and ``magnitude``."""
    return _node(
        IntegerLayer("Conv", layout, kind),
        magnitude,
        columns=[weight_shape[0]],
        weight_shape=list(weight_shape),
        strides=list(stride),
        pads=list(padding),
        dilations=list(dilation),
        group=groups,
    )


def conv_transpose_node(
    kind: str,
    weight_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    layout: str,
    magnitude: int = _WIDEST,
) -> IntegerNode:
    """Return the node of ``packed_conv_transpose_sum``; ``padding`` is one number an axis."""
    axes = len(stride)
    # An output reads dilation * (kernel - 1) inputs before and behind its own, in the stretched input.
    reach = [d * (k - 1) for d, k in zip(dilation, weight_shape[2:], strict=True)]
    begins = [r - p for r, p in zip(reach, padding, strict=True)]
    # Behind its last input the stretched one has stride - 1 zeros already.
    ends = [b + extra - (s - 1) for b, extra, s in zip(begins, output_padding, stride, strict=True)]
    between = [n for s in stride for n in (0, s - 1)]
    return _node(
        IntegerLayer("ConvTranspose", layout, kind),
        magnitude,
        columns=[weight_shape[0]],
        weight_shape=list(weight_shape),
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=groups,
        output_padding=list(output_padding),
        stretch_axes=[3 + 2 * axis for axis in range(axes)],
        stretch_pads=[0] * (2 + 2 * axes) + [0, 0, *between],
        stretch=[1, 1, *stride],
        border=[0, 0, *begins, 0, 0, *ends],
    )


def embedding_node(columns: int, layout: str) -> IntegerNode:
    """Return the node of ``packed_embedding_sum``."""
    return _node(IntegerLayer("Embedding", layout), 0, columns=[columns])


def sum_pool_node(
    kind: str,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    channels: int,
    magnitude: int = _WIDEST,
) -> IntegerNode:
    """Return the node of ``sum_pool_int``."""
    return _node(
        IntegerLayer("SumPool", "", kind),
        magnitude,
        weight_shape=[channels, 1, *kernel],
        strides=list(stride),
        pads=[*padding, *padding],
        group=channels,
    )


def neuron_node(
    operator: str, layout: str, geometry: Sequence[int], shift: int, *, step: bool, states: bool
) -> IntegerNode:
    """Return the node of ``fixed_neuron_step`` or ``fixed_neuron_sequence``.

    Args:
        operator: name of the canonical spec.
        layout: packing layout of the recurrent layer, "" without.
        geometry: weight shape and padding of a recurrent convolution.
        shift: bits behind the point of the decays.
        step: a single time step.
        states: a sequence gives its states too.
    """
    neuron = IntegerNeuron(NeuronSpec.from_operator(operator), step=step, states=step or states, layout=layout)
    attributes: dict[str, Any] = {"shift": shift}
    if neuron.spec.feedback == "conv":
        rank = (len(geometry) + 4) // 3
        attributes |= {"weight_shape": list(geometry[:rank]), "pads": list(geometry[rank:])}
        attributes |= {"columns": [geometry[0]]}
    return IntegerNode(neuron.name, attributes)
