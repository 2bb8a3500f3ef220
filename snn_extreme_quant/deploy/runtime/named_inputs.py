"""What a file of several inputs is given: an array for each, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from snn_extreme_quant.deploy.runtime.input_arrays import as_array, converted
from snn_extreme_quant.deploy.runtime.input_shape import axes_of, check_shape
from snn_extreme_quant.errors import SampleError
from snn_extreme_quant.registry import suggest

__all__ = ["named_inputs"]

Array = npt.NDArray[Any]
#: By input, the number in ``limits`` of a file of tokens that its numbers stay below; the mask is 0 and 1.
_LIMITS = {"input_ids": "vocab", "token_type_ids": "types"}


def named_inputs(
    given: object, entries: Sequence[onnx.ValueInfoProto], path: Path, facts: Mapping[str, Any]
) -> dict[str, Array]:
    """Return the inputs of a file, each of its type.

    Args:
        given: a mapping by name; of a file of one input the array itself will do.
        entries: the file's inputs.
        path: the file.
        facts: what it says of itself.

    Raises:
        SampleError: an input is missing, unknown, of another type or shape, or out of range.

    Example:
        >>> entry = onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["B", "S"])
        >>> named_inputs({"input_ids": [[1, 2]]}, [entry], Path("net.onnx"), {})["input_ids"].tolist()
        [[1, 2]]
    """
    names = [entry.name for entry in entries]
    if not isinstance(given, Mapping):
        if len(names) > 1:
            raise SampleError(
                f"{path} takes {len(names)} inputs ({', '.join(names)}); give each by its name, in a mapping (on the"
                " command line a .npz file, or NAME=FILE.npy for each)."
            )
        given = {names[0]: given}
    for name in given:
        if name not in names:
            raise SampleError(f"{path} has no input {name!r}; it takes {', '.join(names)}. {suggest(str(name), names)}")
    missing = [name for name in names if name not in given]
    if missing:
        raise SampleError(f"{path} takes {', '.join(names)}; {', '.join(map(repr, missing))} is missing.")
    found: dict[str, Array] = {}
    open_axes: dict[str, tuple[str, int]] = {}
    for entry in entries:
        what = f"input {entry.name!r} of {path}"
        array = as_array(given[entry.name], f"The {what}")
        axes = axes_of(entry, facts)
        check_shape(Path(f"The {what}") if len(names) > 1 else path, axes, array.shape, facts)
        wanted = onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
        found[entry.name] = converted(array, wanted, f"The {what}" if len(names) > 1 else path)
        for axis, size in zip(axes, array.shape, strict=True):
            other, known = open_axes.setdefault(str(axis), (entry.name, size))
            if isinstance(axis, str) and known != size:
                raise SampleError(f"The {what} has {size} along {axis}, {other!r} has {known}: they are of one batch.")
    _check_limits(found, path, facts)
    return found


def _check_limits(arrays: Mapping[str, Array], path: Path, facts: Mapping[str, Any]) -> None:
    """Refuse token numbers that the file's tables do not have."""
    limits = facts.get("limits")
    if not isinstance(limits, Mapping):
        return
    for name, array in arrays.items():
        most = 2 if name == "attention_mask" else limits.get(_LIMITS.get(name, ""), np.inf)
        if array.min() < 0 or array.max() >= most:
            raise SampleError(
                f"The input {name!r} of {path} holds {array.min()} to {array.max()}; the file takes 0 to {most - 1}."
            )
        if array.ndim == 2 and array.shape[1] > limits.get("positions", np.inf):
            raise SampleError(
                f"The input {name!r} of {path} has {array.shape[1]} tokens a text; the file takes"
                f" {limits['positions']}. Truncate."
            )
