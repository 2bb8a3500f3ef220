"""From a model to the graph that is written: recorded, folded over time where it can be, and checked against it.

A loop over time steps is recorded with a few steps and folded into operations on all of them. What does not fold is
recorded with the sample's own number of steps. Either way the graph is compared with the model before it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, fx, nn

from snn_extreme_quant.deploy.recording.averages import write_out_averages
from snn_extreme_quant.deploy.recording.batch_norm import Fold, sole_layers, unfolded, watching
from snn_extreme_quant.deploy.recording.capture import Capture, capture
from snn_extreme_quant.deploy.recording.fold_reasons import FoldError
from snn_extreme_quant.deploy.recording.graphs import NEURONS, SEQUENCE, is_free, neuron_calls
from snn_extreme_quant.deploy.recording.running import Probe, at_least_two, probe, run_model
from snn_extreme_quant.deploy.recording.structure import StructureError, check_structure, probing_inputs
from snn_extreme_quant.deploy.recording.timefold import fold_time
from snn_extreme_quant.errors import ExportError, SampleError, UnsupportedModelError
from snn_extreme_quant.frameworks import NeuronInModel

__all__ = ["Recording", "Request", "record", "record_folded", "record_stepwise"]

_TRACE_STEPS = 3
_MORE_STEPS = 11


@dataclass(frozen=True)
class Request:
    """What is to be exported: sample, how the model is called, neurons, what is promised, and its batch norms."""

    sample: Tensor
    calling: str
    neurons: list[NeuronInModel]
    spikes: bool
    folds: Mapping[str, Fold]


@dataclass(frozen=True)
class Recording:
    """A graph that computes what the model does.

    Args:
        graph: operators of torch and of ``snn_xq``.
        recorded: what it was made from.
        axes: names of the input's open axes.
        time: ``"free"``, or why the number of steps is fixed.
        folds: how batch norms are deployed in it.
    """

    graph: fx.GraphModule
    recorded: Capture
    axes: dict[int, str]
    time: str
    folds: Mapping[str, Fold]


def record(
    model: nn.Module, sample: Tensor, calling: str, neurons: list[NeuronInModel], *, spikes: bool
) -> tuple[Request, Recording, Probe]:
    """Find out how a model is called, and record it as :func:`record_folded` does.

    Args:
        model: in any state; it is left as it was.
        sample: an input.
        calling: ``"step"``, ``"sequence"`` or ``"auto"``.
        neurons: those of the model.
        spikes: whether the input is promised to be 0 and 1.

    Raises:
        SampleError: the model does not accept the sample.
        ExportError: as :func:`record_folded`.
        UnsupportedModelError: as :func:`record_folded`.
    """
    called = probe(model, sample, neurons, calling)
    with watching(model) as folds:
        run_model(model, sample, called.calling, neurons)
    request = Request(sample, called.calling, neurons, spikes, folds)
    return request, record_folded(model, request, max(called.calls.values(), default=0)), called


def record_folded(model: nn.Module, request: Request, calls: int) -> Recording:
    """Record a model and fold its loop over time, if it has one.

    Args:
        model: in any state; it is left as it was.
        request: what is asked for.
        calls: the largest number of calls of a neuron on the sample.

    Raises:
        ExportError: the graph is neither a loop that folds nor one of single steps.
        UnsupportedModelError: the model cannot be recorded, or what was recorded is not what it computes.
    """
    apart = replace(request, folds=unfolded(request.folds))
    recorded = _record(model, apart, calls)
    alone = sole_layers(recorded.graph.graph)
    folds = {name: fold if fold.layer in alone else apart.folds[name] for name, fold in request.folds.items()}
    request = replace(request, folds=folds)
    if any(fold.layer for fold in folds.values()):
        recorded = _record(model, request, calls)
    try:
        graph = _folded(recorded, model, request)
        axes = _axes(recorded, graph)
        if "T" not in axes.values() and recorded.shortened:
            raise FoldError("the loop runs over an axis that is not the input's")
    except FoldError as error:
        if not neuron_calls(recorded.graph.graph):
            raise ExportError(f"{type(model).__name__} cannot be exported: {error}") from error
        return record_stepwise(model, request, recorded, str(error))
    own = "fixed at the sample's: forward() decides on its length" if recorded.guarded else "fixed by the model"
    return Recording(graph, recorded, axes, "free" if "T" in axes.values() else own, request.folds)


def record_stepwise(model: nn.Module, request: Request, recorded: Capture, reason: str) -> Recording:
    """Record a model step by step: right for any model, but with the sample's number of steps.

    Args:
        model: as for :func:`record_folded`.
        request: as for :func:`record_folded`.
        recorded: an earlier recording.
        reason: why it was not folded.

    Raises:
        UnsupportedModelError: what was recorded is not what the model computes.
    """
    # A sample of one: its axis of samples is doubled to stay open, not that of time.
    samples = [axis for axis, name in _axes(recorded, recorded.graph).items() if name == "B"]
    whole = at_least_two(request.sample, (1,) if request.calling == "step" else samples)
    recorded = capture(model, whole, request.calling, recorded.guarded, request.folds)
    recorded = replace(recorded, graph=write_out_averages(recorded.graph))
    graph = _needed(recorded.graph)
    axes = {axis: name for axis, name in _axes(recorded, recorded.graph).items() if name != "T"}
    shapes = [[batch if i in axes else size for i, size in enumerate(whole.shape)] for batch in (3, 1)]
    try:
        _check(graph, model, request, [whole.shape, *shapes])
    except (StructureError, SampleError) as wrong:
        raise UnsupportedModelError(
            f"What was recorded of {type(model).__name__} is not what it computes: {wrong}. It does something else"
            " for another batch size, or has state that is not in a neuron."
        ) from wrong
    return Recording(graph, recorded, axes, f"fixed at the sample's: {reason}", request.folds)


def _needed(module: fx.GraphModule) -> fx.GraphModule:
    """Return a graph without a neuron's last call, where nothing needs it."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph)


