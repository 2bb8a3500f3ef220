"""Records a model of synchronous neurons on one of its schedules, and checks the record against it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from snn_extreme_quant.deploy.recording.averages import write_out_averages
from snn_extreme_quant.deploy.recording.batch_norm import Fold, deployed, sole_layers, unfolded, watching
from snn_extreme_quant.deploy.recording.capture import Capture, capture
from snn_extreme_quant.deploy.recording.graphs import is_free
from snn_extreme_quant.deploy.recording.running import at_least_two, first_line
from snn_extreme_quant.deploy.recording.structure import StructureError, compare, probing_inputs
from snn_extreme_quant.deploy.synchronous.operators import RATES, SPIKES_OF
from snn_extreme_quant.deploy.synchronous.running import OnSpikes, SynchronousRun, run_synchronous
from snn_extreme_quant.errors import SampleError, UnsupportedModelError
from snn_extreme_quant.neurons import Schedule, schedule, spikes_first

__all__ = ["SynchronousRequest", "record_synchronous"]


@dataclass(frozen=True)
class SynchronousRequest:
    """What is to be exported.

    Args:
        model: the model.
        sample: what it takes on the schedule "counts", ``(B, ...)``.
        on: the schedule of the file.
        steps: T.
        spikes: whether the input is promised to be spikes.
    """

    model: nn.Module
    sample: Tensor
    on: Schedule
    steps: int
    spikes: bool


def record_synchronous(request: SynchronousRequest) -> tuple[Capture, Mapping[str, Fold], dict[int, str]]:
    """Return the recorded model, how its batch norms are deployed, and the names of its input's open axes.

    Raises:
        UnsupportedModelError: the model cannot be recorded, or what was recorded is not what it computes.
        SampleError: the model does not accept the sample.
    """
    with watching(request.model) as found:
        run_synchronous(request.model, request.sample, "counts", train=request.spikes)
    # Which batch norms fold is decided on one schedule, for both: else they would not be the same.
    apart = unfolded(found)
    first = _record(replace(request, on="counts"), apart)
    alone = sole_layers(first.graph.graph)
    folds = {name: fold if fold.layer in alone else apart[name] for name, fold in found.items()}
    recorded = first if request.on == "counts" and folds == apart else _record(request, folds)
    recorded = replace(recorded, graph=write_out_averages(recorded.graph))
    axes = _axes(recorded, request)
    _check_other_shapes(recorded, request, folds, axes)
    return recorded, folds, axes


def _record(request: SynchronousRequest, folds: Mapping[str, Fold]) -> Capture:
    """Record on the first form of the sample that the model takes: no axis of length 1, which would stay 1."""
    train = request.on == "spikes" and request.spikes
    failure: Exception = UnsupportedModelError(f"{type(request.model).__name__} cannot be recorded.")

    def captured(sample: Tensor, fixed: tuple[int, ...]) -> Capture:
        wrapper = (lambda model: OnSpikes(model, train)) if request.on == "spikes" else None
        with schedule(request.model, request.on):
            return capture(request.model, sample, "sequence", fixed, folds, wrapper)

    for axes in ((0, 1), (0,), ()):
        sample = at_least_two(request.sample, axes)
        try:
            sample = _as_steps(sample, request.steps) if train else sample
            recorded = captured(sample, (0,) if train else ())
            if recorded.guarded:
                # What the model does depends on a length: keep the lengths of the user's sample.
                sample = _as_steps(request.sample, request.steps) if train else request.sample
                recorded = captured(sample, (*recorded.guarded, *((0,) if train else ())))
            _check(recorded.graph, request, folds, sample)
        except (SampleError, StructureError, UnsupportedModelError) as error:
            failure = error
            continue
        return recorded
    if isinstance(failure, StructureError):
        raise UnsupportedModelError(
            f"What was recorded of {type(request.model).__name__} is not what it computes: {failure}. State outside"
            " its neurons, or a side effect in forward(), prevents it."
        ) from failure
    raise failure


def _as_steps(rates: Tensor, steps: int) -> Tensor:
    """Return a train of these rates, rounded to multiples of 1/T."""
    return spikes_first((rates * steps).round().clamp(0, steps), steps)


def _axes(recorded: Capture, request: SynchronousRequest) -> dict[int, str]:
    """Name the input's open axes."""
    train = request.on == "spikes" and request.spikes
    (entry,) = recorded.graph.graph.find_nodes(op="placeholder")
    names = ("T", "B") if train else ("B", "S")
    sizes = list(entry.meta["val"].shape)[:2]
    return {axis: names[axis] for axis, size in enumerate(sizes) if is_free(size)}


