"""What users hand over as input, as an array: torch's tensors too, without needing torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.errors import SampleError

__all__ = ["as_array"]


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
