"""Cases of what integer files of language models compute with, against the model's own whole numbers in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from snn_extreme_quant.exported.token_tables import MOST_CURRENT, MOST_DECAY, MOST_NORM, MOST_VALUE
from snn_extreme_quant.models.gpt import integer_tokens as whole

from .cases import Array, Case

__all__ = ["language_integer_cases"]

SHAPES = [(6,), (3, 1), (2, 5, 96), (1, 4), (0, 7)]


def _whole(rng: np.random.Generator, most: int, shape: tuple[int, ...], ends: bool = False) -> Tensor:
    """Random whole numbers up to ``most``, or its ends, small ones and 0."""
    drawn = rng.choice([-most, most, -1, 0, 1], shape) if ends else rng.integers(-most, most + 1, shape)
    return torch.from_numpy(drawn.astype(np.int64))


def _narrow(**values: Tensor) -> dict[str, Array]:
    return {name: value.numpy().astype(np.int32) for name, value in values.items()}


def _norms(operator: str) -> Iterator[Case]:
    for seed, shape in enumerate([(6,), (3, 1), (2, 5, 96), (1, 4), (4, 384), (2, 4096)]):
        rng, H = np.random.default_rng(seed), shape[-1]
        drawn, ends = rng.normal(0, 1, shape), np.where(rng.random(shape) < 0.5, -(2**20), 2**20)
        for what, x in (
            ("usual", drawn * 1024), ("equal", np.full(shape, 379.0)), ("a variance of units", np.round(drawn)),
            ("the largest variance", ends),
        ):  # fmt: skip
            layer = torch.nn.LayerNorm(H)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(rng.normal(0, 1 if seed % 2 else 400, H)))
                layer.bias.copy_(torch.from_numpy(rng.normal(0, 1 if seed % 2 else 4000, H)))
            scaling = whole.norm_scaling(layer, 12, MOST_NORM)
            stream = torch.from_numpy(x.astype(np.int64))
            expected = whole.scaled(whole.norm_sums(stream), scaling).int()
            constants = {"gain": scaling.gain.numpy(), "offset": scaling.offset.numpy()}
            attributes = {"shift": scaling.shift, "most": scaling.most}
            yield Case(operator, f"{shape}, {what}", _narrow(x=stream), constants, [expected], attributes)


def _halves(operator: str) -> Iterator[Case]:
    for seed, shape in enumerate(SHAPES):
        for ends in (False, True):
            x = _whole(np.random.default_rng(seed), 2**15 - 1, shape, ends)
            expected = [(x >> 8).to(torch.int8), (x & 255).to(torch.uint8)]
            yield Case(operator, f"{shape}, {ends}", _narrow(x=x), {}, expected)


def _gates(operator: str) -> Iterator[Case]:
    for seed, shape in enumerate(SHAPES):
        rng = np.random.default_rng(seed)
        for spread, most, shift, limit in (
            (800, 2**15 - 1, 14, 2**15 - 1), (4095, MOST_CURRENT, 15, MOST_CURRENT), (10**6, MOST_CURRENT, 8, 1000),
        ):  # fmt: skip
            for ends in (False, True):
                z, value = _whole(rng, spread, shape, ends), _whole(rng, most, shape, ends)
                product = whole.rounded_shift(whole.gate(z) * value, shift)
                expected = whole.limited(product, limit).int()
                inputs = _narrow(x=z, value=value)
                yield Case(operator, f"{shape}, {ends}", inputs, {}, [expected], {"shift": shift, "most": limit})


def _squares(operator: str) -> Iterator[Case]:
    for seed, shape in enumerate(SHAPES):
        rng = np.random.default_rng(seed)
        for shift, limit in ((11, 2**15 - 1), (0, 2**30), (20, 5)):
            x = _whole(rng, 2**15 - 1, shape, seed == 2)
            expected = whole.squares(x, shift, limit).int()
            yield Case(operator, f"{shape}", _narrow(x=x), {}, [expected], {"shift": shift, "most": limit})


def _averages(operator: str) -> Iterator[Case]:
    step = operator.startswith("Step")
    for seed, (tokens, batch, width) in enumerate(
        [(1, 1, 1), (1, 3, 33), (6, 2, 17), (40, 1, 5), (1, 1, 300), (1, 2, 8)]
    ):
        rng = np.random.default_rng(seed)
        for ends in (False, True):
            shape = (1 if step else tokens, batch, width)
            key, value = _whole(rng, 3839, shape, ends), _whole(rng, MOST_VALUE, shape, ends)
            bonus = _whole(rng, 7387, (width,), ends)
            decay = torch.from_numpy(rng.integers(0, MOST_DECAY + 1, width))
            decay[0] = MOST_DECAY
            # Sums that are as large as they can be, and of any sign.
            b = torch.from_numpy(rng.integers(0, 2**46, (1, batch, width))) * int(ends)
            a = b * _whole(rng, MOST_VALUE, (1, batch, width), ends)
            found, after_a, after_b = whole.average(decay, bonus, key, value, a[0], b[0])
            inputs = {**_narrow(key=key, value=value), "numerator": a.numpy(), "denominator": b.numpy()}
            constants = {"decay": decay.numpy(), **_narrow(bonus=bonus)}
            expected = [found.int(), after_a.unsqueeze(0), after_b.unsqueeze(0)]
            yield Case(operator, f"{shape}, {ends}", inputs, constants, expected)


_BUILDERS: dict[str, Callable[[str], Iterator[Case]]] = {
    "IntTokenNorm": _norms,
    "IntHalves": _halves,
    "IntGated": _gates,
    "IntSquared": _squares,
    "IntWeightedAverage": _averages,
    "StepIntWeightedAverage": _averages,
}


def language_integer_cases(operator: str) -> Iterator[Case]:
    """Cases of an operator; one without any is a KeyError: write its builder."""
    return _BUILDERS[operator](operator)
