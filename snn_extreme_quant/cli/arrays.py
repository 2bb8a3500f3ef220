"""Arrays named on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_extreme_quant.errors import SampleError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["read_arrays", "read_sample"]

_TYPES = ("float32", "int64", "int32")


def read_arrays(path: Path) -> list[npt.NDArray[Any]]:
    """Return the array in a ``.npy`` file, or those in a ``.npz`` file; truth values become 0 and 1 in float32.

    Raises:
        SampleError: it cannot be read, or holds something else than numbers.
    """
    import numpy as np

    try:
        # What is neither kind of file would be unpickled, which is refused: it may run code.
        found = np.load(path, allow_pickle=False)
        arrays = [found] if isinstance(found, np.ndarray) else [found[name] for name in found.files]
    except OSError as error:
        raise SampleError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # zip, header and pickle errors, each of its own class
        raise SampleError(f"{path} is no array of numbers in a .npy or .npz file; write it with numpy.save.") from error
    for array in arrays:
        if array.dtype.kind not in "bifu":
            raise SampleError(f"{path} holds {array.dtype}; numbers are needed.")
    if not arrays:
        raise SampleError(f"{path} holds no array.")
    return [array.astype(np.float32) if array.dtype.kind == "b" else array for array in arrays]


def read_sample(text: str) -> npt.NDArray[Any]:
    """Return zeros of the shape ``8,1,64`` (``8,1:int64`` for indices), or the array in a file.

    Raises:
        SampleError: it is neither.

    Example:
        >>> read_sample("8,1,64").shape, read_sample("5,1:int64").dtype.name
        ((8, 1, 64), 'int64')
    """
    import numpy as np

    if text.endswith((".npy", ".npz")):
        return read_arrays(Path(text))[0]
    shape, colon, kind = text.partition(":")
    sizes = shape.replace("x", ",").split(",")
    if not all(size.strip().isdecimal() and int(size) for size in sizes) or (colon and kind not in _TYPES):
        raise SampleError(
            f"--sample {text}: give a shape such as 8,1,64 (5,1:int64 for indices), or an array in a .npy file."
        )
    dtype: np.dtype[Any] = np.dtype(kind or "float32")
    try:
        return np.zeros([int(size) for size in sizes], dtype)
    except (MemoryError, ValueError) as error:
        raise SampleError(f"--sample {text}: an array of that size does not fit into memory.") from error
