"""Compares a SpikeGPT that classifies with its file: every spike at the tokens of each text, and every logit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from snn_extreme_quant.deploy.export import check_weights
from snn_extreme_quant.deploy.language.verify import caught_spikes
from snn_extreme_quant.deploy.runtime.inner_spikes import neuron_outputs, with_outputs
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.deploy.tokens.inputs import TokenInputs, token_batches
from snn_extreme_quant.deploy.verification.files import empty_report
from snn_extreme_quant.deploy.verification.outputs import Answers, OutputVerification
from snn_extreme_quant.deploy.verification.report import Difference, VerifyReport
from snn_extreme_quant.errors import ModelFileError, SampleError
from snn_extreme_quant.models.evaluation import evaluating
from snn_extreme_quant.models.gpt.spike_gpt import SpikeGPT

__all__ = ["verify_classifier"]

#: What has to be the same in model and file beside the layers, by field of the configuration.
_SIZES = ("head", "classes", "vocab", "layers", "hidden", "profile")


@dataclass(frozen=True)
class _File:
    """A file as it is run: as it is, and with the spikes of every neuron layer; their names by layer."""

    plain: Any
    inner: Any
    spikes: Mapping[str, str]


def verify_classifier(
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
        inputs: token ids ``(B, L)``, a tuple or mapping of ids and mask, or an iterable of such batches.
        native: whether native kernels run.
    """
    gpt = _checked(model, path, facts)
    tensors = {name: group[0] for name, group in neuron_outputs(proto).items()}
    plain = open_session(path, native=native)
    inner = open_session(with_outputs(proto, tensors.values()), native=native, name=str(path))
    report = empty_report(path, plain, facts, tensors)
    report.tolerance, report.answers = 0.0, Answers()
    report.outputs = [OutputVerification(name="logits")]
    file = _File(plain.runtime, inner.runtime, tensors)
    with evaluating(gpt):
        for batch in token_batches(inputs, gpt):
            _verify_batch(report, gpt, batch, file)
    if not report.samples:
        raise SampleError("verify() was given no input.")
    return report


def _checked(model: nn.Module, path: Path, facts: Mapping[str, Any]) -> SpikeGPT:
    """Refuse another model than the file's."""
    if not isinstance(model, SpikeGPT):
        raise ModelFileError(f"{path} is of a SpikeGPT that classifies; {type(model).__name__} is none.")
    check_weights(model)
    told, own = facts["classifier"]["config"], model.config.to_dict()
    wrong = next((name for name in _SIZES if told[name] != own[name]), None)
    if wrong is not None:
        raise ModelFileError(f"{path} is of another model: its {wrong} is {told[wrong]!r}, the model's {own[wrong]!r}.")
    return model


def _verify_batch(report: VerifyReport, model: SpikeGPT, batch: TokenInputs, file: _File) -> None:
    with caught_spikes(model, file.spikes) as spikes:
        logits = model(batch.ids, batch.mask)
    feed = {name: value.numpy() for name, value in batch.named.items()}
    (found,) = file.plain.run(["logits"], feed)
    shown = file.inner.run(list(file.spikes.values()), feed) if file.spikes else []
    _compare_spikes(report, spikes, shown, batch.mask.bool().T)
    ours = torch.from_numpy(found)
    if ours.shape != logits.shape:
        raise ModelFileError(f"{report.path} is of another model: it gives logits {tuple(ours.shape)}.")
    report.outputs[0].add(ours, logits)
    if report.answers is not None:
        report.answers.add(ours, logits)
    report.samples += len(batch.ids)


def _compare_spikes(
    report: VerifyReport, spikes: Mapping[str, Tensor], shown: Sequence[npt.NDArray[Any]], inside: Tensor
) -> None:
    """Compare the spikes ``(L, B, width)`` of each layer where ``inside`` ``(L, B)`` says that there is a token."""
    first: tuple[int, Difference] | None = None
    for layer, value in zip(report.layers, shown, strict=True):
        theirs, ours = spikes[layer.name], torch.from_numpy(value)
        if ours.shape != theirs.shape:
            raise ModelFileError(f"{report.path} is of another model: {layer.name!r} gives {tuple(ours.shape)}.")
        wrong = (ours != theirs) & inside.unsqueeze(2)
        layer.compared += int(inside.sum()) * theirs.shape[2]
        layer.fired += float((theirs * inside.unsqueeze(2)).sum())
        layer.different += int(wrong.sum())
        if bool(wrong.any()):
            step, sample, *channel = place = wrong.nonzero()[0].tolist()
            there = [float(tensor[tuple(place)]) for tensor in (theirs, ours)]
            if first is None or step < first[0]:
                first = step, Difference(layer.name, step, report.samples + sample, tuple(channel), *there)
    if first is not None and report.first_difference is None:
        report.first_difference = first[1]
