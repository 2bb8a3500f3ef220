"""Compares a model of synchronous neurons with its file: counts with counts, spikes with spikes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from snn_extreme_quant.deploy.export import check_weights
from snn_extreme_quant.deploy.lowering.functions import is_token_neuron
from snn_extreme_quant.deploy.recording.batch_norm import deployed, unfolded, watching
from snn_extreme_quant.deploy.runtime.inner_spikes import neuron_nodes
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.deploy.synchronous.export import check_train
from snn_extreme_quant.deploy.synchronous.running import SynchronousRun, run_synchronous, synchronous_neurons
from snn_extreme_quant.deploy.verification.files import batches, empty_report, run_batch
from snn_extreme_quant.deploy.verification.outputs import OutputVerification
from snn_extreme_quant.deploy.verification.report import (
    BatchNormComparison,
    Difference,
    LayerVerification,
    VerifyReport,
)
from snn_extreme_quant.errors import ModelFileError, SampleError
from snn_extreme_quant.neurons import Schedule, SynchronousIF, spikes_first

__all__ = ["compare_outputs", "emitted", "exposed", "verify_synchronous"]


def _tensors(nodes: dict[str, list[onnx.NodeProto]]) -> list[str]:
    """Names of what the neurons give, in order of execution."""
    return [node.output[0] for calls in nodes.values() for node in calls]


@dataclass(frozen=True)
class _File:
    """A file as it is run: as it is, and with what every neuron layer gives as outputs.

    ``nodes`` holds, by layer, the node of each of its calls.
    """

    plain: Any
    inner: Any
    nodes: dict[str, list[onnx.NodeProto]]
    facts: dict[str, Any]
    on: Schedule
    steps: int


def exposed(proto: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a copy that gives inner tensors as outputs too, as floats, named ``<tensor>/exposed``."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for name in names:
        copy.graph.node.append(onnx.helper.make_node("Cast", [name], [f"{name}/exposed"], to=onnx.TensorProto.FLOAT))
        copy.graph.output.append(onnx.helper.make_tensor_value_info(f"{name}/exposed", onnx.TensorProto.FLOAT, None))
    return copy


def _checked(model: nn.Module, path: Path, file: _File) -> dict[str, SynchronousIF]:
    """Return the model's neurons; raises :class:`ModelFileError` if the file is of another model."""
    neurons = synchronous_neurons(model)
    for name in (*file.nodes, *file.facts["neurons"]):
        if name not in neurons:
            raise ModelFileError(
                f"{path} is of another model: it has a synchronous neuron layer {name!r}, the model has"
                f" {sorted(neurons)}."
            )
    unknown = sorted(set(neurons) - set(file.facts["neurons"]))
    if unknown:
        raise ModelFileError(
            f"{path} is of another model: the model has a neuron layer {unknown[0]!r}, the file has not."
        )
    for name, neuron in neurons.items():
        if file.steps != neuron.T:
            raise ModelFileError(f"{path} is of another model: it has T = {file.steps}, layer {name!r} T = {neuron.T}.")
    check_weights(model)
    return neurons


def verify_synchronous(
    model: nn.Module,
    path: Path,
    proto: onnx.ModelProto,
    facts: dict[str, Any],
    inputs: Tensor | npt.ArrayLike | Iterable[Any],
    *,
    native: bool | Literal["auto"],
) -> VerifyReport:
    """Compare the model, on the schedule of the file's name, with the file; see :func:`~snn_extreme_quant.verify`.

    Args:
        model: the model that was exported.
        path: its file.
        proto: the file, read.
        facts: what the exporter put into it.
        inputs: what the model takes, or an iterable of such batches; spike trains ``(T, B, ...)`` for a file that was
            promised spikes.
        native: whether native kernels run.
    """
    nodes = neuron_nodes(proto)
    on: Schedule = "counts" if facts["form"] == "counts" else "spikes"
    plain = open_session(path, native=native)
    inner = open_session(exposed(proto, _tensors(nodes)), native=native, name=str(path))
    file = _File(plain.runtime, inner.runtime, nodes, facts, on, int(facts["schedule"]["steps"]))
    neurons = _checked(model, path, file)
    report = empty_report(path, plain, facts, nodes)
    for batch in batches(inputs):
        _verify_batch(report, model, batch, neurons, file)
    if not report.samples:
        raise SampleError("verify() was given no input.")
    return report