def _check_other_shapes(
    recorded: Capture, request: SynchronousRequest, folds: Mapping[str, Fold], axes: dict[int, str]
) -> None:
    """Compare graph and model on other numbers of samples than were recorded."""
    for batch, length in ((3, 5), (1, 2), (2, 1)):
        lengths = {"B": batch, "S": length}
        shape = [lengths.get(axes.get(i, ""), size) for i, size in enumerate(recorded.sample.shape)]
        (inputs,) = probing_inputs(recorded.sample, [shape], request.spikes)
        try:
            _check(recorded.graph, request, folds, inputs)
        except StructureError as wrong:
            raise UnsupportedModelError(
                f"What was recorded of {type(request.model).__name__} is not what it computes for shape"
                f" {tuple(shape)}: {wrong}."
            ) from wrong


def _draw(name: str, call: int, emitted: Tensor, steps: int, on: Schedule) -> Tensor:
    """Return random rates or spikes, the same for graph and model: a layer that is silent would hide what is behind."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name}@{call}".encode()))
    shape = emitted.shape[1:] if on == "spikes" else emitted.shape
    counts = torch.randint(0, steps + 1, tuple(shape), generator=generator).float()
    return spikes_first(counts, steps) if on == "spikes" else counts / steps


class _Graph(fx.Interpreter):
    """Runs a graph, keeps what each neuron layer receives, and replaces what it gives."""

    def __init__(self, module: fx.GraphModule, request: SynchronousRequest) -> None:
        super().__init__(module)
        self.request = request
        self.currents: dict[str, list[Tensor]] = {}

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().call_function(target, args, kwargs)
        if target not in (RATES, SPIKES_OF):
            return value
        calls = self.currents.setdefault(args[-1], [])
        calls.append(args[0])
        return _draw(args[-1], len(calls), value, self.request.steps, self.request.on)


def _check(graph: fx.GraphModule, request: SynchronousRequest, folds: Mapping[str, Fold], inputs: Tensor) -> None:
    """Compare what every neuron of graph and model receives, each stretch between neurons by itself."""
    counted: dict[str, int] = {}

    def drawn(name: str, emitted: Tensor) -> Tensor:
        counted[name] = counted.get(name, 0) + 1
        return _draw(name, counted[name], emitted, request.steps, request.on)

    with deployed(request.model, folds):
        run = run_synchronous(request.model, inputs, request.on, train=request.spikes, replace=drawn)
    driven = _Graph(graph, request)
    try:
        with torch.no_grad():
            outputs: Sequence[Tensor] = driven.run(inputs)
    except Exception as error:
        raise StructureError(f"the graph does not take shape {tuple(inputs.shape)}: {first_line(error)}") from error
    _compare_runs(driven.currents, list(outputs), run)


def _compare_runs(currents: Mapping[str, list[Tensor]], outputs: list[Tensor], run: SynchronousRun) -> None:
    for name, expected in run.currents.items():
        found = currents.get(name, [])
        if len(found) > len(expected):
            raise StructureError(f"neuron {name!r} is called {len(found)} times instead of {len(expected)}")
        for ours, theirs in zip(found, expected, strict=False):
            compare(ours, theirs, name)
    if len(outputs) != len(run.outputs):
        raise StructureError(f"the graph gives {len(outputs)} outputs, the model {len(run.outputs)}")
    for index, (ours, theirs) in enumerate(zip(outputs, run.outputs, strict=True)):
        compare(ours, theirs, f"output {index}")
