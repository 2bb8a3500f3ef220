"""Cases of what language models compute with, against the model's own functions in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from snn_extreme_quant.models.gpt.exact import epsilon_of, norm, on_grid, product, reach, rounded_weight, sigmoid
from snn_extreme_quant.models.gpt.wkv import factors, weighted_average

from .cases import Array, Case

__all__ = ["language_cases"]


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _sigmoids(operator: str) -> Iterator[Case]:
    for shape in ((5,), (3, 4, 33), (0, 7), (1, 1)):
        for what, x in (("usual", _drawn(0, *shape) * 4), ("beyond", _drawn(1, *shape) * 200)):
            yield Case(operator, f"{what} {shape}", {"x": x.numpy()}, {}, [sigmoid(x)])


def _norms(operator: str) -> Iterator[Case]:
    for seed, shape in enumerate(((1, 2), (3, 4, 33), (2, 1, 768))):
        layer = nn.LayerNorm(shape[-1], eps=10.0**-seed)
        with torch.no_grad():
            layer.weight.copy_(_drawn(2, shape[-1]))
            layer.bias.copy_(_drawn(3, shape[-1]))
        weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
        streams = {"usual": _drawn(4, *shape), "large": _drawn(5, *shape) * 1e4, "equal": torch.ones(shape)}
        for what, x in streams.items():
            stream = on_grid(x, 10, 1024.0)
            expected = [norm(layer, stream).detach()]
            attributes = {"epsilon": epsilon_of(layer)}
            yield Case(operator, f"{what} {shape}", {"x": stream.numpy()}, weights, expected, attributes)


def _averages(operator: str) -> Iterator[Case]:
    for tokens, batch, width in ((1, 1, 1), (1, 3, 33), (6, 2, 17), (1, 1, 768)):
        if operator.startswith("Step") and tokens > 1:
            continue
        for scale in (1.0, 30.0):  # keys are clipped beyond 60
            key, value = _drawn(6, tokens, batch, width) * scale, _drawn(7, tokens, batch, width)
            numerator, denominator = _drawn(8, 1, batch, width), _drawn(9, 1, batch, width).exp()
            decay, first = _drawn(10, width) * 2, _drawn(11, width)
            found = weighted_average(decay, first, key, value, numerator[0], denominator[0])
            inputs = {"key": key, "value": value, "numerator": numerator, "denominator": denominator}
            constants = dict(zip(("decay", "bonus"), factors(decay, first), strict=True))
            expected = [found[0], *(after.unsqueeze(0) for after in found[1:])]
            what = f"{tokens} tokens, {batch} x {width}, keys of {scale:g}"
            yield Case(operator, what, _arrays(inputs), _arrays(constants), expected)


def _float_products(operator: str) -> Iterator[Case]:
    for inputs, outputs, kind in ((2, 1, "norm"), (33, 9, "norm"), (130, 20, "square")):
        layer = nn.Linear(inputs, outputs, bias=False).eval()
        with torch.no_grad():
            layer.weight.copy_(_drawn(12, outputs, inputs))
        bits, bound = reach(layer, inputs, kind)
        grid = 2.0**-bits
        attributes = {"grid": grid, "inverse_grid": 1 / grid, "most": bound / grid}
        weight = {"weight": rounded_weight(layer.weight.detach()).float().numpy().T.copy()}
        for rows in ((3, 2), (1,), ()):
            x = _drawn(13, *rows, inputs) * 20
            yield Case(
                operator, f"{rows} {inputs}", {"x": x.numpy()}, weight, [product(layer, x, kind).detach()], attributes
            )


def _arrays(values: dict[str, Tensor]) -> dict[str, Array]:
    return {name: np.ascontiguousarray(value.numpy()) for name, value in values.items()}


_BUILDERS: dict[str, Callable[[str], Iterator[Case]]] = {
    "ExactSigmoid": _sigmoids,
    "TokenNorm": _norms,
    "WeightedAverage": _averages,
    "StepWeightedAverage": _averages,
    "FloatLinearRounded": _float_products,
}


def language_cases(operator: str) -> Iterator[Case]:
    """Cases of an operator; one without any is a KeyError: write its builder."""
    return _BUILDERS[operator](operator)