def _verify_batch(
    report: VerifyReport, model: nn.Module, batch: Tensor, neurons: dict[str, SynchronousIF], file: _File
) -> None:
    train = file.facts["input"] == "spikes"
    given = batch
    if train:
        rates = check_train(batch, file.steps, "The input")
        given = rates if file.on == "counts" else batch
    run = _deployed_run(report, model, given, file, train=train)
    outputs = run_batch(file.plain, None, given)
    names = [f"{name}/exposed" for name in _tensors(file.nodes)]
    found = iter(run_batch(file.inner, names, given))
    for layer in report.layers:
        neuron = neurons[layer.name]
        # A last call that nothing reads is not in the file.
        for node, theirs in zip(file.nodes[layer.name], run.emitted[layer.name], strict=False):
            ours = emitted(torch.from_numpy(next(found)), node, neuron.T)
            _compare(report, layer, ours, theirs if file.on == "spikes" else _steps_of(theirs, neuron), file)
    compare_outputs(
        report, [entry.name for entry in file.plain.get_outputs()], [torch.from_numpy(o) for o in outputs], run.outputs
    )
    report.samples += int(batch.shape[1] if train else batch.shape[0])


def _steps_of(rates: Tensor, neuron: SynchronousIF) -> Tensor:
    return rates * float(neuron.T)


def emitted(values: Tensor, node: onnx.NodeProto, steps: int) -> Tensor:
    """Return the spikes of all steps, or the counts, that the tensor of a synchronous neuron layer stands for.

    Args:
        values: the tensor, as floats.
        node: the layer's node.
        steps: T.
    """
    if node.op_type == "SynchronousSpikes" or is_token_neuron(node.op_type):
        return values
    if node.op_type == "SynchronousRates":
        return values * float(steps)
    # Counts are bytes; where the largest one is beyond T, they are signed.
    top = next((attribute.f or attribute.i for attribute in node.attribute if attribute.name == "top"), steps)
    return values - (steps if node.op_type == "SynchronousCounts_signed" or top > steps else 0)


def _compare(report: VerifyReport, layer: LayerVerification, ours: Tensor, theirs: Tensor, file: _File) -> None:
    if ours.shape != theirs.shape:
        raise ModelFileError(
            f"{report.path} is of another model: layer {layer.name!r} gives shape {tuple(ours.shape)}, the model"
            f" {tuple(theirs.shape)}."
        )
    wrong = ours != theirs
    layer.compared += theirs.numel()
    layer.different += int(wrong.sum())
    layer.fired += float(theirs.abs().sum()) / (1 if file.on == "spikes" else file.steps)
    if report.first_difference is not None or not bool(wrong.any()):
        return
    if file.on == "counts":  # in which step spikes differ first
        index = wrong.nonzero()[0]
        ours, theirs = (spikes_first(v[tuple(index.tolist())], file.steps) for v in (ours, theirs))
        step = int((ours != theirs).nonzero()[0])
        place = index.tolist()
        expected, got = theirs[step].item(), ours[step].item()
    else:
        step, *place = wrong.nonzero()[0].tolist()
        expected, got = theirs[(step, *place)].item(), ours[(step, *place)].item()
    sample = report.samples + (place[0] if place else 0)
    report.first_difference = Difference(layer.name, step, sample, tuple(place[1:]), expected, got)


def compare_outputs(report: VerifyReport, names: list[str], ours: list[Tensor], theirs: list[Tensor]) -> None:
    """Add the comparison of a batch's outputs; raises :class:`ModelFileError` if they are not those of the model."""
    if len(ours) != len(theirs):
        raise ModelFileError(f"{report.path} gives {len(ours)} outputs, the model {len(theirs)}: another model.")
    report.outputs = report.outputs or [OutputVerification(name=name) for name in names]
    for value, expected, found in zip(ours, theirs, report.outputs, strict=True):
        if value.shape != expected.shape:
            raise ModelFileError(
                f"{report.path} gives an output of shape {tuple(value.shape)}, the model {tuple(expected.shape)}."
            )
        found.add(value, expected)


def _deployed_run(report: VerifyReport, model: nn.Module, given: Tensor, file: _File, *, train: bool) -> SynchronousRun:
    """Run the model with its batch norms as the file has them, and note what that changes."""
    with watching(model) as found:
        own = run_synchronous(model, given, file.on, train=train)
    if not found:
        return own
    apart = unfolded(found)
    folds = {name: fold if file.facts["batch_norms"].get(name) else apart[name] for name, fold in found.items()}
    with deployed(model, folds):
        run = run_synchronous(model, given, file.on, train=train)
    report.batch_norms = comparison = report.batch_norms or BatchNormComparison()
    for name, calls in own.emitted.items():
        for before, after in zip(calls, run.emitted[name], strict=True):
            comparison.compared += before.numel()
            comparison.different += int((before != after).sum())
    scores = [r.outputs[0].argmax(1) if r.outputs and r.outputs[0].dim() == 2 else torch.zeros(0) for r in (own, run)]
    comparison.samples += scores[0].numel()
    comparison.same_answer += int((scores[0] == scores[1]).sum())
    return run
