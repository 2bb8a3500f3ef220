"""Random inputs for every integer operator, and what torch computes from them.

A case is a node with its inputs. `layer_cases` and `neuron_cases` give them, for this folder's tests and for those of
kernels: whatever runs an integer operator must give `Case.expected`, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from snn_extreme_quant.deploy.integer import nodes as integer_nodes
from snn_extreme_quant.deploy.integer import operators as integer_operators
from snn_extreme_quant.deploy.integer.neuron_functions import IntegerNeuron
from snn_extreme_quant.deploy.integer.nodes import IntegerNode
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.exported.operators import KINDS
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.neurons.fixed_point_spec import STATE_LIMIT, fixed_point_parameters
from snn_extreme_quant.neurons.spec import Charge, Comparison, Feedback, Fire, Reset, Timing
from snn_extreme_quant.quantizers.packing import LAYOUTS, pack

Array = npt.NDArray[Any]
INPUTS = {"uint8": np.uint8, "int8": np.int8, "int32": np.int32}


@dataclass(frozen=True)
class Case:
    """A node, its inputs in order, and what it gives.

    Args:
        node: operator and attributes.
        inputs: by the names of the operator's body; those also in `constants` are known when a file is loaded.
        constants: names of the constant inputs.
        expected: the outputs, in order.
    """

    node: IntegerNode
    inputs: dict[str, Array]
    constants: tuple[str, ...]
    expected: list[Array]

    def __str__(self) -> str:
        return self.node.operator


def random_codes(rng: np.random.Generator, layout: str, inputs: int, outputs: int) -> Array:
    """Codes ``(K, N)`` with both extremes among them."""
    largest = LAYOUTS[layout].largest
    codes = rng.integers(-largest, largest + 1, (inputs, outputs))
    codes[:1, :1], codes[-1:, -1:] = largest, -largest
    return np.where(codes < 0, -1, 1) if layout == "binary8" else codes


def random_input(rng: np.random.Generator, kind: str, shape: tuple[int, ...], magnitude: int = 70_000) -> Array:
    """Inputs of a type, with its extremes; int32 up to ``magnitude``."""
    info = np.iinfo(INPUTS[kind])
    low, high = (-magnitude, magnitude) if kind == "int32" else (info.min, info.max)
    x = rng.integers(low, high + 1, shape).astype(INPUTS[kind])
    if x.size > 2:
        x.flat[0], x.flat[-1], x.flat[1] = low, high, 0
    return x


def _tensors(*values: Array) -> list[torch.Tensor]:
    return [torch.from_numpy(value) for value in values]


# Layers ------------------------------------------------------------------------------------------------------------

#: axes, stride, pads, dilation, groups, output padding
GEOMETRIES = [
    (1, 1, 0, 1, 1, 0), (1, 2, 1, 1, 2, 1), (1, 3, 2, 2, 1, 2), (2, 1, 1, 1, 1, 0), (2, 2, 0, 2, 1, 1),
    (2, 1, 2, 1, 4, 0), (3, 1, 1, 1, 1, 0), (3, 2, 0, 1, 2, 1),
]  # fmt: skip


def linear_case(layout: str, kind: str, shape: tuple[int, ...], outputs: int) -> Case:
    """``shape`` is the input's, ``(..., K)``."""
    rng = np.random.default_rng(sum(shape) + outputs)
    magnitude = min(70_000, (2**31 - 1) // max(LAYOUTS[layout].largest * shape[-1], 1))
    packed, x = pack(random_codes(rng, layout, shape[-1], outputs), layout), random_input(rng, kind, shape, magnitude)
    expected = integer_operators.packed_linear_sum(*_tensors(x, packed), outputs, layout, "layer")
    node = integer_nodes.linear_node(kind, outputs, layout, magnitude)
    return Case(node, {"x": x, "packed": packed}, ("packed",), [expected.numpy()])


def conv_case(layout: str, kind: str, geometry: tuple[int, ...], *, batch: int = 2, transposed: bool = False) -> Case:
    """Each axis has a length and a kernel of its own, and padding that differs at its end."""
    axes, stride, pad, dilation, groups, extra = geometry
    rng = np.random.default_rng(axes + stride + pad)
    shape = (8, 4 // groups, *(3, 2, 3)[:axes])
    packed = pack(random_codes(rng, layout, int(np.prod(shape[1:])), shape[0]), layout)
    magnitude = min(70_000, (2**31 - 1) // (LAYOUTS[layout].largest * packed.shape[0]))
    x = random_input(rng, kind, (batch, 4, *(8, 7, 6)[:axes]), magnitude)
    strides, dilations = [stride] * axes, [dilation] * axes
    numbers: tuple[Any, ...]
    if transposed:
        numbers = (list(shape), strides, [min(pad, 1)] * axes, [extra] * axes, dilations, groups, layout)
        expected = integer_operators.packed_conv_transpose_sum(*_tensors(x, packed), *numbers, "layer")
        node = integer_nodes.conv_transpose_node(kind, *numbers, magnitude)
    else:
        numbers = (list(shape), strides, [pad] * axes + [pad + 1] * axes, dilations, groups, layout)
        expected = integer_operators.packed_conv_sum(*_tensors(x, packed), *numbers, "layer")
        node = integer_nodes.conv_node(kind, *numbers, magnitude)
    return Case(node, {"x": x, "packed": packed}, ("packed",), [expected.numpy()])


def embedding_case(layout: str, kind: type, rows: int, columns: int, shape: tuple[int, ...]) -> Case:
    """A table is packed row by row, and has a multiplier for each."""
    rng = np.random.default_rng(rows + columns)
    packed = pack(random_codes(rng, layout, rows, columns), layout)
    multiplier = rng.integers(-60_000, 60_000, rows).astype(np.int32)
    ids = rng.integers(0, rows, shape).astype(kind)
    expected = integer_operators.packed_embedding_sum(*_tensors(ids, packed, multiplier), columns, layout, "layer")
    inputs = {"x": ids, "packed": packed, "multiplier": multiplier}
    node = integer_nodes.embedding_node(columns, layout)
    return Case(node, inputs, ("packed", "multiplier"), [expected.numpy()])


def pool_case(kind: str, axes: int, stride: int, pad: int, batch: int = 2) -> Case:
    rng = np.random.default_rng(axes)
    x = random_input(rng, kind, (batch, 3, *(8, 7, 6)[:axes]))
    numbers = ([3, 2, 2][:axes], [stride] * axes, [pad] * axes, 3)
    expected = integer_operators.sum_pool_int(torch.from_numpy(x), *numbers)
    return Case(integer_nodes.sum_pool_node(kind, *numbers, 70_000), {"x": x}, (), [expected.numpy()])


def layer_cases() -> Iterator[Case]:
    """Every operator of integer sums, over shapes: single inputs and outputs, empty batches, N that fill no byte."""
    for layout, kind in product(KINDS, INPUTS):
        for shape, outputs in [((2, 1), 1), ((3, 7), 1), ((5,), 9), ((2, 3, 64), 10), ((4, 130), 33), ((0, 5), 3)]:
            if len(shape) > 1:
                yield linear_case(layout, kind, shape, outputs)
        for geometry in GEOMETRIES:
            yield conv_case(layout, kind, geometry)
            yield conv_case(layout, kind, geometry, transposed=True)
        yield conv_case(layout, kind, GEOMETRIES[3], batch=0)
    for layout, ids in product(KINDS, (np.int64, np.int32)):
        for rows, columns, shape in [(1, 1, (1,)), (11, 7, (3, 4)), (5, 16, (2, 3, 2))]:
            yield embedding_case(layout, ids, rows, columns, shape)
    for kind, axes, (stride, pad) in product(INPUTS, (1, 2, 3), ((1, 1), (2, 0))):
        yield pool_case(kind, axes, stride, pad)


# Neurons -----------------------------------------------------------------------------------------------------------


def all_specs() -> list[NeuronSpec]:
    """Every neuron that has a fixed-point form of its own."""
    found = []
    for choices in product(*map(get_args, (Charge, Comparison, Reset, Timing))):
        for fire, feedback in product(get_args(Fire), get_args(Feedback)):
            try:
                spec = NeuronSpec(*choices, False, fire, feedback)
                fixed_point_parameters(spec)
            except ConfigError:
                continue
            found.append(spec)
    return found


SPECS = all_specs()

#: A threshold of 6 and small numbers let sums meet it exactly; a decay of 1/2 makes halves, which round up.
SMALL = {
    "threshold": 6, "gain": 2, "bias": 1, "decay": 2**14, "v_reset": -3, "levels": 4, "feedback": -3,
    "current_decay": 3 * 2**13, "excitation_decay": 29000, "inhibition_decay": 20000, "potential_gain": 45000,
}  # fmt: skip
#: Numbers that take currents and states to their limits.
LARGE = SMALL | {"threshold": 2**28 + 1, "gain": 2**14, "bias": -(2**27), "v_reset": -(2**29), "feedback": 2**28 - 99}


def neuron_case(
    spec: NeuronSpec, layout: str, numbers: str, *, shape: tuple[int, ...], states: bool, step: bool
) -> Case:
    """``numbers`` are "small" or "large", one for all, or "mixed", by channel; ``shape`` is without the time."""
    rng = np.random.default_rng(len(spec.operator) + len(layout) + len(numbers))
    axis = 1 if spec.feedback == "conv" else -1
    channels = shape[axis]
    by_channel = (channels, 1, 1) if spec.feedback == "conv" else (channels,)
    wide = by_channel if numbers == "mixed" else ()
    large = np.arange(channels).reshape(by_channel) % 2 == 1 if wide else np.array(numbers == "large")
    codes = np.zeros((1, 1), np.int64)
    weights, geometry = {}, []
    if layout:
        kernel = (3, 3) if spec.feedback == "conv" else ()
        codes = random_codes(rng, layout, channels * int(np.prod(kernel)), channels)
        weights = {"packed": pack(codes, layout)}
        geometry = [channels, channels, *kernel, *[k // 2 for k in kernel] * 2] if kernel else []
    parameters = {}
    for name in fixed_point_parameters(spec):
        value = np.where(large, LARGE[name], SMALL[name])
        if name == "feedback" and layout:
            value = np.where(large, value // abs(codes).sum(0).max(), value)
        parameters[name] = np.asarray(value + np.arange(value.size).reshape(value.shape), np.int32)
    # Currents up to a quarter of the limit, or a few thresholds.
    reach, limit = np.where(large, 2**15, 4), np.where(large, STATE_LIMIT, 12)
    time = () if step else (7,)
    x = (rng.integers(-(2**15), 2**15 + 1, (*time, *shape)) * reach // 2**15).astype(np.int32)
    state = {}
    for name in spec.states:
        drawn = rng.integers(-STATE_LIMIT, STATE_LIMIT + 1, shape)
        state[name] = (drawn > 0).astype(np.uint8) if name == "s" else (drawn * limit // STATE_LIMIT).astype(np.int32)
    run = integer_operators.fixed_neuron_step if step else integer_operators.fixed_neuron_sequence
    arguments = [_tensors(*values.values()) for values in (state, parameters, weights)]
    outputs = run(torch.from_numpy(x), *arguments, layout, geometry, 15, spec.operator, "layer")
    node = integer_nodes.neuron_node(spec.operator, layout, geometry, 15, step=step, states=states)
    inputs = {"xs": x} | {f"{name}0": value for name, value in state.items()}
    constants = {f"p_{name}": value for name, value in parameters.items()} | weights
    shown = outputs if states or step else outputs[:1]
    return Case(node, inputs | constants, tuple(constants), [value.numpy() for value in shown])


def neuron_cases(spec: NeuronSpec) -> Iterator[Case]:
    """Whole sequences with and without states, and single steps, with all kinds of numbers and every packing."""
    layouts = tuple(KINDS) if spec.feedback in ("linear", "conv") else ("",)
    shape = (2, 4, 5, 3) if spec.feedback == "conv" else (3, 6)
    turn = SPECS.index(spec)
    for index, (step, states) in enumerate(((False, True), (False, False), (True, True))):
        numbers = ("mixed", "small", "large")[(index + turn) % 3]
        yield neuron_case(
            spec, layouts[(3 * turn + index) % len(layouts)], numbers, shape=shape, states=states, step=step
        )


def operators() -> set[str]:
    """The names of all integer operators."""
    layers = {str(case) for case in layer_cases()}
    for spec, step, states in product(SPECS, (False, True), (False, True)):
        for layout in KINDS if spec.feedback in ("linear", "conv") else ("",):
            layers.add(IntegerNeuron(spec, step=step, states=states, layout=layout).name)
    return layers
