"""``export_onnx``: from a trained model to one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, fx, nn

from snn_extreme_quant._version import __version__
from snn_extreme_quant.errors import (
    ExportError,
    NonFiniteWeightError,
    OutputPathError,
    SampleError,
    UnsupportedModelError,
)
from snn_extreme_quant.frameworks import NeuronInModel, neurons_of

from .batch_norm import Fold, unfolded, watching
from .capture import Capture, capture
from .exactness import SPIKES, Exactness, analyse
from .files import check_writable, seal, write_whole
from .functions import is_neuron
from .graphs import is_free, neuron_calls
from .lowering import layer_facts, lower
from .running import at_least_two, first_line, probe, run_model
from .structure import StructureError, check_structure, probing_inputs
from .timefold import FoldError, fold_time

__all__ = ["ExportReport", "LayerReport", "export_onnx"]

Calling = Literal["auto", "step", "sequence"]
_TRACE_STEPS = 3
_MORE_STEPS = 11


@dataclass(frozen=True)
class LayerReport:
    """A quantised layer or a neuron layer in the file.

    Args:
        name: its name in the model.
        operator: its operator in the file.
        exact: deployed, it gives the same bits as in torch.
        reason: why, or why not.
    """

    name: str
    operator: str
    exact: bool
    reason: str


@dataclass(frozen=True)
class ExportReport:
    """What :func:`export_onnx` wrote.

    Args:
        path: the file.
        file_bytes: its size.
        calling: ``"step"`` if the model takes single steps, ``"sequence"`` if whole sequences.
        time: ``"free"`` if the file takes any number of time steps that the model takes; else why it is fixed.
        input_shape: the input's axes; T and B are free.
        batch_norms: by name of each batch norm, the layer it is folded into; "" if it stays a product and a sum.
        layers: quantised layers and neurons, with what is guaranteed of each.
    """

    path: Path
    file_bytes: int
    calling: str
    time: str
    input_shape: tuple[str | int, ...]
    batch_norms: Mapping[str, str]
    layers: tuple[LayerReport, ...]

    @property
    def exact(self) -> bool:
        """Whether there are spikes, and every one is guaranteed to be the same as in torch."""
        return any(is_neuron(layer.operator) for layer in self.layers) and all(layer.exact for layer in self.layers)

    def __str__(self) -> str:
        """Render as a plain table."""
        shape = ", ".join(map(str, self.input_shape))
        head = f"{self.path}: {self.file_bytes} bytes, input ({shape}), time {self.time}"
        width = max((len(layer.name) for layer in self.layers), default=0)
        rows = [f"{e.name.ljust(width)}  {'exact' if e.exact else 'not exact'}: {e.reason}" for e in self.layers]
        rows += [
            f"{name}: folded into {layer!r}" if layer else f"{name}: a product and a sum for each channel"
            for name, layer in self.batch_norms.items()
        ]
        return "\n".join((head, *rows))


@dataclass(frozen=True)
class _Request:
    """What is to be exported: sample, how the model is called, neurons, what is promised, and its batch norms."""

    sample: Tensor
    calling: str
    neurons: list[NeuronInModel]
    spikes: bool
    folds: Mapping[str, Fold]


def as_tensor(value: Tensor | npt.ArrayLike, what: str) -> Tensor:
    """Return an input as a tensor on the CPU; float64 becomes float32."""
    try:
        tensor = value.detach() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise SampleError(f"{what} is not a tensor or an array: {error}.") from error
    tensor = tensor.cpu()
    if tensor.dim() == 0 or tensor.numel() == 0:
        raise SampleError(f"{what} has shape {tuple(tensor.shape)}; give at least one time step of one sample.")
    if tensor.is_floating_point():
        tensor = tensor.float()
        if not bool(torch.isfinite(tensor).all()):
            raise SampleError(f"{what} holds NaN or infinite values.")
    return tensor


def check_model(model: nn.Module) -> list[NeuronInModel]:
    """Refuse what cannot be exported, and return the model's neurons.

    Raises:
        UnsupportedModelError: no module, an empty model, or one that is not on the CPU in float32.
        UnsupportedNeuronError: a neuron has no exact spec.
        NonFiniteWeightError: a parameter or buffer is NaN or infinite.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"A torch.nn.Module is needed; got {type(model).__name__}.")
    neurons = neurons_of(model)
    if not neurons and not any(True for _ in model.parameters()):
        raise UnsupportedModelError(f"{type(model).__name__} is empty: it has neither weights nor neurons.")
    for neuron in neurons:
        for name, value in neuron.read().parameters.items():
            if not bool(torch.isfinite(value).all()):
                raise NonFiniteWeightError(f"The {name} of {neuron.name!r} is NaN or infinite; load a good checkpoint.")
    states = tuple(f"{n.name}." for n in neurons)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.device.type != "cpu":
            raise UnsupportedModelError(f"{name!r} is on {value.device}; move the model to the CPU first: model.cpu().")
        if value.is_floating_point() and value.dtype != torch.float32 and value.dim() and not name.startswith(states):
            raise UnsupportedModelError(
                f"{name!r} is {value.dtype}; files compute in float32: call model.float() first."
            )
        if value.is_floating_point() and not name.startswith(states) and not bool(torch.isfinite(value).all()):
            raise NonFiniteWeightError(f"{name!r} holds NaN or infinite values; load a good checkpoint.")
    return neurons


