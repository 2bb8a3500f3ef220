"""``verify``: is the deployed model the one that was trained, spike for spike?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import ModelFileError, SampleError
from snn_extreme_quant.exported.files import read_model
from snn_extreme_quant.frameworks import NeuronInModel

from .batch_norm import deployed, unfolded, watching
from .export import as_tensor, check_model
from .inner_spikes import neuron_outputs, with_outputs
from .input_shape import axes_of, check_shape
from .integer_verify import IntegerComparison, IntegerReference, answers
from .output_comparison import OutputVerification
from .running import Run, run_model
from .sessions import session
from .stream import run_streamed

__all__ = ["Difference", "LayerVerification", "OutputVerification", "VerifyReport", "verify"]


@dataclass(frozen=True)
class Difference:
    """Where a spike differs: the earliest step, and in it the first layer in order of execution.

    Args:
        layer: name of the neuron layer.
        step: time step, from 0.
        sample: index over all samples given.
        channel: index within the layer, one number for each of its axes.
        torch_spike: what the trained model gives (for an integer file, its integer graph).
        file_spike: what the file gives.
        golden_spike: what the golden model of an integer file gives; None for other files.
    """

    layer: str
    step: int
    sample: int
    channel: tuple[int, ...]
    torch_spike: float
    file_spike: float
    golden_spike: float | None = None

    def __str__(self) -> str:
        """Say it in a sentence."""
        return (
            f"layer {self.layer!r}, step {self.step}, sample {self.sample}, channel {self.channel}:"
            f" torch {self.torch_spike:g}, file {self.file_spike:g}"
            + ("" if self.golden_spike is None else f", golden model {self.golden_spike:g}")
        )


@dataclass
class LayerVerification:
    """The comparison of one neuron layer; ``exact`` and ``reason`` are what the exporter promised."""

    name: str
    exact: bool
    reason: str
    compared: int = 0
    different: int = 0
    fired: float = 0.0


@dataclass
class BatchNormComparison:
    """The model with its own batch norms against the model with the deployed ones, both in torch.

    Folding rounds differently in the last bit, so a membrane potential at its threshold may fall on the other side,
    and all that follows from that spike differs too.

    Args:
        compared: values of neuron outputs.
        different: how many of them differ.
        samples: how many samples were run, if the first output is ``(B, classes)`` or ``(T, B, classes)``.
        same_answer: for how many of them that output, summed over time, has its largest value in the same place.
    """

    compared: int = 0
    different: int = 0
    samples: int = 0
    same_answer: int = 0

    def __str__(self) -> str:
        """Say it in a sentence."""
        return (
            f"folding the batch norms changes {self.different} of {self.compared} spikes and the answer of"
            f" {self.samples - self.same_answer} of {self.samples} samples"
        )


@dataclass
class VerifyReport:
    """What :func:`verify` found.

    The model that is compared has its batch norms as they are deployed; ``batch_norms`` says how that model compares
    with the one whose batch norms are torch's.

    Args:
        path: the file.
        runtime: the runtime and its version.
        samples: how many samples were run.
        layers: the comparison by neuron layer, in order of execution.
        first_difference: the first spike that differs, if any.
        outputs: the comparison of each output.
        batch_norms: what folding the batch norms changed; None for a model without.
        integer: of an integer file, how its golden model stands to the model's integer graph in torch and to the float
            model; else None. Its spikes are compared with both of the first two: one that is not as in either differs.
    """

    path: Path
    runtime: str
    samples: int = 0
    layers: list[LayerVerification] = field(default_factory=list)
    first_difference: Difference | None = None
    outputs: list[OutputVerification] = field(default_factory=list)
    batch_norms: BatchNormComparison | None = None
    integer: IntegerComparison | None = None

    @property
    def spikes_compared(self) -> int:
        """Values of neuron outputs (spike or no spike) compared, over all layers, steps and samples."""
        return sum(layer.compared for layer in self.layers)

    @property
    def spikes_different(self) -> int:
        """How many of them differ."""
        return sum(layer.different for layer in self.layers)

    @property
    def output_difference(self) -> float:
        """The largest difference of any output."""
        return max((output.difference for output in self.outputs), default=0.0)

    @property
    def different_outputs(self) -> list[str]:
        """A sentence for each output that differs."""
        same = "" if self.spikes_different else ", though all spikes are the same"
        return [f"output {o.name!r} differs by up to {o.difference:.3g}{same}" for o in self.outputs if o.difference]

    @property
    def firing_rate(self) -> float:
        """Mean over all neurons, steps and samples."""
        return sum(layer.fired for layer in self.layers) / max(1, self.spikes_compared)

    @property
    def _same_outputs(self) -> bool:
        ours = all(output.ratio <= 1e-5 for output in self.outputs)
        return ours and (self.integer is None or self.integer.same_outputs)

    @property
    def ok(self) -> bool:
        """Whether spikes were compared, all are the same, and each output is so to 1e-5 of a batch's largest value."""
        same = self.spikes_different == 0 and (self.integer is None or self.integer.torch_different == 0)
        return self.spikes_compared > 0 and same and self._same_outputs

    @property
    def verdict(self) -> str:
        """The report in a line: how many spikes differ, and between whom; whether outputs do."""
        said = f"{self.path} on {self.runtime}: {self.spikes_different} of {self.spikes_compared} spikes differ"
        if self.integer is not None and self.integer.torch_different:
            said += f" ({self.integer.torch_different} between the file's golden model and the trained model in torch)"
        return said if self._same_outputs else f"{said}; outputs differ"

    def __str__(self) -> str:
        """Render as a plain table."""
        width = max((len(layer.name) for layer in self.layers), default=0)
        rows = [
            f"{e.name.ljust(width)}  {e.different} of {e.compared} differ, firing rate"
            f" {e.fired / max(1, e.compared):.3f}, {'guaranteed' if e.exact else 'not guaranteed: ' + e.reason}"
            for e in self.layers
        ]
        if self.first_difference is not None:
            rows.append(f"first difference: {self.first_difference}")
        rows += self.different_outputs
        if self.batch_norms is not None:
            rows.append(str(self.batch_norms))
        if self.integer is not None:
            rows.append(str(self.integer))
        return "\n".join((self.verdict, *rows))


