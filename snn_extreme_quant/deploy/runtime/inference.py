"""``run_file``: an exported file on an array, with the spikes inside if they are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from snn_extreme_quant.deploy.runtime.inner_spikes import neuron_nodes, with_outputs
from snn_extreme_quant.deploy.runtime.input_arrays import converted
from snn_extreme_quant.deploy.runtime.input_shape import axes_of, check_shape, warn_of_long_input
from snn_extreme_quant.deploy.runtime.named_inputs import named_inputs
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.deploy.runtime.stream import run_streamed
from snn_extreme_quant.deploy.synchronous.count_files import checked_rates, counts_of, rates_of_train
from snn_extreme_quant.errors import SampleError
from snn_extreme_quant.exported.files import read_model

__all__ = ["FileRun", "run_file"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FileRun:
    """What a file gave.

    Args:
        runtime: the runtime and its version, and whether native kernels computed in it.
        outputs: by name.
        spikes: by neuron layer, if asked for: ``(T, B, ...)``; one step a row where the file is unrolled. Of a counts
            file numbers of spikes ``(B, ...)``.
        counted_steps: the number of steps whose spikes are counted; None where ``spikes`` holds every step.
        native: whether native kernels computed at least one node.
        native_detail: which kernels computed how many nodes, or why none did.
    """

    runtime: str
    outputs: dict[str, Array]
    spikes: dict[str, Array]
    counted_steps: int | None = None
    native: bool = False
    native_detail: str = ""

    def __repr__(self) -> str:
        """Say what it holds, not all the values."""
        held = [
            f"{what}={{{', '.join(f'{name!r}: {v.dtype} {v.shape}' for name, v in values.items())}}}"
            for what, values in (("outputs", self.outputs), ("spikes", self.spikes))
        ]
        return f"FileRun({self.runtime!r}, {', '.join(held)})"

    def firing_rate(self, layer: str) -> float:
        """Return how many spikes a neuron of the layer gives in a step, in the mean over neurons and steps."""
        spikes = self.spikes[layer]
        if not spikes.size:
            return 0.0
        fired = spikes != 0 if self.counted_steps is None else abs(spikes) / self.counted_steps
        return float(fired.mean())


def run_file(
    path: str | Path,
    inputs: npt.ArrayLike | Mapping[str, npt.ArrayLike],
    *,
    spikes: bool = False,
    native: bool | Literal["auto"] = "auto",
    allow_edited: bool = False,
) -> FileRun:
    """Run an exported file on onnxruntime.

    Args:
        path: a file of :func:`~snn_extreme_quant.export_onnx`.
        inputs: what the file takes; converted to its type where that loses nothing. A streaming file is run over a
            whole input, step by step. A counts file of ``input="spikes"`` takes a spike train ``(T, B, ...)`` as well
            as its rates. A file of several inputs, as those of models of tokens are, takes a mapping by their names.
        spikes: give the output of every neuron layer too.
        native: as for :func:`~snn_extreme_quant.deploy.session`.
        allow_edited: run a file although it was changed after export.

    Raises:
        ModelFileError: the file is missing, truncated, not ours, or does not load.
        ModelEditedError: the file was changed after export.
        NativeLibraryError: ``native=True``, and the kernels cannot be had.
        SampleError: an input does not fit the file, is missing or unknown, or breaks what was promised of it.

    Example:
        >>> run_file("net.onnx", spikes).outputs  # doctest: +SKIP
    """
    path = Path(path)
    model, facts = read_model(path, allow_edited=allow_edited)
    nodes = neuron_nodes(model) if spikes else {}
    tensors = {layer: [node.output[0] for node in group] for layer, group in nodes.items()}
    exposed = with_outputs(model, [n for group in tensors.values() for n in group])
    opened = open_session(exposed, native=native, name=str(path))
    runtime = opened.runtime
    streaming = facts.get("form") == "streaming"
    given = _given(inputs, model, path, facts)
    counts = facts.get("form") == "counts"
    who: dict[str, Any] = {"runtime": opened.name, "native": opened.native, "native_detail": opened.detail}
    if streaming:
        outputs, inside = _streamed(runtime, facts, next(iter(given.values())), tensors)
        return FileRun(outputs=outputs, spikes=inside, **who)
    try:
        values = runtime.run(None, given)
    except Exception as error:  # onnxruntime raises a class of its own for every failure
        shapes = ", ".join(str(value.shape) for value in given.values())
        raise SampleError(f"{path} does not run on an input of shape {shapes}: {error}") from error
    named = dict(zip((output.name for output in runtime.get_outputs()), values, strict=True))
    inner = {layer: [named[node.output[0]] for node in group] for layer, group in nodes.items()}
    if "schedule" in facts:
        steps = facts["schedule"]["steps"]
        inner = {
            layer: [counts_of(node, value, steps) for node, value in zip(nodes[layer], values, strict=True)]
            for layer, values in inner.items()
        }
    return FileRun(
        outputs={output.name: named[output.name] for output in model.graph.output},
        spikes={layer: group[0] if len(group) == 1 else np.stack(group) for layer, group in inner.items()},
        counted_steps=facts["schedule"]["steps"] if counts else None,
        **who,
    )


def _streamed(
    runtime: Any, facts: Mapping[str, Any], array: Array, tensors: Mapping[str, list[str]]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Run a streaming file over a whole input, step by step, and return its outputs and the spikes of each layer."""
    names = [name for group in tensors.values() for name in group]
    values, steps = run_streamed(runtime, facts, array, names)
    by_name = dict(zip(names, steps, strict=True))
    outputs = {output["name"]: value for output, value in zip(facts["outputs"], values, strict=True)}
    # A neuron that is called several times in a step has a row for each call.
    spikes = {
        layer: np.stack([value for row in zip(*(by_name[n] for n in group), strict=True) for value in row])
        for layer, group in tensors.items()
    }
    return outputs, spikes


