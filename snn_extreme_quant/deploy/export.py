"""``export_onnx``: from a trained model to one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from snn_extreme_quant._version import __version__
from snn_extreme_quant.deploy.integer.export import FixedPointReport, lower_integer
from snn_extreme_quant.deploy.integer.options import IntegerOptions, integer_options
from snn_extreme_quant.deploy.integer.streaming import lower_integer_step
from snn_extreme_quant.deploy.lowering.functions import is_neuron, is_synchronous, is_token_neuron
from snn_extreme_quant.deploy.lowering.model import file_facts, layer_facts, lower, lowering_error
from snn_extreme_quant.deploy.lowering.repacking import TernaryPacking, check_packing, with_packing
from snn_extreme_quant.deploy.recording.exactness import SPIKES, analyse
from snn_extreme_quant.deploy.recording.graphs import neuron_calls
from snn_extreme_quant.deploy.recording.record import Recording, Request, record, record_stepwise
from snn_extreme_quant.deploy.runtime.input_arrays import as_array
from snn_extreme_quant.deploy.streaming.export import Streaming, streaming_step
from snn_extreme_quant.deploy.synchronous.running import synchronous_neurons
from snn_extreme_quant.deploy.tokens.inputs import bert_of
from snn_extreme_quant.deploy.tokens.token_scales import ScaleReport
from snn_extreme_quant.errors import (
    ExportError,
    NonFiniteWeightError,
    OutputPathError,
    SampleError,
    UnsupportedModelError,
    UnsupportedNeuronError,
)
from snn_extreme_quant.exported.files import seal
from snn_extreme_quant.frameworks import NeuronInModel, neurons_of
from snn_extreme_quant.models.gpt.spike_gpt import SpikeGPT
from snn_extreme_quant.output_files import check_writable, write_whole

__all__ = ["ExportReport", "LayerReport", "export_onnx"]

Calling = Literal["auto", "step", "sequence"]
Form = Literal["sequence", "streaming", "counts"]


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
        time: ``"free"`` if the file takes any number of time steps that the model takes; else why it is fixed. Of a
            streaming file, how many steps may be made.
        input_shape: the input's axes; T and B are free.
        batch_norms: by name of each batch norm, the layer it is folded into; "" if it stays a product and a sum.
        layers: quantised layers and neurons, with what is guaranteed of each.
        fixed_point: of an integer file, how each neuron layer is computed.
        scales: of an integer file of a model of tokens, how the constants behind each sum are computed.
    """

    path: Path
    file_bytes: int
    calling: str
    time: str
    input_shape: tuple[str | int, ...]
    batch_norms: Mapping[str, str]
    layers: tuple[LayerReport, ...]
    fixed_point: tuple[FixedPointReport, ...] = ()
    scales: tuple[ScaleReport, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether there are spikes, and every one is guaranteed to be the same as in torch."""
        fires = (is_neuron, is_synchronous, is_token_neuron)
        return any(found(layer.operator) for layer in self.layers for found in fires) and all(
            layer.exact for layer in self.layers
        )

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
        return "\n".join((head, *rows, *map(str, self.fixed_point), *map(str, self.scales)))


def as_tensor(value: Tensor | npt.ArrayLike, what: str) -> Tensor:
    """Return an input as a tensor on the CPU; float64 becomes float32."""
    array = as_array(value, what)
    try:
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except TypeError as error:  # of a type that torch lacks
        raise SampleError(f"{what} is not a tensor or an array that torch knows: {error}.") from error


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
            never = (value == torch.inf) if name == "threshold" else torch.zeros_like(value, dtype=torch.bool)
            if not bool((torch.isfinite(value) | never).all()):  # an infinite threshold is never reached
                raise NonFiniteWeightError(f"The {name} of {neuron.name!r} is NaN or infinite; load a good checkpoint.")
    check_weights(model, tuple(f"{n.name}." for n in neurons))
    return neurons


def check_weights(model: nn.Module, states: tuple[str, ...] = ()) -> None:
    """Refuse a model that is not on the CPU in float32, or holds NaN or infinity.

    Args:
        model: the model.
        states: what the names of tensors begin with that are no weights.
    """
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.device.type != "cpu":
            raise UnsupportedModelError(f"{name!r} is on {value.device}; move the model to the CPU first: model.cpu().")
        if value.is_floating_point() and value.dtype != torch.float32 and value.dim() and not name.startswith(states):
            raise UnsupportedModelError(
                f"{name!r} is {value.dtype}; files compute in float32: call model.float() first."
            )
        if value.is_floating_point() and not name.startswith(states) and not bool(torch.isfinite(value).all()):
            raise NonFiniteWeightError(f"{name!r} holds NaN or infinite values; load a good checkpoint.")


def export_onnx(
    model: nn.Module,
    sample: Any,
    path: str | Path,
    *,
    calling: Calling = "auto",
    input: Literal["real", "spikes"] = "real",
    ternary_packing: TernaryPacking = "2bit",
    form: Form = "sequence",
    integer: bool | IntegerOptions = False,
) -> ExportReport:
    """Write a trained model as one ONNX file that stock onnxruntime runs.

    The file holds packed weights (1 to 16 bit), operators of the domain ``snn.extreme_quant`` and, for runtimes
    without our library, their bodies in standard operators. It takes any number of samples and, where the model does,
    any number of time steps. The model is left as it was; state in its neurons does not enter the file.

    Args:
        model: a model with snnTorch or SpikingJelly neurons, on the CPU.
        sample: an input. For a model that takes one time step at a time (called in a loop), a sequence of steps
            ``(T, B, ...)``; else what the model takes. Its values do not matter, its shape does. For a
            :class:`~snn_extreme_quant.models.SpikeGPT` None: it is not looked at
            (:func:`~snn_extreme_quant.deploy.export_gpt` has options of its own). For a
            :class:`~snn_extreme_quant.models.SpikingBert` token ids ``(B, S)``, or a tuple or mapping of ids, mask
            and types.
        path: where to write; the directory must exist. The file appears whole or not at all.
        calling: ``"step"`` or ``"sequence"`` says how the model is called; ``"auto"`` finds out by calling it.
        input: ``"spikes"`` promises that the input is 0 and 1 only, which makes the first layer exact too (and faster);
            the file then may give nonsense for other input, and :func:`verify` refuses it.
        ternary_packing: how ternary codes are stored: four to a byte (``"2bit"``), or five (``"1.6bit"``: a smaller
            file that gives the same bits).
        form: ``"sequence"``: the file takes all time steps at once; ``"streaming"``: it makes one step, and the states
            of the neurons are inputs and outputs (:class:`~snn_extreme_quant.deploy.Stream` runs it).
            ``"counts"``: one pass over spike counts, for models of :class:`~snn_extreme_quant.SynchronousIF` neurons;
            ``docs/synchronous.md`` says what such files take.
        integer: the file computes with integers only (``docs/integer.md``): neurons in fixed point, no float between
            the encoding of the input and the decoding of the outputs. An :class:`IntegerOptions` says more.

    Returns:
        Sizes, and what is guaranteed of each layer: quantised layers that are fed by spikes, and neurons behind them,
        give the same bits as in torch. Sums over real numbers (a first layer on raw input, a layer left in float) are
        not guaranteed, because a runtime may add in another order; see
        :class:`~snn_extreme_quant.layers.FixedPointInput` and :func:`~snn_extreme_quant.rate_encode`.

    Raises:
        UnsupportedNeuronError: a neuron has no exact spec.
        UnsupportedModelError: the forward pass cannot be recorded, has state outside its neurons, or (``integer``) has
            no integer form.
        NonFiniteWeightError: a weight is NaN or infinite.
        SampleError: the model does not accept the sample.
        OutputPathError: the file cannot be written.
        ExportError: the finished file is not valid.

    Example:
        >>> report = export_onnx(net, torch.zeros(8, 1, 784), "net.onnx")  # doctest: +SKIP
    """
    path = as_path(path)
    _check_words(calling, input, form)
    check_packing(ternary_packing)
    options = integer_options(integer)
    if isinstance(model, SpikeGPT):
        plain = form != "counts" and (input, calling) == ("real", "auto") and options in (None, IntegerOptions())
        return _export_gpt(model, path, form, ternary_packing, plain=plain, integer=options is not None)
    bert = bert_of(model)
    if bert is not None:
        from snn_extreme_quant.deploy.tokens.export import TokenOptions, export_tokens

        asked = TokenOptions(form, input, calling, ternary_packing, options is not None)
        return export_tokens(model, bert, sample, path, asked)
    if synchronous_neurons(model):
        from snn_extreme_quant.deploy.synchronous.export import Options, export_synchronous

        if options is not None:
            raise ExportError(
                "integer=True is for neurons that carry a potential from step to step; files of synchronous neurons"
                " (sxq.SynchronousIF) compute with integer counts already: export without it."
            )
        return export_synchronous(model, sample, path, Options(form, input, calling, ternary_packing))
    neurons = check_model(model)
    if form == "counts":
        raise ExportError(
            "form='counts' is for models of synchronous neurons (sxq.SynchronousIF), whose spikes depend on counts"
            f" alone; {type(model).__name__} has none. Use form='sequence'."
        )
    inputs = as_tensor(sample, "The sample")
    if input == "spikes" and not bool(((inputs == 0) | (inputs == 1)).all()):
        raise SampleError("The sample is not spikes (0 and 1), which input='spikes' promises.")
    request, recording, called = record(model, inputs, calling, neurons, spikes=input == "spikes")
    facts: dict[str, Any] = {"format": 1, "version": __version__, "calling": called.calling, "input": input}
    if ternary_packing != "2bit":
        facts["ternary_packing"] = ternary_packing
    facts["neurons"] = sorted(called.calls)
    streaming = streaming_step(model, request, recording) if form == "streaming" else None
    try:
        proto = _lowered(recording, request, facts, options, streaming)
    except ExportError as error:
        if streaming is not None or not neuron_calls(recording.recorded.graph.graph):
            raise
        # torch's exporter stumbles over something that folding brought in: as it was recorded, step by step.
        recording = record_stepwise(model, request, recording.recorded, str(error))
        proto = _lowered(recording, request, facts, options)
    return write_file(
        proto,
        path,
        calling=called.calling,
        time=recording.time if streaming is None else streaming.time,
        batch_norms={name: fold.layer for name, fold in recording.folds.items()},
    )


def _check_words(calling: str, input: str, form: str) -> None:
    if calling not in ("auto", "step", "sequence"):
        raise ExportError(f"calling={calling!r}: use 'auto', 'step' or 'sequence'.")
    if input not in ("real", "spikes"):
        raise ExportError(f"input={input!r}: use 'real' or 'spikes'.")
    if form not in ("sequence", "streaming", "counts"):
        raise ExportError(f"form={form!r}: use 'sequence', 'streaming' or 'counts'.")


def _export_gpt(
    model: SpikeGPT, path: Path, form: str, packing: TernaryPacking, *, plain: bool, integer: bool
) -> ExportReport:
    from snn_extreme_quant.deploy.language.export import export_gpt

    if not plain:
        raise ExportError(
            "A SpikeGPT has the forms 'sequence' and 'streaming', of whole texts and of single tokens; leave the other"
            " options out."
        )
    if integer and model.config.profile != "integer":
        raise ExportError(
            "integer=True: this SpikeGPT has profile='reference', which computes in floats on a grid. Load its weights"
            " into one with profile='integer', whose files hold integers: docs/spike_gpt.md, In whole numbers."
        )
    return export_gpt(model, path, form=cast("Any", form), ternary_packing=packing)


def write_file(
    proto: onnx.ModelProto, path: Path, *, calling: str, time: str, batch_norms: Mapping[str, str]
) -> ExportReport:
    """Seal a lowered model, write it, and return what the report says of it."""
    data = seal(proto)
    write_whole(path, data)
    return ExportReport(
        path=path,
        file_bytes=len(data),
        calling=calling,
        time=time,
        input_shape=tuple(d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim),
        batch_norms=batch_norms,
        layers=tuple(LayerReport(e["name"], e["op"], e["exact"], e["why"]) for e in layer_facts(proto)),
        fixed_point=tuple(FixedPointReport(**entry) for entry in file_facts(proto).get("fixed_point", ())),
        scales=tuple(ScaleReport(**entry) for entry in file_facts(proto).get("scales", ())),
    )


def as_path(path: object) -> Path:
    """Return where to write, if a file can be written there."""
    if not isinstance(path, (str, Path)):
        raise OutputPathError(f"The path is a {type(path).__name__}; give a str or a pathlib.Path.")
    path = Path(path)
    check_writable(path)
    return path


def _lowered(
    recording: Recording,
    request: Request,
    facts: Mapping[str, Any],
    options: IntegerOptions | None,
    streaming: Streaming | None = None,
) -> onnx.ModelProto:
    batch_norms = {name: fold.layer for name, fold in recording.folds.items()}
    whole = {**facts, "batch_norms": batch_norms, "time": recording.time}
    recorded = recording.recorded
    try:
        packing, promised = facts.get("ternary_packing", "2bit"), SPIKES if request.spikes else None
        graph = with_packing(recording.graph, packing)
        exactness = analyse(graph, promised)
        if options is not None and streaming is not None:
            proto = lower_integer_step(graph, recording, request, whole, options, streaming)
        elif options is not None:
            proto = lower_integer(graph, recording, request, whole, options)
        elif streaming is not None:
            exactness = streaming.exactness(exactness, promised)
            step, whole = streaming.step, {**whole, **streaming.facts}
            axes = {} if streaming.batch_axis is None else {streaming.batch_axis: "B"}
            graph = with_packing(step.graph, packing)
            proto = lower(graph, streaming.sample, exactness, recorded.names, axes, whole, step.states)
        else:
            proto = lower(graph, recorded.sample, exactness, recorded.names, recording.axes, whole)
        onnx.checker.check_model(proto, full_check=True)
    except (UnsupportedModelError, UnsupportedNeuronError):
        raise
    except Exception as error:
        raise lowering_error(error) from error
    return proto
