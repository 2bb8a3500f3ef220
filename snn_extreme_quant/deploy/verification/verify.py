"""``verify``: is the deployed model the one that was trained, spike for spike?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from snn_extreme_quant.deploy.export import check_model
from snn_extreme_quant.deploy.integer.verify import IntegerComparison, IntegerReference, answers
from snn_extreme_quant.deploy.recording.batch_norm import deployed, unfolded, watching
from snn_extreme_quant.deploy.recording.running import Run, run_model
from snn_extreme_quant.deploy.runtime.inner_spikes import neuron_outputs, with_outputs
from snn_extreme_quant.deploy.runtime.input_arrays import converted
from snn_extreme_quant.deploy.runtime.input_shape import axes_of, check_shape
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.deploy.verification.files import VerifiedFile, batches, empty_report
from snn_extreme_quant.deploy.verification.outputs import OutputVerification
from snn_extreme_quant.deploy.verification.report import BatchNormComparison, Difference, VerifyReport
from snn_extreme_quant.errors import ConfigError, ModelFileError, SampleError
from snn_extreme_quant.exported.files import read_model
from snn_extreme_quant.frameworks import NeuronInModel

__all__ = ["verify"]


def verify(
    model: nn.Module,
    path: str | Path,
    inputs: Tensor | npt.ArrayLike | Iterable[Any],
    *,
    allow_edited: bool = False,
    native: bool | Literal["auto"] = False,
    tokens: int = 1000,
) -> VerifyReport:
    """Compare the trained model with its exported file, spike for spike.

    The model runs in torch with its framework's own neurons; the file runs in onnxruntime, once as it is (its outputs
    are compared) and once with the spikes of every neuron layer as outputs. Every spike of every layer, step and
    sample is compared. A streaming file is run step by step, from its initial state, over each whole input.

    Args:
        model: the model that was exported.
        path: its file.
        inputs: what the model takes (a sequence ``(T, B, ...)`` for a step model), or an iterable of such batches; of
            a tuple the first element is taken, so a ``DataLoader`` will do. Of a model of tokens: ids, a tuple of
            ids, mask and types, a mapping of them by name, or an iterable of such batches.
        allow_edited: compare a file although it was changed after export.
        native: whether our native kernels run in place of the functions that the file carries, as for
            :func:`~snn_extreme_quant.deploy.session`; ``runtime`` of the report says whether one did.
        tokens: of a language model, how many to generate from each of the prompts that ``inputs`` are.

    Raises:
        ModelFileError: the file is missing, truncated, not ours, of another model, or does not load.
        ModelEditedError: the file was changed after export.
        SampleError: an input does not fit.
        ConfigError: ``model`` is no model, ``path`` no path, or ``native`` none of the three.
        NativeLibraryError: ``native=True``, and the kernels cannot be had.

    An integer file is compared with its golden model, an interpreter in plain numpy integers, and with the trained
    model's integer graph in torch; :attr:`VerifyReport.integer` also says how it compares with the float model.

    Example:
        >>> report = verify(net, "net.onnx", spikes)  # doctest: +SKIP
        >>> report.spikes_different  # doctest: +SKIP
        0
    """
    path = _checked(model, path)
    proto, facts = read_model(path, allow_edited=allow_edited)
    if "language" in facts:
        from snn_extreme_quant.deploy.language.verify import verify_gpt

        return verify_gpt(model, path, proto, facts, inputs, native=native, tokens=tokens)
    if "classifier" in facts:
        from snn_extreme_quant.deploy.language.classifier_verify import verify_classifier

        return verify_classifier(model, path, proto, facts, inputs, native=native)
    if facts["input"] == "tokens":
        from snn_extreme_quant.deploy.tokens.verify import verify_tokens

        return verify_tokens(model, path, proto, facts, inputs, native=native)
    if "schedule" in facts:
        from snn_extreme_quant.deploy.synchronous.verify import verify_synchronous

        return verify_synchronous(model, path, proto, facts, inputs, native=native)
    neurons = check_model(model)
    tensors = neuron_outputs(proto)
    promised = {entry["name"]: entry for entry in facts["layers"]}
    by_name = {n.name: n for n in neurons}
    if not set(tensors) <= set(promised):
        raise ModelFileError(f"{path} says nothing of layer {min(set(tensors) - set(promised))!r}; export it again.")
    if not set(tensors) <= set(by_name):
        missing = min(set(tensors) - set(by_name))
        raise ModelFileError(
            f"{path} is of another model: it has a neuron layer {missing!r}, the model has {sorted(by_name)}."
        )
    unknown = sorted(set(by_name) - set(facts["neurons"]))
    if unknown:
        raise ModelFileError(
            f"{path} is of another model: the model has a neuron layer {unknown[0]!r}, the file has not."
        )
    plain = open_session(path, native=native)
    exposed = with_outputs(proto, [name for group in tensors.values() for name in group])
    inner = open_session(exposed, native=native, name=str(path))
    file = VerifiedFile(plain.runtime, inner.runtime, tensors, facts)
    report = empty_report(path, plain, facts, tensors)
    if facts.get("integer"):
        file = replace(file, integer=IntegerReference(proto, facts))
    wanted = onnx.helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)
    for given in batches(inputs):
        batch = torch.from_numpy(converted(given.numpy(), wanted, path))
        if facts["input"] == "spikes" and not bool(((batch == 0) | (batch == 1)).all()):
            raise SampleError(f"{path} was exported with input='spikes'; this input is not 0 and 1 only.")
        check_shape(path, axes_of(proto.graph.input[0], facts), batch.shape, facts)
        _verify_batch(report, model, batch, [by_name[n] for n in tensors], file)
    if not report.samples:
        raise SampleError("verify() was given no input.")
    return report


def _checked(model: object, path: object) -> Path:
    if not isinstance(model, nn.Module):
        swapped = " The model comes first, then the path." if isinstance(path, nn.Module) else ""
        raise ConfigError(f"verify(model, path, inputs): the model is a {type(model).__name__}.{swapped}")
    if not isinstance(path, (str, Path)):
        raise ConfigError(f"verify(model, path, inputs): the path is a {type(path).__name__}; give a str or a Path.")
    return Path(path)


def _verify_batch(
    report: VerifyReport, model: nn.Module, batch: Tensor, neurons: list[NeuronInModel], file: VerifiedFile
) -> None:
    run, trained = _deployed_run(report, model, batch, neurons, file)
    outputs, inner = file.run(batch)
    first: tuple[int, int, Any] | None = None
    samples = 0
    for order, (neuron, layer) in enumerate(zip(neurons, report.layers, strict=True)):
        given = inner[neuron.name]
        theirs = run.sequence(run.spikes, neuron)
        # One tensor of a lower rank is the single step of an unrolled file.
        whole = len(given) == 1 and given[0].ndim == theirs.dim()
        ours = torch.from_numpy(given[0] if whole else np.stack(given))
        if len(given) > 1:
            theirs = theirs[: len(given)]  # an unrolled file leaves out a last call whose spikes nothing reads
        if ours.shape != theirs.shape:
            raise ModelFileError(
                f"{report.path} is of another model: layer {neuron.name!r} gives shape {tuple(ours.shape)}, the model"
                f" {tuple(theirs.shape)}."
            )
        wrong, expected = ours != theirs, theirs
        if trained is not None:  # a streaming file's golden model may have last calls that the graph leaves out
            own = run.sequence(trained, neuron)[: len(theirs)]
            expected = torch.cat([own.to(theirs.dtype), theirs[len(own) :]])
            wrong |= ours != expected
        layer.compared += theirs.numel()
        layer.different += int(wrong.sum())
        layer.fired += float((theirs != 0).sum())
        samples = max(samples, theirs.shape[1] if theirs.dim() > 1 else 1)
        if bool(wrong.any()):
            index = wrong.nonzero()[0].tolist()
            if first is None or (index[0], order) < first[:2]:
                spikes = (expected, ours) if trained is None else (expected, ours, theirs)
                first = (index[0], order, (neuron.name, index, [value[tuple(index)].item() for value in spikes]))
    if len(run.outputs) != len(outputs):
        raise ModelFileError(
            f"{report.path} gives {len(outputs)} outputs, the model {len(run.outputs)}: another model."
        )
    # A streaming file has states behind its outputs.
    names = [entry.name for entry in file.plain.get_outputs()][: len(outputs)]
    report.outputs = report.outputs or [OutputVerification(name=name) for name in names]
    for theirs, ours_array, found in zip(run.outputs, outputs, report.outputs, strict=True):
        ours = torch.from_numpy(ours_array)
        if ours.shape != theirs.shape:
            raise ModelFileError(
                f"{report.path} gives an output of shape {tuple(ours.shape)}, the model {tuple(theirs.shape)}."
            )
        found.add(ours, theirs)
    if first is not None and report.first_difference is None:
        name, index, spikes_there = first[2]
        sample = report.samples + (index[1] if len(index) > 1 else 0)
        report.first_difference = Difference(name, index[0], sample, tuple(index[2:]), *spikes_there)
    report.samples += samples or batch.shape[0]


def _deployed_run(
    report: VerifyReport, model: nn.Module, batch: Tensor, neurons: list[NeuronInModel], file: VerifiedFile
) -> tuple[Run, dict[str, list[Tensor]] | None]:
    """Run the model with its batch norms as the file has them; of an integer file its golden model and its graph."""
    if file.integer is not None:
        report.integer = report.integer or IntegerComparison()
        return file.integer.run(report.integer, model, batch, neurons)
    with watching(model) as found:
        own = run_model(model, batch, file.facts["calling"], neurons)
    if not found:
        return own, None
    apart = unfolded(found)
    with deployed(
        model, {name: fold if file.facts["batch_norms"].get(name) else apart[name] for name, fold in found.items()}
    ):
        run = run_model(model, batch, file.facts["calling"], neurons)
    report.batch_norms = comparison = report.batch_norms or BatchNormComparison()
    for name, calls in own.spikes.items():
        for before, after in zip(calls, run.spikes[name], strict=True):
            comparison.compared += before.numel()
            comparison.different += int((before != after).sum())
    before, after = answers(own.outputs), answers(run.outputs)
    comparison.samples += before.numel()
    comparison.same_answer += int((before == after).sum())
    return run, None