def _batches(inputs: Any) -> Iterator[Tensor]:
    if isinstance(inputs, (Tensor, np.ndarray)):
        yield as_tensor(inputs, "The input")
        return
    if not isinstance(inputs, Iterable):
        raise SampleError(f"verify() takes a tensor, an array or an iterable of them; got {type(inputs).__name__}.")
    for index, batch in enumerate(inputs):
        yield as_tensor(batch[0] if isinstance(batch, (tuple, list)) else batch, f"Input {index}")


def verify(
    model: nn.Module,
    path: str | Path,
    inputs: Tensor | npt.ArrayLike | Iterable[Any],
    *,
    allow_edited: bool = False,
    native: bool = False,
) -> VerifyReport:
    """Compare the trained model with its exported file, spike for spike.

    The model runs in torch with its framework's own neurons; the file runs in onnxruntime, once as it is (its outputs
    are compared) and once with the spikes of every neuron layer as outputs. Every spike of every layer, step and
    sample is compared. A streaming file is run step by step, from its initial state, over each whole input.

    Args:
        model: the model that was exported.
        path: its file.
        inputs: what the model takes (a sequence ``(T, B, ...)`` for a step model), or an iterable of such batches; of
            a tuple the first element is taken, so a ``DataLoader`` will do.
        allow_edited: compare a file although it was changed after export.
        native: run the file with our native kernels in place of the functions that it carries.

    Raises:
        ModelFileError: the file is missing, truncated, not ours, of another model, or does not load.
        ModelEditedError: the file was changed after export.
        SampleError: an input does not fit.

    An integer file is compared with its golden model, an interpreter in plain numpy integers, and with the trained
    model's integer graph in torch; :attr:`VerifyReport.integer` also says how it compares with the float model.

    Example:
        >>> report = verify(net, "net.onnx", spikes)  # doctest: +SKIP
        >>> report.spikes_different  # doctest: +SKIP
        0
    """
    path = Path(path)
    proto, facts = read_model(path, allow_edited=allow_edited)
    if "schedule" in facts:
        from .synchronous_verify import verify_synchronous

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
    import onnxruntime

    plain = session(path, native=native)
    inner = session(with_outputs(proto, [name for group in tensors.values() for name in group]), native=native)
    file = _File(plain, inner, tensors, facts)
    report = VerifyReport(path, f"onnxruntime {onnxruntime.__version__}{' with native kernels' if native else ''}")
    if facts.get("integer"):
        file = replace(file, integer=IntegerReference(proto, facts))
    report.layers = [LayerVerification(n, promised[n]["exact"], promised[n]["why"]) for n in tensors]
    for batch in _batches(inputs):
        if facts["input"] == "spikes" and not bool(((batch == 0) | (batch == 1)).all()):
            raise SampleError(f"{path} was exported with input='spikes'; this input is not 0 and 1 only.")
        check_shape(path, axes_of(proto.graph.input[0], facts), batch.shape, facts)
        _verify_batch(report, model, batch, [by_name[n] for n in tensors], file)
    if not report.samples:
        raise SampleError("verify() was given no input.")
    return report


