"""Running streaming files: one time step after the other, the states handed on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from snn_extreme_quant.deploy.runtime.input_arrays import as_array, converted
from snn_extreme_quant.deploy.runtime.sessions import session
from snn_extreme_quant.errors import ModelFileError, SampleError
from snn_extreme_quant.exported.files import AFTER, read_model

__all__ = ["Stream", "chained", "run_streamed"]

Array = npt.NDArray[Any]


def _samples_axis(runtime: Any) -> int | None:
    """Return the axis of samples in a step's input; None if a file takes the sample's number only."""
    shape = runtime.get_inputs()[0].shape
    return shape.index("B") if "B" in shape else None


def _initial(facts: Mapping[str, Any], samples: int) -> dict[str, Array]:
    """Return the state before the first step, for so many samples where their number is free."""
    return {
        s["name"]: np.broadcast_to(
            np.array(s["initial"], _dtype(s)), [samples if n == "B" else int(n) for n in s["shape"]]
        ).copy()
        for s in facts["states"]
    }


def _dtype(state: Mapping[str, Any]) -> np.dtype[Any]:
    """Return the type of a state; those of files in float do not say it."""
    kind: np.dtype[Any] = np.dtype(state.get("dtype", "float32"))
    return kind


def run_streamed(runtime: Any, facts: Mapping[str, Any], inputs: Array, inner: list[str]) -> tuple[list[Array], Any]:
    """Run a whole input step by step.

    Args:
        runtime: onnxruntime's session of a streaming file.
        facts: what the file says of itself.
        inputs: what the model takes.
        inner: names of further tensors.

    Returns:
        The outputs as the model gives them, and each further tensor in all steps.

    Raises:
        SampleError: the input does not fit, or has more steps than the file is proved for.
    """

    def step(names: list[str], x: Array, state: dict[str, Array]) -> list[Array]:
        return _run(runtime, names, {runtime.get_inputs()[0].name: x, **state})

    return chained(step, facts, inputs, _samples_axis(runtime), inner)


def chained(
    step: Callable[[list[str], Array, dict[str, Array]], list[Array]],
    facts: Mapping[str, Any],
    inputs: Array,
    samples_axis: int | None,
    inner: list[str],
) -> tuple[list[Array], list[list[Array]]]:
    """Make all steps of an input, the states handed on.

    Args:
        step: makes one, given the names of what is wanted, the step's input and the states before it.
        facts: what the file says of itself.
        inputs: what the model takes.
        samples_axis: the axis of samples in a step's input; None if their number is fixed.
        inner: names of further tensors that are wanted.

    Returns:
        As :func:`run_streamed`.

    Raises:
        SampleError: as :func:`run_streamed`.
    """
    axis = facts["time_axis"]
    if axis is not None and inputs.ndim <= axis:
        raise SampleError(f"An input of shape {inputs.shape} has no axis {axis}, which is that of time.")
    count = facts["steps"] if axis is None else inputs.shape[axis]
    if facts.get("most_steps") is not None and count > facts["most_steps"]:
        raise SampleError(f"The input has {count} steps; {_proved(facts)}.")
    state: dict[str, Array] | None = None
    outputs = [output["name"] for output in facts["outputs"]]
    names = [*outputs, *(f"{s['name']}{AFTER}" for s in facts["states"]), *inner]
    rows = []
    for t in range(count):
        x = inputs if axis is None else inputs.take(t, axis)
        if state is None:
            fits = samples_axis is not None and x.ndim > samples_axis
            state = _initial(facts, x.shape[samples_axis] if fits and samples_axis is not None else 1)
        row = step(names, x, state)
        state = dict(zip(state, row[len(outputs) :], strict=False))
        rows.append(row)
    given = [
        rows[-1][i] if output["axis"] is None else np.stack([row[i] for row in rows], output["axis"])
        for i, output in enumerate(facts["outputs"])
    ]
    start = len(outputs) + len(facts["states"])
    return given, [[row[start + i] for row in rows] for i in range(len(inner))]


def _proved(facts: Mapping[str, Any]) -> str:
    return (
        f"the sums over time in this file are proved for {facts['most_steps']} steps. Export it again with"
        f" --max-steps (in Python IntegerOptions(max_steps=...)) above {facts['max_steps']}, or use shorter sequences"
    )


def _run(runtime: Any, names: list[str], feed: dict[str, Array]) -> list[Array]:
    try:
        results: list[Array] = runtime.run(names, feed)
    except Exception as error:  # onnxruntime raises a class of its own for every failure
        entry = runtime.get_inputs()[0]
        raise SampleError(f"A step takes input {entry.shape}, not {feed[entry.name].shape}: {error}") from error
    return results


class Stream:
    """Runs a file that was exported with ``form="streaming"``, step by step.

    The state before the first step is the model's initial state, for as many samples as the first input has. It is kept
    between steps, until :meth:`reset`.

    Args:
        path: the file.
        native: as for :func:`~snn_extreme_quant.deploy.session`.
        threads: threads within an operator; default onnxruntime's.

    Attributes:
        steps_made: how many steps were made since the last :meth:`reset`.

    Raises:
        ModelFileError: the file is missing, damaged, not ours, or of another form.
        ModelEditedError: it was changed after it was exported.

    Example:
        >>> stream = Stream("net.onnx")  # doctest: +SKIP
        >>> for events in sensor:  # doctest: +SKIP
        ...     spikes = stream.step(events)["output"]
    """

    def __init__(
        self, path: str | Path, *, native: bool | Literal["auto"] = "auto", threads: int | None = None
    ) -> None:
        self.path = Path(path)
        proto, self._facts = read_model(self.path)
        if self._facts.get("form") != "streaming":
            raise ModelFileError(
                f"{path} was exported with form={self._facts.get('form', 'sequence')!r}, which takes whole sequences:"
                " run it with sxq.deploy.session(), or export the model with form='streaming'."
            )
        self._session = session(path, native=native, threads=threads)
        self._entry = self._session.get_inputs()[0]
        self._type = onnx.helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)
        self._samples_axis = _samples_axis(self._session)
        self._outputs = [output["name"] for output in self._facts["outputs"]]
        self._names = [*self._outputs, *(f"{s['name']}{AFTER}" for s in self._facts["states"])]
        self._state: dict[str, Array] = {}
        self.steps_made = 0

    def reset(self) -> None:
        """Forget the state: the next step is a first one, of any number of samples."""
        self._state, self.steps_made = {}, 0

    @property
    def state(self) -> dict[str, Array]:
        """The state after the last step, by name; empty before the first.

        A state that was read may be set again, to go on from there, in this or another stream of the file; set
        ``steps_made`` with it where the model makes a fixed number of steps, or an integer file is proved for so many.
        An empty one resets. States of integer files are integers (``docs/integer.md``).
        """
        return {name: value.copy() for name, value in self._state.items()}

    @state.setter
    def state(self, values: Mapping[str, npt.ArrayLike]) -> None:
        if not isinstance(values, Mapping):
            raise SampleError(f"{self.path}: a state is a dict of arrays by name, not a {type(values).__name__}.")
        if not values:
            self.reset()
            return
        known = {s["name"]: s["shape"] for s in self._facts["states"]}
        kinds = {s["name"]: _dtype(s) for s in self._facts["states"]}
        if set(values) != set(known):
            wrong = min(set(values) ^ set(known), key=str)
            what = "is missing" if wrong in known else "is none of the file's"
            raise SampleError(f"{self.path}: the state {wrong!r} {what}; it has {', '.join(known)}.")
        found: dict[str, Array] = {}
        samples: int | None = None
        for name, shape in known.items():
            value = self._typed(name, values[name], kinds[name])
            fits = value.ndim == len(shape)
            for size, wanted in zip(value.shape, shape, strict=False):
                samples = size if wanted == "B" and samples is None else samples
                fits = fits and size == (samples if wanted == "B" else wanted)
            if not fits:
                raise SampleError(f"{self.path}: the state {name!r} is {tuple(shape)}, not {value.shape}.")
            found[name] = value
        self._state = found

    def _typed(self, name: str, given: npt.ArrayLike, kind: np.dtype[Any]) -> Array:
        """Return a state's value in its type; integers must be whole and fit it, floats be finite."""
        try:
            value = np.array(given)
        except (TypeError, ValueError) as error:
            raise SampleError(f"{self.path}: the state {name!r} is no array of numbers: {error}.") from error
        if value.dtype.kind not in "biuf":
            raise SampleError(f"{self.path}: the state {name!r} is {kind}, not {value.dtype}.")
        with np.errstate(invalid="ignore", over="ignore"):
            typed = value.astype(kind)
        if kind.kind == "f" and not bool(np.isfinite(typed).all()):
            raise SampleError(f"{self.path}: the state {name!r} holds NaN or infinite values.")
        if kind.kind != "f" and not np.array_equal(typed, value):
            raise SampleError(
                f"{self.path}: the state {name!r} is {kind}; the values given do not all fit it as whole numbers."
            )
        return typed

    def step(self, x: npt.ArrayLike) -> dict[str, Array]:
        """Make one step.

        Args:
            x: the step's input, an array or a tensor: what the model takes, without the time axis; converted to the
                file's type where that loses nothing.

        Returns:
            The model's outputs by name: of this step, or of the steps so far where the model sums or averages over
            time.

        Raises:
            SampleError: the input does not fit the file or the state, or the model makes no more steps.
        """
        inputs = as_array(x, "The step's input")
        self._check(inputs)
        inputs = converted(inputs, self._type, self.path)
        if not self._state:
            axis = self._samples_axis
            self._state = _initial(self._facts, 1 if axis is None else inputs.shape[axis])
        results = _run(self._session, self._names, {self._entry.name: inputs, **self._state})
        count = len(self._outputs)
        self._state = dict(zip(self._state, results[count:], strict=True))
        self.steps_made += 1
        return dict(zip(self._outputs, results[:count], strict=True))

    def _check(self, inputs: Array) -> None:
        shape = self._entry.shape
        sizes = zip(inputs.shape, shape, strict=False)
        if inputs.ndim != len(shape) or any(isinstance(n, int) and m != n for m, n in sizes):
            raise SampleError(
                f"{self.path}: a step takes input ({', '.join(map(str, shape))}), not {inputs.shape}; it has no time"
                " axis."
            )
        steps = self._facts["steps"]
        if steps is not None and self.steps_made >= steps:
            raise SampleError(f"{self.path}: the model makes {steps} steps, and they are made; call reset().")
        most = self._facts.get("most_steps")
        if most is not None and self.steps_made >= most:
            raise SampleError(f"{self.path}: {most} steps are made, and {_proved(self._facts)}, with reset() between.")
        if self._facts["input"] == "spikes" and not bool(((inputs == 0) | (inputs == 1)).all()):
            raise SampleError(f"{self.path} was exported with input='spikes'; this input is not 0 and 1 only.")
        held = next((s for s in self._facts["states"] if "B" in s["shape"] and self._state), None)
        if held is not None and self._samples_axis is not None:
            samples = self._state[held["name"]].shape[held["shape"].index("B")]
            if samples != inputs.shape[self._samples_axis]:
                raise SampleError(
                    f"{self.path}: the state is of {samples} samples, the input of {inputs.shape[self._samples_axis]};"
                    " call reset() before another batch."
                )
