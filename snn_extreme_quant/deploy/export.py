"""``export_onnx``: from a trained model to one file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, fx, nn

from snn_extreme_quant._version import __version__
from snn_extreme_quant.errors import ExportError, NonFiniteWeightError, SampleError, UnsupportedModelError
from snn_extreme_quant.frameworks import NeuronInModel, neurons_of

from .capture import Capture, capture
from .exactness import SPIKES, Exactness, analyse
from .files import check_writable, seal, write_whole
from .graphs import is_free, neuron_calls
from .lowering import layer_facts, lower
from .running import at_least_two, first_line, probe
from .structure import StructureError, check_structure, other_sizes
from .timefold import FoldError, fold_time

__all__ = ["ExportReport", "LayerReport", "export_onnx"]

Calling = Literal["auto", "step", "sequence"]
_TRACE_STEPS = 3


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
        layers: quantised layers and neurons, with what is guaranteed of each.
    """

    path: Path
    file_bytes: int
    calling: str
    time: str
    input_shape: tuple[str | int, ...]
    layers: tuple[LayerReport, ...]

    @property
    def exact(self) -> bool:
        """Whether every spike is guaranteed to be the same as in torch."""
        return all(layer.exact for layer in self.layers)

    def __str__(self) -> str:
        """Render as a plain table."""
        shape = ", ".join(map(str, self.input_shape))
        head = f"{self.path}: {self.file_bytes} bytes, input ({shape}), time {self.time}"
        width = max((len(layer.name) for layer in self.layers), default=0)
        rows = [f"{e.name.ljust(width)}  {'exact' if e.exact else 'not exact'}: {e.reason}" for e in self.layers]
        return "\n".join((head, *rows))


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
        UnsupportedModelError: no module, an empty model, or one on another device than the CPU.
        UnsupportedNeuronError: a neuron has no exact spec.
        NonFiniteWeightError: a parameter or buffer is NaN or infinite.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"A torch.nn.Module is needed; got {type(model).__name__}.")
    neurons = neurons_of(model)
    if not neurons and not any(True for _ in model.parameters()):
        raise UnsupportedModelError(f"{type(model).__name__} is empty: it has neither weights nor neurons.")
    for neuron in neurons:
        neuron.read()
    states = tuple(f"{n.name}." for n in neurons)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.device.type != "cpu":
            raise UnsupportedModelError(f"{name!r} is on {value.device}; move the model to the CPU first: model.cpu().")
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


def _record(model: nn.Module, sample: Tensor, calling: str, calls: int, neurons: list[NeuronInModel]) -> Capture:
    """Record the model on the first trace sample that it takes, folded or unrolled as it is."""
    failure: Exception = UnsupportedModelError(f"{type(model).__name__} cannot be recorded.")
    tried: set[tuple[int, ...]] = set()
    for candidate in _trace_samples(sample, calling, calls):
        if tuple(candidate.shape) in tried:
            continue
        tried.add(tuple(candidate.shape))
        shortened = any(a < b for a, b in zip(candidate.shape, sample.shape, strict=True))
        try:
            recorded = capture(model, candidate, calling)
            for _ in range(2):  # twice: state that is not in a neuron shows on the second run
                check_structure(recorded.graph, model, candidate, calling, neurons)
        except (SampleError, StructureError, UnsupportedModelError) as error:
            failure = error  # the last candidate is the user's own sample
            continue
        steps = max((len(nodes) for nodes in neuron_calls(recorded.graph.graph).values()), default=0)
        if not shortened or steps == _TRACE_STEPS:
            return replace(recorded, shortened=shortened)
        # It was not the time axis that was shortened: the loop is as long as before.
    if isinstance(failure, StructureError):
        raise UnsupportedModelError(
            f"What was recorded of {type(model).__name__} is not what it computes: {failure}. A state that is not in a"
            " neuron, or a side effect in forward(), prevents it."
        ) from failure
    raise failure


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


def _folded(recorded: Capture, model: nn.Module, neurons: list[NeuronInModel]) -> fx.GraphModule:
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
                for inputs in other_sizes(recorded.sample, list(_axes(recorded, folded))):
                    check_structure(folded, model, inputs, recorded.calling, neurons)
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
    recorded = _record(model, inputs, called.calling, max(called.calls.values(), default=0), neurons)
    grid = SPIKES if input == "spikes" else None
    facts = {"format": 1, "version": __version__, "calling": called.calling, "input": input}
    try:
        graph = _folded(recorded, model, neurons)
        axes = _axes(recorded, graph)
        time = "free" if "T" in axes.values() else "fixed by the model"
        if time != "free" and recorded.shortened:
            raise FoldError("the loop runs over an axis that is not the input's")
        proto = _lowered(graph, recorded, analyse(graph, grid), axes, {**facts, "time": time})
    except (FoldError, ExportError) as error:
        # As it was recorded, step by step: right for any model, but with the sample's number of steps.
        if not neuron_calls(recorded.graph.graph):
            raise
        recorded = capture(model, at_least_two(inputs, (1,) if called.calling == "step" else (0,)), called.calling)
        axes = {axis: name for axis, name in _axes(recorded, recorded.graph).items() if name != "T"}
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