def _trace_samples(sample: Tensor, calling: str, calls: int) -> list[Tensor]:
    """Return inputs to record with, best first: a few steps only, and no axis of size 1, which would stay 1."""
    if calling == "step":
        return [at_least_two(sample[:_TRACE_STEPS], (0, 1))]
    loops = [axis for axis in (0, 1) if sample.dim() > axis and sample.shape[axis] == calls > _TRACE_STEPS]
    candidates = [*(sample.narrow(axis, 0, _TRACE_STEPS) for axis in loops), sample]
    return [at_least_two(c, axes) for c in candidates for axes in ((0, 1), (0,), ())]


def _record(model: nn.Module, request: _Request, calls: int) -> Capture:
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


def _check(graph: fx.GraphModule, model: nn.Module, request: _Request, shapes: Iterable[Sequence[int]]) -> None:
    """Compare graph and model on an input of each shape; a shape given twice shows state that is not in a neuron."""
    for inputs in probing_inputs(request.sample, shapes, request.spikes):
        check_structure(graph, model, inputs, request.calling, request.neurons)


def _other_shapes(recorded: Capture, request: _Request, axes: dict[int, str]) -> list[list[int]]:
    """Return shapes on which a folded graph must be the model: few samples, the sample's steps and fewer and more."""
    shapes = []
    steps = next((request.sample.shape[axis] for axis, name in axes.items() if name == "T"), 1)
    for time, batch in ((_TRACE_STEPS + 1, 3), (steps, 2), (steps + _MORE_STEPS, 2), (1, 3)):
        lengths = {"T": time, "B": batch}
        shape = [lengths[axes[i]] if i in axes else size for i, size in enumerate(recorded.sample.shape)]
        if shape not in shapes:
            shapes.append(shape)
    return shapes


def _check_lengths(folded: fx.GraphModule, recorded: Capture, model: nn.Module, request: _Request) -> None:
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
        if node.target in (torch.ops.snn_xq.neuron_step.default, torch.ops.snn_xq.neuron_sequence.default):
            sizes = [None, *node.args[0].meta["val"].shape]
            time, batch = (sizes[1:] if node.target is torch.ops.snn_xq.neuron_sequence.default else sizes)[:2]
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


def _folded(recorded: Capture, model: nn.Module, request: _Request) -> fx.GraphModule:
    """Return the graph that handles all steps at once, checked against the model; raises FoldError if there is none."""
    failure: Exception | None = None
    for mean_over_time in (True, False):
        try:
            folded = fold_time(recorded.graph, mean_over_time=mean_over_time)
        except FoldError as error:
            failure = failure or error
            continue
        for axis in _time_axes(recorded, folded):
            folded.meta["time_axis"] = axis
            try:
                _check_lengths(folded, recorded, model, request)
            except (StructureError, SampleError) as error:
                failure = failure or error
            else:
                return folded
    raise FoldError(str(failure)) from failure