def _trace_samples(sample: Tensor, calling: str, calls: int) -> list[Tensor]:
    """Return inputs to record with, best first: a few steps only, and no axis of size 1, which would stay 1."""
    if calling == "step":
        return [at_least_two(sample[:_TRACE_STEPS], (0, 1))]
    loops = [axis for axis in (0, 1) if sample.dim() > axis and sample.shape[axis] == calls > _TRACE_STEPS]
    candidates = [*(sample.narrow(axis, 0, _TRACE_STEPS) for axis in loops), sample]
    return [at_least_two(c, axes) for c in candidates for axes in ((0, 1), (0,), ())]


def _record(model: nn.Module, request: Request, calls: int) -> Capture:
    """Record the model on the first trace sample that it takes."""
    failure: Exception = UnsupportedModelError(f"{type(model).__name__} cannot be recorded.")
    tried: set[tuple[int, ...]] = set()
    for candidate in _trace_samples(request.sample, request.calling, calls):
        if tuple(candidate.shape) in tried:
            continue
        tried.add(tuple(candidate.shape))
        shortened = any(a < b for a, b in zip(candidate.shape, request.sample.shape, strict=True))
        try:
            recorded = capture(model, candidate, request.calling, folds=request.folds)
            if recorded.guarded:
                # What the model does depends on a length: keep the lengths of the user's sample.
                fixed = recorded.guarded
                recorded = capture(model, request.sample, request.calling, fixed, request.folds)
                shortened = False
            _check(recorded.graph, model, request, [recorded.sample.shape] * 2)
        except (SampleError, StructureError, UnsupportedModelError) as error:
            failure = error  # the last candidate is the user's own sample
            continue
        steps = max((len(nodes) for nodes in neuron_calls(recorded.graph.graph).values()), default=0)
        if not shortened or steps == _TRACE_STEPS or request.calling == "step":
            return replace(recorded, shortened=shortened)
        # It was not the time axis that was shortened: the loop is as long as before.
    if isinstance(failure, StructureError):
        raise UnsupportedModelError(
            f"What was recorded of {type(model).__name__} is not what it computes: {failure}. A state that is not in a"
            " neuron, or a side effect in forward(), prevents it."
        ) from failure
    raise failure


