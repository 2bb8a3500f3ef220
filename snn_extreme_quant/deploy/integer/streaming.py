"""From one step of a model to an integer file of that step: the sequence file's neurons, with states in integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import onnx
import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.integer.check import IntegerSpikes, check_integer_run
from snn_extreme_quant.deploy.integer.export import integer_exactness, integer_facts, layer_magnitudes, rewritten
from snn_extreme_quant.deploy.integer.graph import IntegerGraph
from snn_extreme_quant.deploy.integer.integers_only import check_integers_only
from snn_extreme_quant.deploy.integer.neurons import NeuronCalls
from snn_extreme_quant.deploy.integer.options import IntegerOptions
from snn_extreme_quant.deploy.integer.rewriting import Rewriter
from snn_extreme_quant.deploy.integer.shapes import shapes_of
from snn_extreme_quant.deploy.integer.states import StateForm, StepStates
from snn_extreme_quant.deploy.lowering.model import lower
from snn_extreme_quant.deploy.lowering.repacking import TernaryPacking, with_packing
from snn_extreme_quant.deploy.recording.record import Recording, Request
from snn_extreme_quant.deploy.recording.structure import probing_inputs
from snn_extreme_quant.deploy.streaming.export import Streaming
from snn_extreme_quant.deploy.streaming.graph import State, StepGraph
from snn_extreme_quant.errors import ExportError, UnsupportedModelError

__all__ = ["IntegerStep", "integer_step", "lower_integer_step", "spikes_by_step"]

_STEPS = 5


@dataclass(frozen=True)
class IntegerStep:
    """One step in integers.

    Args:
        integer: its graph, and what it was made from.
        states: what is carried, in integers.
        forms: what these stand for.
        most_steps: for how many steps its sums are proved; None for any number.
    """

    integer: IntegerGraph
    states: tuple[State, ...]
    forms: Sequence[StateForm]
    most_steps: int | None


def integer_step(
    streaming: Streaming, step: StepGraph, sequence: IntegerGraph, *, spikes: bool, options: IntegerOptions
) -> IntegerStep:
    """Rewrite a step to integers, with the neurons of the integer sequence.

    Args:
        streaming: the step in float.
        step: its graph, as its codes are to be packed.
        sequence: the integer graph of all steps.
        spikes: whether the input is promised to be spikes.
        options: what may be chosen.

    Raises:
        UnsupportedModelError: a state has no integer form, or a layer reads more than the sequence's numbers allow.
    """
    axes = {} if streaming.batch_axis is None else {streaming.batch_axis: "B"}
    shapes = shapes_of(step.graph, streaming.sample, axes, step.states)
    steps = step.steps or options.max_steps
    states = StepStates(step, shapes, sequence.neurons, spikes=spikes, max_steps=steps)
    writer = Rewriter(step.graph, shapes, spikes=spikes, max_steps=steps, folded=sequence.neurons, states=states)
    graph = writer.run()
    for layer, calls in writer.calls.items():
        _check_feed(layer, calls, sequence.fed[layer])
    integer = IntegerGraph(graph, sequence.neurons, writer.inputs, writer.neurons, writer.calls, writer.rounding)
    return IntegerStep(integer, states.states, states.forms, states.most_steps)


def _check_feed(layer: str, step: NeuronCalls, sequence: NeuronCalls) -> None:
    """Refuse a neuron layer that is fed otherwise in a step: its constants are those of the sequence."""
    same = len(step.scales) == len(sequence.scales) and torch.equal(step.offset, sequence.offset)
    if not same or not all(torch.equal(a, b) for a, b in zip(step.scales, sequence.scales, strict=True)):
        raise UnsupportedModelError(
            f"Neuron layer {layer!r} is fed by other integers in a single step than in the sequence, so its constants"
            " would differ; export the sequence (form='sequence'), or without integer=True."
        )
    lower = any(bool((a < b).any()) for a, b in zip(step.lows, sequence.lows, strict=True))
    higher = any(bool((a > b).any()) for a, b in zip(step.highs, sequence.highs, strict=True))
    if lower or higher:
        raise UnsupportedModelError(
            f"Neuron layer {layer!r} may be fed more in a later step than in the steps for which its fixed-point form"
            " was proved, because what it reads grows from step to step; export the sequence (form='sequence'), or"
            " without integer=True."
        )


def lower_integer_step(
    graph: fx.GraphModule,
    recording: Recording,
    request: Request,
    facts: Mapping[str, Any],
    options: IntegerOptions,
    streaming: Streaming,
) -> onnx.ModelProto:
    """Return the integer file of one step.

    Args:
        graph: the recording's graph, as its codes are to be packed.
        recording: what was recorded.
        request: what was asked for.
        facts: of the file.
        options: what may be chosen.
        streaming: the step in float.

    Raises:
        UnsupportedModelError: it has no integer form.
        UnsupportedNeuronError: a neuron has none.
        ExportError: chained steps are not the sequence, or the file would compute in float between integers.
    """
    packing: TernaryPacking = facts.get("ternary_packing", "2bit")
    step = replace(streaming.step, graph=with_packing(streaming.step.graph, packing))
    sequence = rewritten(graph, recording, request, options)
    found = integer_step(streaming, step, sequence, spikes=request.spikes, options=options)
    _check(step, found, sequence, recording, request)
    whole = {**facts, **streaming.facts, "states": [state.facts for state in found.states]}
    whole |= {"integer": True, "fixed_point": integer_facts(sequence), **asdict(options)}
    if found.most_steps is not None:
        whole["most_steps"] = found.most_steps
    proto = lower(
        found.integer.graph,
        streaming.sample,
        integer_exactness(found.integer),
        recording.recorded.names,
        {} if streaming.batch_axis is None else {streaming.batch_axis: "B"},
        whole,
        found.states,
        layer_magnitudes(found.integer),
    )
    check_integers_only(proto)
    return proto


def _check(step: StepGraph, found: IntegerStep, sequence: IntegerGraph, recording: Recording, request: Request) -> None:
    """Chain integer steps, and compare each with the float step and all with the integer sequence."""
    shape, axes = list(recording.recorded.sample.shape), recording.axes
    for axis, name in axes.items():
        shape[axis] = {"T": _STEPS, "B": 2}[name]
    (inputs,) = probing_inputs(request.sample, [shape], request.spikes)
    batch = next((axis for axis, name in axes.items() if name == "B"), None)
    samples = 1 if batch is None else shape[batch]
    states = [state.start(samples) for state in found.states]
    spikes: dict[str, list[Tensor]] = {}
    for t in range(step.length(inputs)):
        x = step.input_of(inputs, t)
        floats = [
            state.start(samples) if not t else form.decoded(own, t).float()
            for own, form, state in zip(states, found.forms, step.states, strict=False)  # steps may be counted besides
        ]
        decode = [partial(form.decoded, steps=t + 1) for form in found.forms]
        given, fired = check_integer_run(step.graph, found.integer, [x, *states], [x, *floats], decode)
        states = given[len(step.outputs) :]
        for layer, calls in fired.items():
            spikes.setdefault(layer, []).extend(calls)
    whole = IntegerSpikes(sequence.graph)
    with torch.no_grad():
        whole.run(inputs)
    for layer, steps in spikes.items():
        theirs = spikes_by_step(whole.given.get(layer, []), steps[0].dim())
        # An unrolled sequence leaves out a last call whose spikes nothing reads.
        if not theirs or any(not torch.equal(a, b) for a, b in zip(steps, theirs, strict=False)):
            raise ExportError(
                f"Integer steps do not give layer {layer!r} the spikes of the integer sequence: this is an error of"
                " snn_extreme_quant, please report it with the model; export with form='sequence'."
            )


def spikes_by_step(calls: Sequence[Tensor], rank: int) -> list[Tensor]:
    """Return a layer's spikes by step, and of each step by call.

    Args:
        calls: those of a graph: of single steps in their order, or of whole sequences.
        rank: the number of axes of a step's spikes.
    """
    if all(call.dim() == rank for call in calls):
        return list(calls)
    return [row for rows in zip(*calls, strict=True) for row in rows]