def _given(inputs: Any, model: onnx.ModelProto, path: Path, facts: Mapping[str, Any]) -> dict[str, Array]:
    """Return what a session is given: each input by name; of a streaming file the whole input alone."""
    constants = {constant.name for constant in model.graph.initializer}
    taken = [value for value in model.graph.input if value.name not in constants]
    streaming = facts.get("form") == "streaming"
    if facts["input"] == "tokens" or (len(taken) != 1 and not streaming):
        return named_inputs(inputs, taken, path, facts)
    entry = taken[0]
    if isinstance(inputs, Mapping):
        unknown = sorted(set(inputs) - {entry.name})
        if unknown or not inputs:
            raise SampleError(f"{path} takes one input, {entry.name!r}; got {', '.join(map(repr, unknown)) or 'none'}.")
        inputs = inputs[entry.name]
    if facts.get("form") == "counts" and facts["input"] == "spikes":
        return {entry.name: _rates(inputs, entry, path, facts)}
    array = _converted(inputs, entry, path, facts)
    warn_of_long_input(path, model, axes_of(entry, facts), array.shape, facts)
    if facts["input"] == "spikes" and not bool(((array == 0) | (array == 1)).all()):
        raise SampleError(f"{path} was exported with input='spikes'; this input is not 0 and 1 only.")
    return {entry.name: array}


def _rates(inputs: npt.ArrayLike, entry: onnx.ValueInfoProto, path: Path, facts: Mapping[str, Any]) -> Array:
    """Return the rates that a counts file takes, from rates or from spikes with the steps as their first axis."""
    array, steps = np.asarray(inputs), facts["schedule"]["steps"]
    if array.ndim == len(entry.type.tensor_type.shape.dim) + 1 and array.dtype.kind in "bifu":
        array = rates_of_train(array, steps, path)
    return checked_rates(_converted(array, entry, path, facts), steps, path)


def _converted(inputs: npt.ArrayLike, entry: onnx.ValueInfoProto, path: Path, facts: Mapping[str, Any]) -> Array:
    """Return the input in the file's type and of its rank; refuse what would lose digits."""
    array = np.asarray(inputs)
    check_shape(path, axes_of(entry, facts), array.shape, facts)
    wanted = onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
    return converted(array, wanted, path)
