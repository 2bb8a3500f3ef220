"""Cases of what integer files of models of tokens compute with beside integer sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from snn_extreme_quant.deploy.tokens import integer_operators as ours

from .cases import Array, Case

__all__ = ["token_integer_cases"]

SHAPES = [(6,), (3, 1), (2, 5, 96), (1, 4), (4, 384)]
_KINDS = {"": np.uint8, "Signed": np.int8, "Wide": np.int32}


def token_integer_cases(operator: str) -> Iterator[Case]:
    """Cases of one operator: usual values, single constants, values at the ends of what is allowed."""
    end = next((end for end in ("Signed", "Wide") if operator.endswith(end)), "")
    return _CASES[operator.removesuffix(end)](operator, end)


def _torch(**arrays: Array) -> list[Any]:
    return [torch.from_numpy(value) for value in arrays.values()]


def _scaled(operator: str, end: str) -> Iterator[Case]:
    kind = np.int32 if operator == "IntScale" else _KINDS[end]
    limits = (-16383, 16383) if kind is np.int32 else (0, 128) if kind is np.uint8 else (-64, 64)
    for seed, shape in enumerate(SHAPES):
        rng = np.random.default_rng(seed)
        for what, width, shift, most in (
            ("channels", shape[-1], 40, 6000), ("one constant", 1, 20, 2**20), ("no shift", shape[-1], 0, 30),
            ("far beyond the limits", shape[-1], 30, 2**21),
        ):  # fmt: skip
            slope = 2.0 ** (28 if what.startswith("far") else 4) / most
            x = rng.integers(-most, most + 1, shape).astype(np.int32)
            constants = {
                "gain": np.rint(rng.normal(0, slope / 4, width).clip(-slope, slope) * 2.0**shift).astype(np.int64),
                "offset": np.rint(rng.normal(0, 4, width) * 2.0**shift).astype(np.int64),
                "low": np.full(width, limits[0], np.int32),
                "high": rng.integers(limits[0] + 1, limits[1] + 1, width).astype(np.int32),
            }
            given = _torch(x=x, **constants)
            if operator == "IntScale":
                expected = ours.int_scale(*given, shift, "n")
            else:
                expected = ours.int_counts(*given, shift, np.dtype(kind).name, "n")
            yield Case(operator, f"{shape}, {what}", {"x": x}, constants, [expected], {"shift": shift})


def _spikes(operator: str, end: str) -> Iterator[Case]:
    for seed, shape in enumerate(SHAPES):
        for steps in (1, 4, 128):
            x = np.random.default_rng(seed).integers(-steps if end else 0, steps + 1, shape).astype(np.int32)
            expected = ours.int_spikes(torch.from_numpy(x), steps, bool(end), "n")
            yield Case(operator, f"{shape}, {steps} steps", {"x": x}, {}, [expected], {"steps": steps})


def _residual(operator: str, _end: str) -> Iterator[Case]:
    for seed, shape in enumerate(SHAPES):
        rng = np.random.default_rng(seed)
        for width, shift in ((shape[-1], 16), (1, 0), (shape[-1], 40)):
            x, counts = (rng.integers(-n, n + 1, shape).astype(np.int32) for n in (6000, 16))
            parts = (("gain", 2**14), ("carried", 2**23), ("offset", 2**28))
            constants = {name: rng.integers(-most, most, width) << shift * 3 // 4 for name, most in parts}
            expected = ours.int_residual(*_torch(x=x, counts=counts, **constants), shift, "n")
            inputs = {"x": x, "counts": counts}
            yield Case(operator, f"{shape}, {width}, {shift}", inputs, constants, [expected], {"shift": shift})


def _norm(operator: str, _end: str) -> Iterator[Case]:
    for seed, shape in enumerate([*SHAPES, (2, 4096)]):
        rng = np.random.default_rng(seed)
        drawn = rng.normal(0, 1, shape)
        signs = np.where(rng.random(shape) < 0.5, -(2**19), 2**19)
        for what, x in (
            ("usual", drawn * 1024), ("beyond the limits", drawn * 2**29), ("equal", np.full(shape, 379.0)),
            ("a variance of units", np.round(drawn)), ("the largest variance", signs), ("ends", signs * 2**11 + 2**10),
        ):  # fmt: skip
            values = x.clip(-(2**31), 2**31 - 1).astype(np.int32)
            yield Case(operator, f"{shape}, {what}", {"x": values}, {}, [ours.int_shift_norm(_torch(x=values)[0], "n")])


def _softmax(operator: str, _end: str) -> Iterator[Case]:
    for seed, shape in enumerate(SHAPES):
        rng = np.random.default_rng(seed)
        for fraction, spread in ((0, 6), (13, 2**15), (13, 2**22), (24, 2**26)):
            x = rng.normal(0, spread, shape).clip(-(2**28), 2**28).astype(np.int32)
            for share in (0.0, 0.4, 1.0):
                pads = np.where(rng.random(shape[-1:]) < share, -10000, 0).astype(np.int32)
                expected = ours.int_shift_softmax(*_torch(x=x, pads=pads), fraction, "n")
                what = f"{shape}, 2^-{fraction}, {share:.0%} pads"
                yield Case(operator, what, {"x": x, "pads": pads}, {}, [expected], {"fraction": fraction})


def _product(operator: str, end: str) -> Iterator[Case]:
    most = {"": 255, "Signed": 64, "Wide": 128}[end]
    for seed, (lead, M, K, N) in enumerate([((), 3, 5, 4), ((2, 3), 7, 32, 7), ((1,), 1, 1, 1), ((2,), 2, 120, 9)]):
        rng = np.random.default_rng(seed)
        for zero_point, low, high in ((128, -(2**15), 2**15), (0, 0, 2**16), (0, 0, 2**15 + 1)):
            a = rng.integers(low, high, (*lead, M, K)).astype(np.int32)
            b = rng.integers(0 if end == "" else -most, most + 1, (*lead, K, N)).astype(_KINDS[end])
            for what, left, right in (("random", a, b), ("ends", np.full_like(a, high - 1), np.full_like(b, most))):
                expected = ours.int_product(*_torch(a=left, b=right), zero_point)
                inputs = {"a": left, "b": right}
                attributes = {"zero_point": zero_point}
                yield Case(operator, f"{(*lead, M, K, N)}, {what}", inputs, {}, [expected], attributes)


_CASES: dict[str, Callable[[str, str], Iterator[Case]]] = {
    "IntCounts": _scaled,
    "IntScale": _scaled,
    "IntSpikes": _spikes,
    "IntResidual": _residual,
    "IntShiftNorm": _norm,
    "IntShiftSoftmax": _softmax,
    "IntProduct": _product,
}
