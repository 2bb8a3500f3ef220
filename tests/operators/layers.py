"""Cases of the packed layers: every packing, with shapes and inputs at their limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from snn_extreme_quant.deploy.language.products import digits_for
from snn_extreme_quant.deploy.lowering import operators
from snn_extreme_quant.exported.operators import KINDS, layout_of
from snn_extreme_quant.quantizers.packing import LAYOUTS, pack

from .cases import Array, Case

__all__ = ["GEOMETRIES", "layer_cases", "stored", "tensors"]


def stored(layout: str, inputs: int, outputs: int) -> tuple[Array, Array, Array]:
    """Random codes ``(K, N)`` that include the largest, packed, and scales."""
    rng = np.random.default_rng(inputs * outputs)
    largest = LAYOUTS[layout].largest
    codes = rng.integers(-largest, largest + 1, (inputs, outputs))
    codes[:1, :1] = largest
    codes = np.where(codes < 0, -1, 1) if layout == "binary8" else codes
    return codes, pack(codes, layout), rng.random(outputs, np.float32) + np.float32(0.01)


def tensors(*values: Array) -> list[Tensor]:
    return [torch.from_numpy(value) for value in values]


#: K, N: single, odd, filling bytes of each packing and not, more rows than a byte counts.
SHAPES = [(1, 1), (7, 1), (1, 9), (64, 10), (130, 33), (300, 40)]
#: Input shapes before K: one row, several axes, no rows, no axis.
ROWS = [(3, 4), (1,), (0,), ()]


def linear(operator: str) -> Iterator[Case]:
    """Multiples of 1/8, among them all equal and all zero. The expected sums are computed in float64 as well."""
    layout = layout_of(operator)
    for index, (inputs, outputs) in enumerate(SHAPES):
        codes, packed, scale = stored(layout, inputs, outputs)
        rows = ROWS[index % len(ROWS)]
        units = 1 if layout == "int16" and inputs > 64 else 3
        drawn = rng_of(index).integers(-units, units + 1, (*rows, inputs)) * 0.125
        for what, values in {"grid": drawn, "zeros": drawn * 0, "ones": drawn * 0 + 1}.items():
            x = values.astype(np.float32)
            if x.ndim > 1 or what == "grid":
                expected = operators.packed_linear(*tensors(x, packed, scale), outputs, layout, "")
                by_hand = (x.astype(np.float64) @ codes).astype(np.float32) * scale
                assert np.array_equal(expected.numpy(), by_hand), operator
                constants = {"packed": packed, "scale": scale}
                yield Case(operator, f"{what} {x.shape} x {outputs}", {"x": x}, constants, [expected])


def linear_integer(operator: str) -> Iterator[Case]:
    """Inputs up to 255, or as large as a processor without exact byte products can take."""
    layout = layout_of(operator)
    most = min(255, (2**14 - 1) // LAYOUTS[layout].largest)
    for index, (inputs, outputs) in enumerate(SHAPES):
        _, packed, scale = stored(layout, inputs, outputs)
        for grid in (1.0, 0.0625):
            rows = [(3, 4), (1,), (5,)][index % 3]
            drawn = rng_of(index).integers(0, most + 1, (*rows, inputs))
            for what, units in {"up to the largest": drawn, "the largest": drawn * 0 + most}.items():
                x = (units * grid).astype(np.float32)
                expected = operators.packed_linear(*tensors(x, packed, scale), outputs, layout, "")
                constants = {"packed": packed, "scale": scale}
                attributes = {"grid": grid, "inverse_grid": 1 / grid}
                yield Case(operator, f"{what} {x.shape} x {outputs}", {"x": x}, constants, [expected], attributes)


def linear_integer_signed(operator: str) -> Iterator[Case]:
    """Inputs from -127 to 127."""
    layout = layout_of(operator)
    for index, (inputs, outputs) in enumerate(SHAPES):
        _, packed, scale = stored(layout, inputs, outputs)
        for grid in (1.0, 0.0625):
            drawn = rng_of(index).integers(-127, 128, (*[(3, 4), (1,), (5,)][index % 3], inputs))
            every = {"any": drawn, "spikes": np.sign(drawn), "lowest": drawn * 0 - 127, "largest": drawn * 0 + 127}
            for what, units in every.items():
                x = (units * grid).astype(np.float32)
                expected = operators.packed_linear(*tensors(x, packed, scale), outputs, layout, "")
                constants = {"packed": packed, "scale": scale}
                attributes = {"grid": grid, "inverse_grid": 1 / grid}
                yield Case(operator, f"{what} {x.shape} x {outputs}", {"x": x}, constants, [expected], attributes)


def linear_rounded(operator: str) -> Iterator[Case]:
    """Any numbers, among them ties and some beyond the largest; the grids of a language model's products."""
    layout = layout_of(operator)
    narrow = LAYOUTS[layout].largest == 1
    for index, (inputs, outputs) in enumerate(SHAPES):
        codes, packed, scale = stored(layout, inputs, outputs)
        rows = ROWS[index % len(ROWS)]
        places = min((24 if narrow else 31) - (inputs - 1).bit_length(), 30)
        most, grid = 2.0**places, 2.0 ** (4 - places)
        drawn = rng_of(index).normal(0, 5, (*rows, inputs))
        ties = (np.floor(drawn / grid) + 0.5) * grid
        for what, values in {"any": drawn, "ties": ties, "beyond": drawn * 1e6}.items():
            x = values.astype(np.float32)
            units = torch.from_numpy(x).mul(1 / grid).round().clamp(-most, most).double()
            sums = units @ torch.from_numpy(codes.astype(np.float64))
            expected = sums.float() * torch.tensor(grid, dtype=torch.float32) * torch.from_numpy(scale)
            constants = {"packed": packed, "scale": scale}
            attributes = {"grid": grid, "inverse_grid": 1 / grid, "most": most, "digits": digits_for(layout, most)}
            yield Case(operator, f"{what} {x.shape} x {outputs}", {"x": x}, constants, [expected], attributes)