def export_onnx(
    model: nn.Module,
    sample: Tensor | npt.ArrayLike,
    path: str | Path,
    *,
    calling: Calling = "auto",
    input: Literal["real", "spikes"] = "real",
) -> ExportReport:
    """Write a trained model as one ONNX file that stock onnxruntime runs.

    The file holds packed weights (1 or 2 bit), operators of the domain ``snn.extreme_quant`` and, for runtimes without
    our library, their bodies in standard operators. It takes any number of samples and, where the model does, any
    number of time steps. The model is left as it was; state in its neurons does not enter the file.

    Args:
        model: a model with snnTorch or SpikingJelly neurons, on the CPU.
        sample: an input. For a model that takes one time step at a time (called in a loop), a sequence of steps
            ``(T, B, ...)``; else what the model takes. Its values do not matter, its shape does.
        path: where to write; the directory must exist. The file appears whole or not at all.
        calling: ``"step"`` or ``"sequence"`` says how the model is called; ``"auto"`` finds out by calling it.
        input: ``"spikes"`` promises that the input is 0 and 1 only, which makes the first layer exact too (and faster);
            the file then may give nonsense for other input, and :func:`verify` refuses it.

    Returns:
        Sizes, and what is guaranteed of each layer: quantised layers that are fed by spikes, and neurons behind them,
        give the same bits as in torch. Sums over real numbers (a first layer on raw input, a layer left in float) are
        not guaranteed, because a runtime may add in another order; see
        :class:`~snn_extreme_quant.layers.FixedPointInput` and :func:`~snn_extreme_quant.rate_encode`.

    Raises:
        UnsupportedNeuronError: a neuron has no exact spec.
        UnsupportedModelError: the forward pass cannot be recorded, or has state outside its neurons.
        NonFiniteWeightError: a weight is NaN or infinite.
        SampleError: the model does not accept the sample.
        OutputPathError: the file cannot be written.
        ExportError: the finished file is not valid.

    Example:
        >>> report = export_onnx(net, torch.zeros(8, 1, 784), "net.onnx")  # doctest: +SKIP
    """
    if not isinstance(path, (str, Path)):
        raise OutputPathError(f"The path is a {type(path).__name__}; give a str or a pathlib.Path.")
    path = Path(path)
    if calling not in ("auto", "step", "sequence"):
        raise ExportError(f"calling={calling!r}: use 'auto', 'step' or 'sequence'.")
    if input not in ("real", "spikes"):
        raise ExportError(f"input={input!r}: use 'real' or 'spikes'.")
    check_writable(path)
    neurons = check_model(model)
    inputs = as_tensor(sample, "The sample")
    if input == "spikes" and not bool(((inputs == 0) | (inputs == 1)).all()):
        raise SampleError("The sample is not spikes (0 and 1), which input='spikes' promises.")
    called = probe(model, inputs, neurons, calling)
    with watching(model) as folds:
        run_model(model, inputs, called.calling, neurons)
    request = _Request(inputs, called.calling, neurons, input == "spikes", folds)
    calls = max(called.calls.values(), default=0)
    try:
        recorded = _record(model, request, calls)
    except UnsupportedModelError:
        if not any(fold.layer for fold in folds.values()):
            raise
        # A layer's output goes somewhere else than into its batch norm: leave the layers as they are.
        request = replace(request, folds=unfolded(folds))
        recorded = _record(model, request, calls)
    grid = SPIKES if request.spikes else None
    facts: dict[str, Any] = {"format": 1, "version": __version__, "calling": called.calling, "input": input}
    facts["neurons"] = sorted(called.calls)
    facts["batch_norms"] = {name: fold.layer for name, fold in request.folds.items()}
    try:
        graph = _folded(recorded, model, request)
        axes = _axes(recorded, graph)
        own = "fixed at the sample's: forward() decides on its length" if recorded.guarded else "fixed by the model"
        time = "free" if "T" in axes.values() else own
        if time != "free" and recorded.shortened:
            raise FoldError("the loop runs over an axis that is not the input's")
        proto = _lowered(graph, recorded, analyse(graph, grid), axes, {**facts, "time": time})
    except (FoldError, ExportError) as error:
        # As it was recorded, step by step: right for any model, but with the sample's number of steps.
        if not neuron_calls(recorded.graph.graph):
            raise ExportError(f"{type(model).__name__} cannot be exported: {error}") from error
        whole = at_least_two(inputs, (1,) if called.calling == "step" else (0,))
        recorded = capture(model, whole, called.calling, recorded.guarded, request.folds)
        axes = {axis: name for axis, name in _axes(recorded, recorded.graph).items() if name != "T"}
        shape = [3 if i in axes else size for i, size in enumerate(whole.shape)]
        try:
            _check(recorded.graph, model, request, [whole.shape, shape])
        except (StructureError, SampleError) as wrong:
            raise UnsupportedModelError(
                f"What was recorded of {type(model).__name__} is not what it computes: {wrong}. It does something else"
                " for another batch size, or has state that is not in a neuron."
            ) from wrong
        time = f"fixed at the sample's: {error}"
        proto = _lowered(recorded.graph, recorded, analyse(recorded.graph, grid), axes, {**facts, "time": time})
    data = seal(proto)
    write_whole(path, data)
    return ExportReport(
        path=path,
        file_bytes=len(data),
        calling=called.calling,
        time=time,
        input_shape=tuple(d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim),
        batch_norms=facts["batch_norms"],
        layers=tuple(LayerReport(e["name"], e["op"], e["exact"], e["why"]) for e in layer_facts(proto)),
    )


def _lowered(
    graph: fx.GraphModule, recorded: Capture, exactness: Exactness, axes: dict[int, str], facts: dict[str, Any]
) -> onnx.ModelProto:
    try:
        proto = lower(graph, recorded.sample, exactness, recorded.names, axes, facts)
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"The exported model is not valid ONNX: {error}") from error
    except Exception as error:
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise ExportError(f"torch's exporter cannot translate the model: {first_line(root)}") from error
    return proto