def _run(runtime: Any, names: list[str] | None, batch: Tensor) -> list[npt.NDArray[Any]]:
    entry = runtime.get_inputs()[0]
    try:
        outputs: list[npt.NDArray[Any]] = runtime.run(names, {entry.name: batch.numpy()})
    except Exception as error:  # onnxruntime raises a class of its own for every failure
        raise SampleError(f"The file takes input {entry.shape}, not {tuple(batch.shape)}: {error}") from error
    return outputs


@dataclass(frozen=True)
class _File:
    """A file as it is run.

    Args:
        plain: onnxruntime's session of it.
        inner: a session that gives the spikes of all neuron layers.
        tensors: names of those, by layer.
        facts: what the file says of itself: how the model is called, by batch norm the layer it is folded into, and the
            file's form.
        integer: what an integer file is compared with.
    """

    plain: Any
    inner: Any
    tensors: dict[str, list[str]]
    facts: Mapping[str, Any]
    integer: IntegerReference | None = None

    def run(self, batch: Tensor) -> tuple[list[npt.NDArray[Any]], dict[str, list[npt.NDArray[Any]]]]:
        """Return the outputs, and by layer what its neurons give: of all steps in one, or of each step."""
        names = [name for group in self.tensors.values() for name in group]
        if self.facts.get("form") == "streaming":
            outputs, _ = run_streamed(self.plain, self.facts, batch.numpy(), [])
            _, steps = run_streamed(self.inner, self.facts, batch.numpy(), names)
            by_name = dict(zip(names, steps, strict=True))
            # A layer's calls in the order of the steps, and of each step.
            layers = {
                layer: [np.stack([value for row in zip(*(by_name[n] for n in group), strict=True) for value in row])]
                for layer, group in self.tensors.items()
            }
            return outputs, layers
        flat = iter(_run(self.inner, names, batch))
        return _run(self.plain, None, batch), {
            layer: [next(flat) for _ in group] for layer, group in self.tensors.items()
        }


def _verify_batch(
    report: VerifyReport, model: nn.Module, batch: Tensor, neurons: list[NeuronInModel], file: _File
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
    report: VerifyReport, model: nn.Module, batch: Tensor, neurons: list[NeuronInModel], file: _File
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
