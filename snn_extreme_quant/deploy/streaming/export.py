"""Streaming files: a model's single step with its states as inputs and outputs, found and checked against the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from snn_extreme_quant.deploy.recording.averages import write_out_averages
from snn_extreme_quant.deploy.recording.exactness import SPIKES, Exactness, Grid, LayerExactness, analyse
from snn_extreme_quant.deploy.recording.fold_reasons import FoldError
from snn_extreme_quant.deploy.recording.graphs import neuron_calls
from snn_extreme_quant.deploy.recording.record import Recording, Request
from snn_extreme_quant.deploy.recording.running import first_line
from snn_extreme_quant.deploy.recording.step_loop import record_step, step_counts
from snn_extreme_quant.deploy.recording.structure import StructureError, check_structure, probing_inputs
from snn_extreme_quant.deploy.streaming.graph import StepGraph, unrolled, with_open_samples
from snn_extreme_quant.errors import SampleError, SxqError, UnsupportedModelError

__all__ = ["Streaming", "streaming_step"]

_SEQUENCE_STEPS = 3
_MORE_STEPS = 11


@dataclass(frozen=True)
class Streaming:
    """One step of a model, checked against it.

    Args:
        step: the step.
        batch_axis: the axis of samples in a step's input; None if its number is the sample's.
        sample: a step's input.
    """

    step: StepGraph
    batch_axis: int | None
    sample: Tensor

    @property
    def time(self) -> str:
        """How many steps may be made."""
        return "free" if self.step.steps is None else f"{self.step.steps} steps, as the model makes"

    def exactness(self, sequence: Exactness, input_grid: Grid | None) -> Exactness:
        """Return what is guaranteed: what is of the sequence, where nothing in it depends on the number of steps.

        Args:
            sequence: what is guaranteed of the sequence form.
            input_grid: what the input is promised to be.
        """
        grids = {
            name: SPIKES if spec is not None and spec.fire == "spike" and not spec.graded else None
            for name, spec in self.step.spiking_states().items()
        }
        own = analyse(self.step.graph, input_grid, grids)
        return Exactness(
            {name: _both(verdict, sequence.layers[name]) for name, verdict in own.layers.items()},
            {name: _both(verdict, sequence.neurons[name]) for name, verdict in own.neurons.items()},
            own.products,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What the file says of its form."""
        return {
            "form": "streaming",
            "time": self.time,
            "time_axis": self.step.time_axis,
            "steps": self.step.steps,
            "states": [state.facts for state in self.step.states],
            "outputs": [{"name": o.name, "axis": o.axis} for o in self.step.outputs],
        }


def _both(own: LayerExactness, sequence: LayerExactness) -> LayerExactness:
    """What holds in a step and in the sequence: a state of a step may come from what is not guaranteed."""
    return own if sequence.exact or not own.exact else replace(own, exact=False, reason=sequence.reason)


def streaming_step(model: nn.Module, request: Request, recording: Recording) -> Streaming:
    """Return one step of a recorded model.

    Args:
        model: the model; it is left as it was.
        request: what is asked for.
        recording: the model's sequence form.

    Raises:
        UnsupportedModelError: the model is not the same step again and again.
    """
    failure: Exception | None = None
    for candidate in _candidates(request, recording):
        try:
            return _checked(model, request, candidate)
        except (FoldError, StructureError, SampleError) as error:
            failure = failure or error
    calls = {name: len(nodes) for name, nodes in neuron_calls(recording.recorded.graph.graph).items()}
    none = f"no number of steps fits how often its neurons are called, {calls}" if calls else "it has no time steps"
    raise UnsupportedModelError(
        f"{type(model).__name__} cannot be exported with form='streaming': {failure or none}. A"
        " streaming file makes one time step after the other, with the neurons' states handed on; export the whole"
        " sequence with form='sequence'."
    ) from failure


def _candidates(request: Request, recording: Recording) -> Iterator[_Candidate]:
    """Give how the model may be read as a repeated step, likeliest first."""
    recorded = recording.recorded
    shape = tuple(recorded.sample.shape)
    times = [axis for axis, name in recording.axes.items() if name == "T"]
    for steps in [shape[0]] if request.calling == "step" else step_counts(recorded.graph):
        # The axes that have as many elements as there are steps, the known one first; then none.
        axes: list[int | None] = [*times, *(a for a in range(min(2, len(shape))) if steps in (0, shape[a]))]
        axes = [0] if request.calling == "step" else list(dict.fromkeys([*axes, None]))
        for axis in axes:
            if axis is None and not steps:
                continue
            for mean_over_time in (True, False) if axis is not None else (False,):
                yield _Candidate(recording, request, steps or _SEQUENCE_STEPS, axis, mean_over_time)


@dataclass(frozen=True)
class _Candidate:
    """How a model may be read as a repeated step."""

    recording: Recording
    request: Request
    steps: int
    time_axis: int | None
    mean_over_time: bool

    @property
    def batch_axis(self) -> int | None:
        """The axis of samples in the model's input, if their number is free."""
        return next((a for a, name in self.recording.axes.items() if name == "B" and a != self.time_axis), None)

    def shape(self, steps: int | None, samples: int) -> list[int]:
        """Return the shape of an input of so many steps and samples."""
        shape = list(self.recording.recorded.sample.shape)
        if self.time_axis is not None and steps is not None:
            shape[self.time_axis] = steps
        if self.batch_axis is not None:
            shape[self.batch_axis] = samples
        return shape

    def build(self, samples: int) -> StepGraph:
        """Return the step, with the states' shapes for so many samples."""
        recorded = self.recording.recorded
        (inputs,) = probing_inputs(self.request.sample, [self.shape(self.steps, samples)], self.request.spikes)
        try:
            return record_step(
                recorded.graph,
                inputs,
                recorded.names,
                steps=self.steps,
                time_axis=self.time_axis,
                mean_over_time=self.mean_over_time,
            )
        except (FoldError, SxqError):
            raise
        except Exception as error:  # torch's, where a graph is run with other shapes than it takes
            raise FoldError(f"the step cannot be run by itself: {first_line(error)}") from error


def _checked(model: nn.Module, request: Request, candidate: _Candidate) -> Streaming:
    step = candidate.build(2)
    if candidate.batch_axis is not None:
        step = with_open_samples(step, candidate.build(3))
    step = replace(step, graph=write_out_averages(step.graph))
    if not step.states:
        raise FoldError("nothing is carried from step to step")
    own = request.sample.shape[candidate.time_axis] if candidate.time_axis is not None else None
    lengths = [None] if own is None else list(dict.fromkeys((own, candidate.steps + 1, own + _MORE_STEPS, 1)))
    tried = 0
    refused: SampleError | None = None
    for index, length in enumerate(lengths):
        samples = (2, 3, 1)[index % 3] if candidate.batch_axis is not None else 1
        shape = candidate.shape(length, samples)
        (inputs,) = probing_inputs(request.sample, [shape], request.spikes)
        count = step.length(inputs)
        try:
            check_structure(
                unrolled(step, count, samples), model, inputs, request.calling, request.neurons, length=count
            )
        except SampleError as error:  # the model does not take this length
            refused = error
        else:
            tried += 1
    if refused is not None and tried < min(2, len(lengths)):
        raise refused
    time, batch = step.time_axis, candidate.batch_axis
    (sample,) = probing_inputs(request.sample, [candidate.shape(candidate.steps, 2)], request.spikes)
    if batch is not None and time is not None and batch > time:
        batch -= 1
    return Streaming(step, batch, step.input_of(sample, 0))
