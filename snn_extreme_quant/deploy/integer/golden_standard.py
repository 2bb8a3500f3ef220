"""ONNX's own operators in numpy, for the golden model: those that integer files hold, one line where one is enough.

Whole numbers stay what they are: what a type cannot hold raises ``OverflowError`` here, where a runtime would wrap
around. Of floats only what encodes an input and decodes an output is here: elementwise operations in float32, as every
runtime does them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper, numpy_helper

__all__ = ["STANDARD", "narrowed"]

Array = npt.NDArray[Any]
_Operands = Sequence[Array | None]
_Attributes = Mapping[str, Any]


def _operand(operands: _Operands, index: int) -> Array | None:
    """Return an operand that may be left out."""
    return operands[index] if len(operands) > index else None


def _axes(operands: _Operands, index: int, attributes: _Attributes) -> tuple[int, ...] | None:
    """Return the axes, which older operators have as an attribute; None for all."""
    given = _operand(operands, index)
    listed = attributes.get("axes") if given is None else given.tolist()
    return tuple(listed) if listed else None


def narrowed(exact: Array, dtype: npt.DTypeLike) -> Array:
    """Return whole numbers in a type that holds them.

    Raises:
        OverflowError: it does not hold one of them.
    """
    kind = np.dtype(dtype)
    if kind.kind in "iu" and exact.dtype.kind in "iuf" and exact.size and exact.dtype != kind:
        low, high = exact.min(), exact.max()
        limits = np.iinfo(kind)
        if not (limits.min <= low and high <= limits.max):
            raise OverflowError(f"a number of {low if low < limits.min else high} does not fit {kind}")
    return exact.astype(kind)


def _widened(function: Callable[..., Any]) -> Callable[[_Operands, _Attributes], list[Array]]:
    """Make an operator of a function that may leave the type of its operands: whole numbers are computed in 64 bits."""

    def applied(operands: _Operands, _attributes: _Attributes) -> list[Array]:
        values = [np.asarray(value) for value in operands]
        if values[0].dtype.kind not in "iu":
            return [np.asarray(function(*values))]
        return [narrowed(np.asarray(function(*(value.astype(np.int64) for value in values))), values[0].dtype)]

    return applied


def _divide(operands: _Operands, _attributes: _Attributes) -> list[Array]:
    """Divide; whole numbers are cut towards 0."""
    a, b = (np.asarray(value) for value in operands)
    if a.dtype.kind == "f":
        return [a / b]
    return [(np.sign(a) * np.sign(b) * (abs(a) // abs(b))).astype(a.dtype)]


def _mod(operands: _Operands, attributes: _Attributes) -> list[Array]:
    """Return the remainder, with the sign of the divisor; of the dividend with ``fmod``."""
    a, b = (np.asarray(value) for value in operands)
    return [np.fmod(a, b) if attributes.get("fmod", 0) else np.mod(a, b)]


def _clip(operands: _Operands, _attributes: _Attributes) -> list[Array]:
    x = np.asarray(operands[0])
    low, high = _operand(operands, 1), _operand(operands, 2)
    x = x if low is None else np.maximum(x, low)
    return [x if high is None else np.minimum(x, high)]


def _cast(operands: _Operands, attributes: _Attributes) -> list[Array]:
    return [narrowed(np.asarray(operands[0]), helper.tensor_dtype_to_np_dtype(attributes["to"]))]


def _constant(_operands: _Operands, attributes: _Attributes) -> list[Array]:
    kinds = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    name, value = next(iter(attributes.items()))
    return [numpy_helper.to_array(value) if name == "value" else np.array(value, kinds[name])]


def _constant_of_shape(operands: _Operands, attributes: _Attributes) -> list[Array]:
    value = numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    return [np.full(np.asarray(operands[0]).tolist(), value[0], value.dtype)]


def _expand(operands: _Operands, _attributes: _Attributes) -> list[Array]:
    x, shape = np.asarray(operands[0]), np.asarray(operands[1]).tolist()
    return [np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape)))]


def _flatten(operands: _Operands, attributes: _Attributes) -> list[Array]:
    x, axis = np.asarray(operands[0]), attributes.get("axis", 1)
    return [x.reshape(int(np.prod(x.shape[:axis])), -1)]


def _reshape(operands: _Operands, attributes: _Attributes) -> list[Array]:
    """Reshape; a 0 keeps the size of the axis, unless ``allowzero``."""
    x, sizes = np.asarray(operands[0]), np.asarray(operands[1]).tolist()
    if not attributes.get("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    if -1 in sizes:
        known = int(np.prod([size for size in sizes if size != -1]))
        sizes[sizes.index(-1)] = x.size // known if known else 0
    return [x.reshape(sizes)]


def _unsqueeze(operands: _Operands, attributes: _Attributes) -> list[Array]:
    return [np.expand_dims(np.asarray(operands[0]), _axes(operands, 1, attributes) or ())]


def _squeeze(operands: _Operands, attributes: _Attributes) -> list[Array]:
    return [np.squeeze(np.asarray(operands[0]), _axes(operands, 1, attributes))]


def _slice(operands: _Operands, _attributes: _Attributes) -> list[Array]:
    x, begins, ends = (np.asarray(value) for value in operands[:3])
    axes, steps = _operand(operands, 3), _operand(operands, 4)
    cut = [slice(None)] * x.ndim
    for index, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        axis = index if axes is None else int(axes[index])
        step = 1 if steps is None else int(steps[index])
        # Going backwards, an end before the first element is none; numpy would count it from the end.
        before_all = step < 0 and end < -x.shape[axis]
        cut[axis] = slice(begin, None if before_all else end, step)
    return [x[tuple(cut)]]


def _split(operands: _Operands, attributes: _Attributes) -> list[Array]:
    x, axis, sizes = np.asarray(operands[0]), attributes.get("axis", 0), _operand(operands, 1)
    if sizes is None:
        count = attributes["num_outputs"]
        size = -(-x.shape[axis] // count)
        return np.split(x, [size * i for i in range(1, count)], axis)
    return np.split(x, np.cumsum(sizes)[:-1].tolist(), axis)


def _shape(operands: _Operands, attributes: _Attributes) -> list[Array]:
    sizes = np.array(np.asarray(operands[0]).shape, np.int64)
    return [sizes[attributes.get("start", 0) : attributes.get("end", len(sizes))]]


def _pad(operands: _Operands, attributes: _Attributes) -> list[Array]:
    """Pad each axis (those named) at its begin and its end; negative numbers cut off."""
    x, pads = np.asarray(operands[0]), np.asarray(operands[1]).tolist()
    value, axes = _operand(operands, 2), _operand(operands, 3)
    where = list(range(x.ndim)) if axes is None else [int(axis) % x.ndim for axis in axes]
    ends = [(0, 0)] * x.ndim
    for index, axis in enumerate(where):
        ends[axis] = (pads[index], pads[index + len(where)])
    more = [(max(begin, 0), max(end, 0)) for begin, end in ends]
    mode = {b"constant": "constant", b"reflect": "reflect", b"edge": "edge", b"wrap": "wrap"}[
        attributes.get("mode", b"constant")
    ]
    filled = {"constant_values": 0 if value is None else value.item()} if mode == "constant" else {}
    padded = np.pad(x, more, mode, **filled)  # type: ignore[call-overload]
    cut = tuple(slice(max(-b, 0), n - max(-e, 0)) for (b, e), n in zip(ends, padded.shape, strict=True))
    return [padded[cut]]


def _max_pool(operands: _Operands, attributes: _Attributes) -> list[Array]:
    """Return the largest of each window; what is padded is smaller than all."""
    x, kernel = np.asarray(operands[0]), attributes["kernel_shape"]
    axes = len(kernel)
    strides, dilations = attributes.get("strides", [1] * axes), attributes.get("dilations", [1] * axes)
    pads, ceil = attributes.get("pads", [0] * 2 * axes), attributes.get("ceil_mode", 0)
    least = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    sizes, more = [], []
    for a in range(axes):
        free = x.shape[2 + a] + pads[a] + pads[axes + a] - dilations[a] * (kernel[a] - 1) - 1
        size = (-(-free // strides[a]) if ceil else free // strides[a]) + 1
        # A window may not begin in the padding at the end.
        size -= bool(ceil and (size - 1) * strides[a] >= x.shape[2 + a] + pads[a])
        sizes.append(size)
        more.append(max(0, (size - 1) * strides[a] - free))
    ends = [(pads[a], pads[axes + a] + more[a]) for a in range(axes)]
    padded = np.pad(x, [(0, 0), (0, 0), *ends], constant_values=least)
    best = np.full((*x.shape[:2], *sizes), least, x.dtype)
    for position in np.ndindex(*kernel):
        window = [
            slice(p * d, p * d + (n - 1) * s + 1, s)
            for p, d, n, s in zip(position, dilations, sizes, strides, strict=True)
        ]
        best = np.maximum(best, padded[:, :, *window])
    return [best]


def _matmul_integer(operands: _Operands, _attributes: _Attributes) -> list[Array]:
    a, b = (np.asarray(value).astype(np.int64) for value in operands[:2])
    a_zero, b_zero = _operand(operands, 2), _operand(operands, 3)
    a = a if a_zero is None else a - a_zero
    b = b if b_zero is None else b - b_zero
    return [narrowed(a @ b, np.int32)]


def _reduce(function: Callable[..., Any]) -> Callable[[_Operands, _Attributes], list[Array]]:
    def reduced(operands: _Operands, attributes: _Attributes) -> list[Array]:
        x, axes = np.asarray(operands[0]), _axes(operands, 1, attributes)
        if axes is None and attributes.get("noop_with_empty_axes", 0):
            return [x]
        wide = x.astype(np.int64) if x.dtype.kind in "iu" else x
        result = np.asarray(function(wide, axis=axes, keepdims=bool(attributes.get("keepdims", 1))))
        return [narrowed(result, x.dtype)]

    return reduced


def _plain(function: Callable[..., Any]) -> Callable[[_Operands, _Attributes], list[Array]]:
    """Make an operator of a function of the operands alone."""

    def applied(operands: _Operands, _attributes: _Attributes) -> list[Array]:
        return [np.asarray(function(*operands))]

    return applied


def _folded(function: Callable[..., Any]) -> Callable[[_Operands, _Attributes], list[Array]]:
    """Make an operator of any number of operands of a function of two."""

    def applied(operands: _Operands, _attributes: _Attributes) -> list[Array]:
        result = np.asarray(operands[0])
        for other in operands[1:]:
            result = function(result, other)
        return [result]

    return applied


#: By name; each takes the operands and the attributes, and gives the results.
STANDARD: dict[str, Callable[[_Operands, _Attributes], list[Array]]] = {
    "Abs": _widened(np.abs),
    "Add": _widened(np.add),
    "And": _plain(np.logical_and),
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda operands, a: [np.concatenate([np.asarray(o) for o in operands], a["axis"])],
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Div": _divide,
    "Equal": _plain(np.equal),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": lambda operands, a: [np.take(np.asarray(operands[0]), np.asarray(operands[1]), a.get("axis", 0))],
    "Greater": _plain(np.greater),
    "GreaterOrEqual": _plain(np.greater_equal),
    "Identity": _plain(lambda x: x),
    "Less": _plain(np.less),
    "LessOrEqual": _plain(np.less_equal),
    "MatMul": _widened(np.matmul),
    "MatMulInteger": _matmul_integer,
    "Max": _folded(np.maximum),
    "MaxPool": _max_pool,
    "Min": _folded(np.minimum),
    "Mod": _mod,
    "Mul": _widened(np.multiply),
    "Neg": _widened(np.negative),
    "Not": _plain(np.logical_not),
    "Or": _plain(np.logical_or),
    "Pad": _pad,
    "Range": _plain(np.arange),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Relu": _plain(lambda x: np.maximum(x, 0)),
    "Reshape": _reshape,
    "Round": _plain(np.rint),
    "Shape": _shape,
    "Sign": _plain(np.sign),
    "Size": lambda operands, _: [np.array(np.asarray(operands[0]).size, np.int64)],
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _widened(np.subtract),
    "Tile": lambda operands, _: [np.tile(np.asarray(operands[0]), np.asarray(operands[1]))],
    "Transpose": lambda operands, a: [np.transpose(np.asarray(operands[0]), a.get("perm"))],
    "Unsqueeze": _unsqueeze,
    "Where": _plain(np.where),
}
