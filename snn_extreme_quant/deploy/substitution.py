"""What stands in for neurons and quantised layers while a model is recorded: calls of the deployment operators."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import NonFiniteWeightError
from snn_extreme_quant.frameworks import NeuronInModel, NeuronReading
from snn_extreme_quant.layers import FixedPointInput, IntegerFirst
from snn_extreme_quant.quantizers.packing import pack

from . import operators

__all__ = ["substituted"]


def _layout_of(layer: IntegerFirst) -> str:
    """Return the packing layout of a layer's codes: 1 bit or 2 bit."""
    return "binary8" if layer.quantizer.bits == 1 else "ternary4"


def _packed(layer: IntegerFirst, name: str) -> tuple[Tensor, Tensor]:
    """Return packed codes ``(K, bytes)`` and scales ``(N,)``."""
    if not bool(torch.isfinite(layer.weight).all()):
        raise NonFiniteWeightError(f"The weight of {name!r} holds NaN or infinite values; load a good checkpoint.")
    with torch.no_grad():
        codes, scale = layer.integer_weight()
    matrix = codes.detach().reshape(codes.shape[0], -1).T.to("cpu", torch.int8).numpy()
    return torch.from_numpy(pack(matrix, _layout_of(layer))), scale.detach().float().cpu().clone()


def _product_stub(layer: Any, name: str) -> Callable[[Tensor], Tensor]:
    """Return what takes the place of :meth:`IntegerFirst.product`."""
    packed, scale = _packed(layer, name)
    layout = _layout_of(layer)
    if layer.weight.dim() == 2:
        return lambda input: operators.packed_linear(input, packed, scale, layer.weight.shape[0], layout, name)

    axes = layer.weight.dim() - 2
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        padding = [t // 2 for t in total] + [t - t // 2 for t in total]
    elif layer.padding == "valid":
        padding = [0] * 2 * axes
    else:
        padding = list(layer.padding) * 2
    begins_ends = list(zip(padding[:axes], padding[axes:], strict=True))

    def convolve(input: Tensor) -> Tensor:
        pads = padding
        if layer.padding_mode != "zeros":
            input = nn.functional.pad(input, [p for pair in begins_ends[::-1] for p in pair], mode=layer.padding_mode)
            pads = [0] * 2 * axes
        unbatched = input.dim() == axes + 1
        shape, stride, dilation = list(layer.weight.shape), list(layer.stride), list(layer.dilation)
        y = operators.packed_conv(
            input.unsqueeze(0) if unbatched else input,
            packed,
            scale,
            shape,
            stride,
            pads,
            dilation,
            layer.groups,
            layout,
            name,
        )
        return cast("Tensor", y.squeeze(0) if unbatched else y)

    return convolve


def _fixed_point_stub(module: FixedPointInput) -> Callable[[Tensor], Tensor]:
    return lambda input: operators.fixed_point(input, module.bits, module.fraction)


def _neuron_stub(reading: NeuronReading, name: str) -> tuple[Callable[..., Any], Callable[[], Tensor]]:
    """Return a forward pass that calls the operator, and a reset."""
    parameters = [reading.parameters[p].cpu() for p in reading.spec.parameter_names]
    operator = reading.spec.operator
    state: list[Tensor] = []

    def forward(x: Tensor, v: Tensor | None = None) -> Any:
        initial = torch.full((), reading.v0)
        if reading.multi_step:
            spikes, potentials = operators.neuron_sequence_op(
                x, state[-1] if state else initial, parameters, operator, name
            )
            state.append(potentials[-1])
            return (spikes, potentials) if reading.returns_state else spikes
        # A state of another rank is the framework's "nothing yet" (snnTorch: zeros(0)).
        given = v if v is not None and v.dim() == x.dim() else (state[-1] if state and v is None else initial)
        spikes, potential = operators.neuron_step_op(x, given, parameters, operator, name)
        state.append(potential)
        return (spikes, potential) if reading.returns_state else spikes

    def reset() -> Tensor:
        state.clear()
        return torch.zeros(0)

    return forward, reset


@contextlib.contextmanager
def substituted(model: nn.Module, neurons: list[NeuronInModel]) -> Iterator[None]:
    """Replace, on the instances, what must stay whole in the graph."""
    changed: list[tuple[nn.Module, str]] = []

    def put(module: nn.Module, name: str, value: object) -> None:
        module.__dict__[name] = value
        changed.append((module, name))

    with contextlib.ExitStack() as stack:
        for framework in {n.framework.name: n.framework for n in neurons}.values():
            stack.enter_context(framework.capturing())
        try:
            for neuron in neurons:
                forward, reset = _neuron_stub(neuron.read(), neuron.name)
                put(neuron.module, "forward", forward)
                for method in neuron.framework.reset_methods:
                    put(neuron.module, method, reset)
            inside = tuple(f"{n.name}." for n in neurons)
            for name, module in model.named_modules():
                if inside and name.startswith(inside):
                    continue
                if isinstance(module, IntegerFirst):
                    put(module, "product", _product_stub(module, name))
                elif isinstance(module, FixedPointInput):
                    put(module, "forward", _fixed_point_stub(module))
            yield
        finally:
            for module, name in changed:
                module.__dict__.pop(name, None)