def _check(graph: fx.GraphModule, model: nn.Module, request: Request, shapes: Iterable[Sequence[int]]) -> None:
    """Compare graph and model on an input of each shape; a shape given twice shows state that is not in a neuron."""
    for inputs in probing_inputs(request.sample, shapes, request.spikes):
        check_structure(graph, model, inputs, request.calling, request.neurons)


def _other_shapes(recorded: Capture, request: Request, axes: dict[int, str]) -> list[list[int]]:
    """Return shapes on which a folded graph must be the model: few samples, the sample's steps and fewer and more."""
    shapes = []
    steps = next((request.sample.shape[axis] for axis, name in axes.items() if name == "T"), 1)
    for time, batch in ((_TRACE_STEPS + 1, 3), (steps, 2), (steps + _MORE_STEPS, 2), (1, 3), (_TRACE_STEPS, 1)):
        lengths = {"T": time, "B": batch}
        shape = [lengths[axes[i]] if i in axes else size for i, size in enumerate(recorded.sample.shape)]
        if shape not in shapes:
            shapes.append(shape)
    return shapes


def _check_lengths(folded: fx.GraphModule, recorded: Capture, model: nn.Module, request: Request) -> None:
    """Check a folded graph on other lengths than were recorded.

    Lengths that the model itself does not take say nothing, but some other number of steps must have been tried.
    """
    axes = _axes(recorded, folded)
    refused: SampleError | None = None
    tried: set[int] = set()
    for shape in _other_shapes(recorded, request, axes):
        try:
            _check(folded, model, request, [shape])
        except SampleError as error:
            refused = error
        else:
            tried.update(shape[axis] for axis, name in axes.items() if name == "T")
    steps = {request.sample.shape[axis] for axis, name in axes.items() if name == "T"}
    if refused is not None and not tried - steps:
        raise refused


def _placeholder(recorded: Capture) -> fx.Node:
    nodes: list[fx.Node] = recorded.graph.graph.find_nodes(op="placeholder")
    return nodes[0]


def _axes(recorded: Capture, graph: fx.GraphModule) -> dict[int, str]:
    """Name the input's open axes: those the record left open, and T if it was folded."""
    time = batch = None
    for node in recorded.graph.graph.nodes:
        if node.target in NEURONS:
            sizes = [None, *node.args[0].meta["val"].shape]
            time, batch = (sizes[1:] if node.target is SEQUENCE else sizes)[:2]
            break
    names = {}
    for axis, size in enumerate(_placeholder(recorded).meta["val"].shape):
        if axis == graph.meta.get("time_axis") or (is_free(size) and str(size) == str(time)):
            names[axis] = "T"
        elif is_free(size):
            names[axis] = "B" if batch is None or str(size) == str(batch) else "T"
    return names


def _time_axes(recorded: Capture, folded: fx.GraphModule) -> list[int | None]:
    """Return what may be the input's time axis, likeliest first; None if the number of steps is the model's own."""
    known = folded.meta.get("time_axis")
    if known is not None:
        return [known]
    steps = folded.meta.get("steps")
    # The loop runs over an axis of a value that was computed from the input: one of its axes of that length, which
    # the recorded loop has fixed.
    sizes = _placeholder(recorded).meta["val"].shape[:2]
    return [*(axis for axis, size in enumerate(sizes) if steps and not is_free(size) and size == steps), None]


def _folded(recorded: Capture, model: nn.Module, request: Request) -> fx.GraphModule:
    """Return the graph that handles all steps at once, checked against the model; raises FoldError if there is none."""
    failure: Exception | None = None
    for mean_over_time in (True, False):
        try:
            folded = fold_time(recorded.graph, mean_over_time=mean_over_time)
        except FoldError as error:
            failure = failure or error
            continue
        folded = write_out_averages(folded)
        for axis in _time_axes(recorded, folded):
            folded.meta["time_axis"] = axis
            try:
                _check_lengths(folded, recorded, model, request)
            except (StructureError, SampleError) as error:
                failure = failure or error
            else:
                return folded
    raise FoldError(str(failure)) from failure
