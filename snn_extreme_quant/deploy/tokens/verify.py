"""Compares a model of tokens with its file: counts with counts, spikes with spikes, logits with logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from torch import Tensor, nn

from snn_extreme_quant.deploy.export import check_weights
from snn_extreme_quant.deploy.integer.verify import IntegerComparison
from snn_extreme_quant.deploy.runtime.inner_spikes import neuron_nodes
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.deploy.synchronous.verify import compare_outputs, emitted, exposed
from snn_extreme_quant.deploy.tokens.inputs import TokenInputs, bert_of, token_batches
from snn_extreme_quant.deploy.tokens.integer_verify import IntegerTokens
from snn_extreme_quant.deploy.tokens.running import On, run_tokens, token_neurons
from snn_extreme_quant.deploy.verification.files import empty_report
from snn_extreme_quant.deploy.verification.outputs import Answers
from snn_extreme_quant.deploy.verification.report import Difference, LayerVerification, VerifyReport
from snn_extreme_quant.errors import ModelFileError, SampleError
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.neurons import spikes_first

__all__ = ["verify_tokens"]


@dataclass(frozen=True)
class _File:
    """A file as it is run: as it is, and with what every neuron layer gives as outputs; nodes by layer."""

    plain: Any
    inner: Any
    nodes: dict[str, onnx.NodeProto]
    on: On
    bert: SpikingBert
    integer: IntegerTokens | None


def verify_tokens(
    model: nn.Module,
    path: Path,
    proto: onnx.ModelProto,
    facts: dict[str, Any],
    inputs: Any,
    *,
    native: bool | Literal["auto"],
) -> VerifyReport:
    """Compare the model with the file; see :func:`~snn_extreme_quant.verify`.

    Args:
        model: the model that was exported.
        path: its file.
        proto: the file, read.
        facts: what the exporter put into it.
        inputs: token ids, a tuple or mapping of ids, mask and types, or an iterable of such batches.
        native: whether native kernels run.
    """
    nodes = {name: group[0] for name, group in neuron_nodes(proto).items()}
    bert = _checked(model, path, facts, nodes)
    on: On = "steps" if facts["schedule"]["name"] == "step" else "counts" if facts["form"] == "counts" else "spikes"
    names = [node.output[0] for node in nodes.values()]
    plain = open_session(path, native=native)
    inner = open_session(exposed(proto, names), native=native, name=str(path))
    integer = IntegerTokens(proto, facts, model, bert, on) if facts.get("integer") else None
    file = _File(plain.runtime, inner.runtime, nodes, on, bert, integer)
    report = empty_report(path, plain, facts, nodes)
    for batch in token_batches(inputs, bert):
        if list(batch.named) != facts["inputs"]:
            raise SampleError(f"{path} takes {', '.join(facts['inputs'])}; the input has {', '.join(batch.named)}.")
        _verify_batch(report, model, batch, file)
    if not report.samples:
        raise SampleError("verify() was given no input.")
    return report


def _checked(model: nn.Module, path: Path, facts: dict[str, Any], nodes: dict[str, onnx.NodeProto]) -> SpikingBert:
    """Return the encoder in the model; raises :class:`ModelFileError` if the file is of another model."""
    bert = bert_of(model)
    if bert is None:
        raise ModelFileError(f"{path} is of a SpikingBert; {type(model).__name__} is none and holds none.")
    given = {"name": bert.config.schedule, "steps": bert.config.T}
    if given != facts["schedule"]:
        raise ModelFileError(f"{path} is of another model: its schedule is {facts['schedule']}, the model's {given}.")
    names = sorted(token_neurons(model, "steps" if bert.config.schedule == "step" else "counts"))
    if names != facts["neurons"] or not set(nodes) <= set(names):
        raise ModelFileError(f"{path} is of another model: it has the neuron layers {facts['neurons']}, not {names}.")
    check_weights(model)
    return bert


def _verify_batch(report: VerifyReport, model: nn.Module, batch: TokenInputs, file: _File) -> None:
    expected, golden, logits = _wanted(report, model, batch, file)
    given = {name: value.numpy() for name, value in batch.named.items()}
    try:
        outputs = file.plain.run(None, given)
        found = file.inner.run([f"{node.output[0]}/exposed" for node in file.nodes.values()], given)
    except Exception as error:  # onnxruntime raises a class of its own for every failure
        raise SampleError(f"{report.path} does not run on token ids {tuple(batch.ids.shape)}: {error}") from error
    for layer, node, value in zip(report.layers, file.nodes.values(), found, strict=True):
        ours = torch.from_numpy(value)
        ours = emitted(ours, node, file.bert.config.T) if file.on == "counts" else ours
        _compare(report, layer, [ours, expected[layer.name], *golden.get(layer.name, [])], file)
    names = [entry.name for entry in file.plain.get_outputs()]
    tensors = [torch.from_numpy(output) for output in outputs]
    compare_outputs(report, names, tensors, logits)
    if tensors[0].dim() == 2 and tensors[0].shape[1] > 1:
        report.answers = report.answers or Answers()
        report.answers.add(tensors[0], logits[0])
    report.samples += int(batch.ids.shape[0])


def _wanted(
    report: VerifyReport, model: nn.Module, batch: TokenInputs, file: _File
) -> tuple[dict[str, Tensor], dict[str, list[Tensor]], list[Tensor]]:
    """Return by layer what torch gives, of an integer file what its golden model gives too, and the outputs."""
    if file.integer is not None:
        report.integer = report.integer or IntegerComparison()
        found = file.integer.run(report.integer, batch)
        golden = {name: [value.float()] for name, value in found.golden.items()}
        return {name: value.float() for name, value in found.trained.items()}, golden, found.outputs
    run = run_tokens(model, file.bert, batch, file.on)
    steps = float(file.bert.config.T) if file.on == "counts" else 1.0
    return {name: calls[0] * steps for name, calls in run.emitted.items() if calls}, {}, run.outputs


def _compare(report: VerifyReport, layer: LayerVerification, values: list[Tensor], file: _File) -> None:
    """Compare what the file gives with what torch and, of an integer file, its golden model give."""
    ours, theirs, *golden = values
    if ours.shape != theirs.shape:
        raise ModelFileError(
            f"{report.path} is of another model: layer {layer.name!r} gives shape {tuple(ours.shape)}, the model"
            f" {tuple(theirs.shape)}."
        )
    wrong = ours != theirs
    for other in golden:
        wrong |= ours != other
    layer.compared += theirs.numel()
    layer.different += int(wrong.sum())
    layer.fired += float(theirs.abs().sum()) / (file.bert.config.T if file.on == "counts" else 1)
    if report.first_difference is not None or not bool(wrong.any()):
        return
    place = wrong.nonzero()[0].tolist()
    there = [value[tuple(place)] for value in (theirs, ours, *golden)]
    if file.on == "counts":  # in which step spikes differ first
        rows = [spikes_first(value, file.bert.config.T) for value in there]
        step = min(int((rows[1] != row).nonzero()[0]) for row in rows if bool((rows[1] != row).any()))
        there = [row[step] for row in rows]
    else:
        step, *place = place
    report.first_difference = Difference(
        layer.name, step, report.samples + place[0], tuple(place[1:]), *(value.item() for value in there)
    )
