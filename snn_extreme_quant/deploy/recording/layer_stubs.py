"""What stands in for quantised layers while a model is recorded: calls of the packed operators."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from snn_extreme_quant.deploy.lowering import operators
from snn_extreme_quant.deploy.recording.step_if_stub import step_if_stub
from snn_extreme_quant.deploy.shifts.operators import shift_stub
from snn_extreme_quant.deploy.synchronous.stubs import steps_summed, synchronous_stub
from snn_extreme_quant.errors import NonFiniteWeightError, UnsupportedModelError
from snn_extreme_quant.layers import Embedding, FixedPointInput, IntegerFirst
from snn_extreme_quant.neurons import SpikeTrain, SynchronousIF
from snn_extreme_quant.neurons.equilibrium_steps import StepIF
from snn_extreme_quant.quantizers.packing import pack

__all__ = ["PackedCodes", "layer_stub", "packed_codes"]


@dataclass(frozen=True)
class PackedCodes:
    """The weight of one layer, or of one group of its inputs, as it is stored.

    Args:
        packed: codes as bytes ``(K, bytes)``.
        scale: ``(N,)``.
        layout: packing layout.
        shape: shape of the codes, outputs first.
        start: first input channel of the group.
        stop: the one after its last.
    """

    packed: Tensor
    scale: Tensor
    layout: str
    shape: tuple[int, ...]
    start: int
    stop: int


def packed_codes(layer: IntegerFirst, name: str) -> list[PackedCodes]:
    """Return the codes of a layer, one entry for each group of inputs that has scales of its own.

    Raises:
        NonFiniteWeightError: the weight holds NaN or infinite values.
    """
    if not bool(torch.isfinite(layer.weight).all()):
        raise NonFiniteWeightError(f"The weight of {name!r} holds NaN or infinite values; load a good checkpoint.")
    with torch.no_grad():
        codes, scale = layer.integer_weight()
    scales = scale.detach().float().cpu().reshape(codes.shape[0], -1)
    size = codes.shape[1] if scale.dim() == 1 else cast("int", layer.quantizer.granularity.group_size)
    parts = []
    for group, start in enumerate(range(0, codes.shape[1], size)):
        part = codes[:, start : start + size]
        matrix = part.detach().reshape(part.shape[0], -1).to("cpu", torch.int32).numpy()
        # A table is looked up by rows; products are packed with the inputs first.
        packed = torch.from_numpy(pack(matrix if isinstance(layer, Embedding) else matrix.T, layer.quantizer.layout))
        column = scales[:, group].clone()
        parts.append(
            PackedCodes(packed, column, layer.quantizer.layout, tuple(part.shape), start, start + part.shape[1])
        )
    return parts


def layer_stub(module: nn.Module, name: str) -> tuple[str, Callable[..., Tensor]] | None:
    """Return the method of ``module`` to replace while recording, and by what; None if it is not one of ours."""
    if isinstance(module, Embedding):
        return "forward", _embedding_stub(module, name)
    if isinstance(module, IntegerFirst):
        return "product", _product_stub(module, name)
    if isinstance(module, FixedPointInput):
        return "forward", lambda input: operators.fixed_point(input, module.bits, module.fraction)
    if isinstance(module, SynchronousIF):
        return "forward", synchronous_stub(module, name)
    if isinstance(module, StepIF):
        return "forward", step_if_stub(module, name)
    shifted = shift_stub(module, name)
    return None if shifted is None else ("forward", shifted)


def _product_stub(layer: Any, name: str) -> Callable[[Tensor], Tensor]:
    """Return what takes the place of :meth:`IntegerFirst.product`: groups are added in the same order."""
    parts = packed_codes(layer, name)
    convolution = _conv_transpose if getattr(layer, "transposed", False) else _conv
    product_of = _linear if layer.weight.dim() == 2 else convolution

    unscaled = {part.start: replace(part, scale=torch.ones_like(part.scale)) for part in parts}

    def call(layer: Any, input: Any, part: PackedCodes, name: str) -> Tensor:
        if not isinstance(input, SpikeTrain):
            return product_of(layer, input, part, name)
        sums = unscaled[part.start]
        return steps_summed(input, part.scale, len(part.shape), lambda x: product_of(layer, x, sums, name))

    def product(input: Tensor) -> Tensor:
        if len(parts) == 1:
            return call(layer, input, parts[0], name)
        terms = [call(layer, layer._inputs(input, p.start, p.stop), p, name) for p in parts]
        return functools.reduce(operator.add, terms)

    return product


def _linear(_layer: Any, input: Tensor, part: PackedCodes, name: str) -> Tensor:
    output: Tensor = operators.packed_linear(input, part.packed, part.scale, part.shape[0], part.layout, name)
    return output


def _batched(axes: int, input: Tensor, convolve: Callable[[Tensor], Tensor]) -> Tensor:
    """Add the batch axis that an unbatched input lacks, and take it off again."""
    return convolve(input.unsqueeze(0)).squeeze(0) if input.dim() == axes + 1 else convolve(input)


def _conv(layer: Any, input: Tensor, part: PackedCodes, name: str) -> Tensor:
    axes = len(part.shape) - 2
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    else:
        pads = [0] * 2 * axes if layer.padding == "valid" else list(layer.padding) * 2

    def convolve(x: Tensor) -> Tensor:
        inner = pads
        if layer.padding_mode != "zeros":
            pairs = list(zip(pads[:axes], pads[axes:], strict=True))[::-1]
            x, inner = (
                nn.functional.pad(x, [p for pair in pairs for p in pair], mode=layer.padding_mode),
                [0] * 2 * axes,
            )
        output: Tensor = operators.packed_conv(
            x,
            part.packed,
            part.scale,
            list(part.shape),
            list(layer.stride),
            inner,
            list(layer.dilation),
            layer.groups,
            part.layout,
            name,
        )
        return output

    return _batched(axes, input, convolve)


def _conv_transpose(layer: Any, input: Tensor, part: PackedCodes, name: str) -> Tensor:
    for stride, padding, extra in zip(layer.stride, layer.padding, layer.output_padding, strict=True):
        if extra - padding >= stride:
            raise UnsupportedModelError(
                f"Layer {name!r} has output_padding={extra} with stride={stride} and padding={padding}, which"
                " onnxruntime refuses; use an output_padding below the stride, or pad behind the layer."
            )

    def convolve(x: Tensor) -> Tensor:
        output: Tensor = operators.packed_conv_transpose(
            x,
            part.packed,
            part.scale,
            list(part.shape),
            list(layer.stride),
            list(layer.padding),
            list(layer.output_padding),
            list(layer.dilation),
            layer.groups,
            part.layout,
            name,
        )
        return output

    return _batched(len(part.shape) - 2, input, convolve)


def _embedding_stub(layer: Any, name: str) -> Callable[[Tensor], Tensor]:
    parts = packed_codes(layer, name)

    def lookup(ids: Tensor) -> Tensor:
        columns = [operators.packed_embedding(ids, p.packed, p.scale, p.shape[1], p.layout, name) for p in parts]
        return columns[0] if len(columns) == 1 else torch.cat(columns, -1)

    return cast("Callable[[Tensor], Tensor]", lookup)
