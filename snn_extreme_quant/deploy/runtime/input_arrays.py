"""What users hand over as input, as an array: torch's tensors too, without needing torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.errors import SampleError

__all__ = ["as_array", "converted"]


def as_array(value: Any, what: str) -> npt.NDArray[Any]:
    """Return an input as an array; floats become float32, as in torch's tensors of them.

    Args:
        value: an array, what numpy makes one of, or a torch tensor on any device.
        what: what errors call it.

    Raises:
        SampleError: it is no array of numbers, is empty or a single number, or holds NaN or infinity.

    Example:
        >>> as_array([[0.0, 1.0]], "The input").dtype.name
        'float32'
    """
    try:
        if hasattr(value, "detach"):  # a tensor of torch
            value = value.detach().cpu()
            value = value.float() if value.is_floating_point() else value  # numpy has no bfloat16
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SampleError(f"{what} is not a tensor or an array: {error}.") from error
    if array.dtype.kind not in "biuf":
        raise SampleError(f"{what} is not a tensor or an array of numbers; it holds {array.dtype}.")
    if array.ndim == 0 or array.size == 0:
        raise SampleError(f"{what} has shape {array.shape}; give at least one time step of one sample.")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what does not fit is infinite, and refused
            array = array.astype(np.float32, copy=False)
        if not bool(np.isfinite(array).all()):
            raise SampleError(f"{what} holds NaN or infinite values.")
    return np.ascontiguousarray(array)


def converted(array: npt.NDArray[Any], wanted: np.dtype[Any], file: object) -> npt.NDArray[Any]:
    """Return an array in the type that a file takes.

    Args:
        array: numbers or truth values.
        wanted: the file's type.
        file: what errors call it.

    Raises:
        SampleError: it holds something else, NaN or infinity, or what the file's type does not hold.

    Example:
        >>> converted(np.array([True, False]), np.dtype("float32"), "net.onnx")
        array([1., 0.], dtype=float32)
    """
    if array.dtype.kind not in "bifu":
        raise SampleError(f"{file} takes {wanted}; got {array.dtype}.")
    with np.errstate(invalid="ignore", over="ignore"):  # what does not fit is looked for below
        found = array.astype(wanted)
    # Rounding float64 to float32 is what torch does with it too; NaN stays NaN and is refused as an input.
    rounded = wanted == np.float32 and array.dtype.kind == "f"
    if not rounded and not bool((found == array).all()):
        raise SampleError(f"{file} takes {wanted}; the input's {array.dtype} does not go into it without loss.")
    if found.dtype.kind == "f" and not bool(np.isfinite(found).all()):
        raise SampleError("The input holds NaN or infinite values.")
    return np.ascontiguousarray(found)