GEOMETRIES = [
    # axes, stride, pads, dilation, groups, output padding
    (1, 1, 0, 1, 1, 0),
    (1, 2, 1, 1, 2, 1),
    (1, 3, 2, 2, 1, 2),
    (2, 1, 1, 1, 1, 0),
    (2, 2, 0, 2, 1, 1),
    (2, 1, 2, 1, 4, 0),
    (3, 1, 1, 1, 1, 0),
    (3, 2, 0, 1, 2, 1),
]


def conv(operator: str) -> Iterator[Case]:
    """Each axis has a length and a kernel of its own, and padding that differs at its end."""
    layout = layout_of(operator)
    for axes, stride, pads, dilation, groups, _ in GEOMETRIES:
        shape = (8, 4 // groups, *(3, 2, 1)[:axes])
        _codes, packed, scale = stored(layout, int(np.prod(shape[1:])), shape[0])
        x = rng_of(axes).integers(0, 2, (2, 4, *(8, 7, 6)[:axes])).astype(np.float32)
        strides, both, dilations = [stride] * axes, [pads] * axes + [pads + 1] * axes, [dilation] * axes
        expected = operators.packed_conv(
            *tensors(x, packed, scale), list(shape), strides, both, dilations, groups, layout, ""
        )
        attributes = {
            "weight_shape": shape,
            "scale_shape": [-1] + [1] * (axes + 1),
            "strides": strides,
            "pads": both,
            "dilations": dilations,
            "group": groups,
        }
        what = f"{axes} axes, stride {stride}, {groups} groups"
        yield Case(operator, what, {"x": x}, {"packed": packed, "scale": scale}, [expected], attributes)


def conv_transpose(operator: str) -> Iterator[Case]:
    layout = layout_of(operator)
    for axes, stride, pads, dilation, groups, extra in GEOMETRIES:
        kernel = (3, 2, 3)[:axes]
        outputs, inputs = 8, 4 // groups
        shape = (outputs, inputs, *kernel)
        _codes, packed, scale = stored(layout, int(np.prod(shape[1:])), outputs)
        x = rng_of(axes).integers(0, 2, (2, 4, *(6, 5, 4)[:axes])).astype(np.float32)
        strides, before, more, dilations = ([n] * axes for n in (stride, min(pads, 1), extra, dilation))
        expected = operators.packed_conv_transpose(
            *tensors(x, packed, scale), list(shape), strides, before, more, dilations, groups, layout, ""
        )
        attributes = {
            "weight_shape": [inputs * groups, outputs // groups, *kernel],
            "grouped_shape": [groups, outputs // groups, inputs, -1],
            "scale_shape": [-1] + [1] * (axes + 1),
            "strides": strides,
            "pads": before * 2,
            "dilations": dilations,
            "output_padding": more,
            "group": groups,
        }
        what = f"{axes} axes, stride {stride}, {groups} groups"
        skips = {"onnx.reference": "it fails on grouped ConvTranspose"} if groups > 1 else {}
        yield Case(operator, what, {"x": x}, {"packed": packed, "scale": scale}, [expected], attributes, skips)


def embedding(operator: str) -> Iterator[Case]:
    """A table is packed row by row, and has a scale for each."""
    layout = layout_of(operator)
    for rows, columns, shape in [(1, 1, (1,)), (11, 7, (3, 4)), (5, 16, (2, 3, 2)), (9, 31, (4,))]:
        codes, packed, _ = stored(layout, rows, columns)
        scale = rng_of(rows).random(rows, np.float32)
        for kind in (np.int64, np.int32):
            ids = rng_of(rows).integers(0, rows, shape).astype(kind)
            expected = operators.packed_embedding(*tensors(ids, packed, scale), columns, layout, "")
            by_hand = (codes.astype(np.float32) * scale[:, None])[ids]
            assert np.array_equal(expected.numpy(), by_hand), operator
            constants = {"packed": packed, "scale": scale}
            what = f"{ids.dtype} {shape} of {rows} x {columns}"
            yield Case(operator, what, {"x": ids}, constants, [expected], {"columns": [columns]})


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


_BUILDERS: dict[str, Callable[[str], Iterator[Case]]] = {
    "Linear": linear,
    "LinearInteger": linear_integer,
    "LinearIntegerSigned": linear_integer_signed,
    "LinearRounded": linear_rounded,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Embedding": embedding,
}


def layer_cases(operator: str) -> Iterator[Case]:
    """Cases of a packed layer; a kind of layer without any is a KeyError: write its builder."""
    return _BUILDERS[operator.removeprefix(KINDS[layout_of(operator)])](operator)
