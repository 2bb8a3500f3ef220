"""Arrays named on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_extreme_quant.errors import SampleError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["read_arrays", "read_batches", "read_inputs", "read_sample"]

#: In a .npz file of which this is an array, the arrays are the inputs of one batch, by name.
_FIRST_OF_TOKENS = "input_ids"

_TYPES = ("float32", "int64", "int32")


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays in a file by name; that of a ``.npy`` file has none, ``""``."""
    import numpy as np

    try:
        # What is neither kind of file would be unpickled, which is refused: it may run code.
        found = np.load(path, allow_pickle=False)
        named = {"": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except OSError as error:
        raise SampleError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # zip, header and pickle errors, each of its own class
        raise SampleError(f"{path} is no array of numbers in a .npy or .npz file; write it with numpy.save.") from error
    for array in named.values():
        if array.dtype.kind not in "bifu":
            raise SampleError(f"{path} holds {array.dtype}; numbers are needed.")
    if not named:
        raise SampleError(f"{path} holds no array.")
    return {name: array.astype(np.float32) if array.dtype.kind == "b" else array for name, array in named.items()}


def read_arrays(path: Path) -> list[npt.NDArray[Any]]:
    """Return the array in a ``.npy`` file, or those in a ``.npz`` file; truth values become 0 and 1 in float32.

    Raises:
        SampleError: it cannot be read, or holds something else than numbers.
    """
    return list(_load(path).values())


def read_batches(paths: Iterable[Path]) -> list[Any]:
    """Return the batches in files: each array is one, but those of a ``.npz`` file with ``input_ids``, which are one.

    Raises:
        SampleError: as of :func:`read_arrays`.
    """
    found: list[Any] = []
    for path in paths:
        named = _load(path)
        found += [named] if _FIRST_OF_TOKENS in named else list(named.values())
    return found


def read_inputs(sources: Sequence[str]) -> npt.NDArray[Any] | dict[str, npt.NDArray[Any]]:
    """Return what a file is run on: one array, or each input by name.

    Args:
        sources: ``FILE.npy``, ``FILE.npz`` with an array for each input by its name, or ``NAME=FILE.npy`` for each.

    Raises:
        SampleError: as of :func:`read_arrays`; an input is given twice, or arrays with and without names.
    """
    named: dict[str, npt.NDArray[Any]] = {}
    for source in sources:
        name, equals, file = source.partition("=")
        if not equals or Path(source).exists():
            found = _load(Path(source))
            # One array without a second is an input whatever it is called, as numpy.savez calls it arr_0.
            found = {"": next(iter(found.values()))} if len(found) == 1 and len(sources) == 1 else found
        else:
            arrays = read_arrays(Path(file))
            if len(arrays) != 1:
                raise SampleError(f"{file} holds {len(arrays)} arrays; {source!r} means one.")
            found = {name: arrays[0]}
        for key, array in found.items():
            if key in named:
                raise SampleError(
                    f"The input {key!r} is given twice." if key else "Two arrays without a name are given."
                )
            named[key] = array
    if "" not in named:
        return named
    if len(named) > 1:
        others = ", ".join(name for name in named if name)
        raise SampleError(f"An array without a name is given beside {others}; write NAME=FILE.npy for each.")
    return named[""]


def read_sample(text: str) -> npt.NDArray[Any] | dict[str, npt.NDArray[Any]]:
    """Return zeros of the shape ``8,1,64`` (``8,1:int64`` for indices), or what is in a file.

    That is an array, or of a ``.npz`` file with ``input_ids`` each input by name.

    Raises:
        SampleError: it is neither.

    Example:
        >>> read_sample("8,1,64").shape, read_sample("5,1:int64").dtype.name
        ((8, 1, 64), 'int64')
    """
    import numpy as np

    if text.endswith((".npy", ".npz")):
        batch: npt.NDArray[Any] | dict[str, npt.NDArray[Any]] = read_batches([Path(text)])[0]
        return batch
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
