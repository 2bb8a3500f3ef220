"""Whether an input has the shape and the number of time steps that a file is for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from snn_extreme_quant.deploy.lowering.functions import is_integer_neuron
from snn_extreme_quant.errors import SampleError

__all__ = ["axes_of", "check_shape", "warn_of_long_input"]

#: Of neurons with several states, which beyond the proof may add up to more than 32 bits before they are clipped.
_SEVERAL_STATES = ("synaptic", "alpha")


def axes_of(entry: onnx.ValueInfoProto, facts: Mapping[str, Any]) -> list[int | str]:
    """Return the axes of an input, open ones by name; a streaming file's with that of time, which it takes apart."""
    axes: list[int | str] = [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim]
    if facts.get("form") == "streaming" and facts["time_axis"] is not None:
        axes.insert(facts["time_axis"], "T")
    return axes


def check_shape(path: Path, axes: Sequence[int | str], shape: Sequence[int], facts: Mapping[str, Any]) -> None:
    """Refuse an input that a file does not take.

    Args:
        path: the file.
        axes: of its input.
        shape: of what it is given.
        facts: what the file says of itself.

    Raises:
        SampleError: another number of axes, another length of one that is fixed, or nothing at all.
    """
    fits = len(shape) == len(axes) and all(
        size == axis if isinstance(axis, int) else size > 0 for size, axis in zip(shape, axes, strict=True)
    )
    if fits:
        return
    said = f"{path} takes an input of shape ({', '.join(map(str, axes))}); got {tuple(shape)}."
    if 0 in shape and len(shape) == len(axes):
        empty = axes[list(shape).index(0)]
        what = {"T": "one time step", "B": "one sample"}.get(str(empty), "one value along each axis")
        raise SampleError(f"{said} At least {what} is needed.")
    time = str(facts.get("time", "free"))
    fixed = time.startswith("fixed at the sample's") and len(shape) == len(axes) and isinstance(axes[0], int)
    if fixed and list(shape[1:]) and shape[0] != axes[0]:
        raise SampleError(
            f"{said} The file is for {axes[0]} time steps only (time is {time}); export it with a sample of"
            f" {shape[0]} steps."
        )
    raise SampleError(said)


def warn_of_long_input(
    path: Path, model: onnx.ModelProto, axes: Sequence[int | str], shape: Sequence[int], facts: Mapping[str, Any]
) -> None:
    """Warn of more steps than an integer file is proved for, where states or sums would wrap around.

    A neuron of a single state stays at the limit beyond its proof (``docs/integer.md``), if what it reads fits.
    """
    if "T" not in axes:
        return
    steps = shape[list(axes).index("T")]
    wrapping = {
        node.name.rpartition("@")[0] or node.name
        for node in model.graph.node
        if is_integer_neuron(node.op_type) and node.op_type.partition("LIF_")[2].startswith(_SEVERAL_STATES)
    }
    for entry in facts.get("fixed_point", ()):
        most = entry["max_steps"]
        if most is not None and steps > most and (entry["name"] in wrapping or entry.get("over_steps")):
            warnings.warn(
                f"{path}: layer {entry['name']!r} is proved for {most} time steps, and the input has {steps}. In the"
                " steps behind them its numbers may leave 32 bits, and its spikes be wrong; verifying the file on such"
                f" inputs says whether they are. Export it for {steps} steps with --max-steps {steps} (in Python"
                f" IntegerOptions(max_steps={steps})).",
                RuntimeWarning,
                stacklevel=3,
            )
