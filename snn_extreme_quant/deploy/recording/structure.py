"""Checks that a recorded graph is the model it was recorded from.

Recording and folding assume things about a model (samples do not mix, steps are alike). This check assumes nothing:
it runs both, also on other numbers of steps and samples than were recorded, and compares what every neuron receives.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from snn_extreme_quant.deploy.recording.graphs import NEURONS, SEQUENCE, STEP
from snn_extreme_quant.deploy.recording.running import Interference, first_line, run_model
from snn_extreme_quant.frameworks import NeuronInModel

__all__ = ["StructureError", "check_structure", "compare", "probing_inputs"]

#: Float sums are rounded in another order for another batch size; a wrong structure changes far more. Relative to the
#: largest value.
_TOLERANCE = 1e-4


class StructureError(Exception):
    """Graph and model compute different things; the message says where."""


class _Excitation:
    """Random spikes and states in place of what neurons give, the same for graph and model.

    A layer that happens not to fire would hide all that is behind it, and one flipped spike would spread; with every
    neuron's output given, each stretch between neurons is compared by itself and to rounding.
    """

    def __init__(self, neurons: list[NeuronInModel]) -> None:
        self.readings = {n.name: n.read() for n in neurons}
        self.modules = {n.name: n.module for n in neurons}
        self.calls = dict.fromkeys(self.readings, 0)
        self.potentials: dict[str, Tensor] = {}
        self.whole: dict[str, dict[str, Tensor]] = {}
        self.steps_given: dict[str, int] = {}

    def _draw(self, name: str, shape: Sequence[int]) -> dict[str, Tensor]:
        """Return what a layer's next call gives: spikes ``s`` and all states."""
        self.calls[name] += 1
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name}@{self.calls[name]}".encode()))
        size = tuple(shape)
        drawn = {"s": (torch.rand(size, generator=generator) < 0.5).float()}
        for state in self.readings[name].spec.outputs[1:]:
            drawn[state] = torch.randn(size, generator=generator)
        before = self.potentials.get(name)
        drawn["v_before"] = torch.zeros(size) if before is None or before.shape != drawn["v"].shape else before
        self.potentials[name] = drawn["v"]
        return drawn

    def in_graph(self, name: str, shape: Sequence[int], steps: bool, of: int = 0) -> list[Tensor]:
        """Return the outputs of an operator; for a sequence of a step neuron those of its T calls, stacked.

        ``of``: the operator is a step of a neuron that makes so many in a call.
        """
        reading = self.readings[name]
        if of:
            taken = self.steps_given[name] = self.steps_given.get(name, -1) + 1
            if not taken % of:
                self.whole[name] = self._draw(name, (of, *shape))
            return [self.whole[name][output][taken % of] for output in reading.spec.outputs]
        draws = [self._draw(name, shape[1:]) for _ in range(shape[0])] if steps else [self._draw(name, shape)]
        outputs = [[drawn[output] for drawn in draws] for output in reading.spec.outputs]
        return [torch.stack(values) if steps else values[0] for values in outputs]

    def in_model(self, name: str, output: Any) -> Any:
        """Replace what a neuron of the model gives."""
        reading = self.readings[name]
        value = output[0] if isinstance(output, tuple) else output
        drawn = self._draw(name, value.shape)
        steps = reading.multi_step
        for state, attribute in reading.attributes.items():
            seen = drawn["v"] if state == "v_sequence" else drawn[state]
            setattr(self.modules[name], attribute, seen[-1] if steps and state != "v_sequence" else seen)
        if not isinstance(output, tuple):
            return drawn["s"]
        states = tuple(drawn[state] for state in reading.returned)
        return (drawn["s"], states) if reading.grouped else (drawn["s"], *states)


class _Drive:
    """Random currents in place of what neurons receive, the same for graph and model, strong enough to make them fire.

    With every neuron's input given, the neurons themselves are compared: what they do with currents and states.
    """

    def __init__(self, neurons: list[NeuronInModel]) -> None:
        self.readings = {n.name: n.read() for n in neurons}
        self.calls = dict.fromkeys(self.readings, 0)
        self.whole: dict[str, Tensor] = {}
        self.steps_given: dict[str, int] = {}

    def _draw(self, name: str, shape: Sequence[int]) -> Tensor:
        self.calls[name] += 1
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name}<{self.calls[name]}".encode()))
        thresholds = self.readings[name].parameters["threshold"].abs()
        finite = thresholds[thresholds.isfinite()]
        threshold = finite.mean() if finite.numel() else torch.ones(())
        return (torch.randn(tuple(shape), generator=generator) + 0.3) * threshold

    def in_model(self, name: str, current: Tensor) -> Tensor:
        """Return what a neuron of the model receives instead."""
        return self._draw(name, current.shape)

    def in_graph(self, name: str, shape: Sequence[int], steps: bool, of: int = 0) -> Tensor:
        """Return what an operator receives instead; ``steps`` and ``of`` as for :class:`_Excitation`."""
        if of:
            taken = self.steps_given[name] = self.steps_given.get(name, -1) + 1
            if not taken % of:
                self.whole[name] = self._draw(name, (of, *shape))
            return self.whole[name][taken % of]
        return torch.stack([self._draw(name, shape[1:]) for _ in range(shape[0])]) if steps else self._draw(name, shape)


class _DrivenGraph(fx.Interpreter):
    """Runs a graph with driven neurons and keeps what they give, one entry a call of the model."""

    def __init__(self, module: fx.GraphModule, drive: _Drive, length: int) -> None:
        super().__init__(module)
        self.drive, self.length = drive, length
        self.given: dict[str, list[dict[str, Tensor]]] = {}

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target not in NEURONS:
            return super().call_function(target, args, kwargs)
        name, current = args[-1], args[0]
        reading = self.drive.readings[name]
        steps = target is SEQUENCE and not reading.multi_step
        of = self.length if target is STEP and reading.multi_step else 0
        given = self.drive.in_graph(name, current.shape, steps, of)
        outputs = super().call_function(target, (given, *args[1:]), kwargs)
        named = dict(zip(reading.spec.outputs, outputs, strict=True))
        calls = self.given.setdefault(name, [])
        if steps:
            calls += [{k: v[t] for k, v in named.items()} for t in range(current.shape[0])]
        elif of:
            calls.append(named)
            if len(calls) == of:  # the steps of one call of the model
                stacked = {k: torch.stack([c[k] for c in calls]) for k in named}
                self.given[name] = [{**named, "s": stacked["s"], "v_sequence": stacked["v"]}]
        elif reading.multi_step:
            last = {k: v[-1] for k, v in named.items()} if current.shape[0] else {}
            calls.append({**last, "s": named["s"], "v_sequence": named["v"]})
        else:
            calls.append(named)
        return outputs


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what each neuron layer receives."""

    def __init__(self, module: fx.GraphModule, excitation: _Excitation, length: int) -> None:
        super().__init__(module)
        self.currents: dict[str, list[Tensor]] = {}
        self.excitation, self.length = excitation, length

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in NEURONS:
            name, current = args[-1], args[0]
            self.currents.setdefault(name, []).append(current)
            multi_step = self.excitation.readings[name].multi_step
            of = self.length if target is STEP and multi_step else 0
            return self.excitation.in_graph(name, current.shape, target is SEQUENCE and not multi_step, of)
        return super().call_function(target, args, kwargs)


def probing_inputs(sample: Tensor, shapes: Iterable[Sequence[int]], spikes: bool) -> list[Tensor]:
    """Return an input of each shape that shows what a sample may hide (an all-zero one hides everything).

    Spikes if the model is promised spikes; else numbers of the sample's type, evenly spread over its range.
    """
    generator = torch.Generator().manual_seed(0)
    low, high = float(sample.min()), float(sample.max())
    if low == high:
        low, high = (low, low + 1) if sample.is_floating_point() else (low, low)
    inputs = []
    for shape in shapes:
        noise = torch.rand(tuple(shape), generator=generator)
        if spikes:
            values = (noise < 0.5).float()
        elif sample.is_floating_point():
            values = low + (high - low) * noise
        else:
            values = low + (noise * (high - low + 1)).floor()
        inputs.append(values.to(sample.dtype))
    return inputs


def check_structure(
    graph: fx.GraphModule,
    model: nn.Module,
    inputs: Tensor,
    calling: str,
    neurons: list[NeuronInModel],
    length: int = 0,
) -> None:
    """Compare graph and model on ``inputs``: what every neuron receives, and the outputs, with neurons excited.

    Args:
        graph: takes what the model takes.
        model: the model.
        inputs: an input of it.
        calling: ``"step"`` or ``"sequence"``.
        neurons: the model's neurons.
        length: how many single steps the graph makes where a multi-step neuron of the model is called once.

    Raises:
        StructureError: they compute different things.
        SampleError: the model does not accept ``inputs``.
    """
    _check_neurons(graph, model, inputs, calling, neurons, length)
    run = run_model(model, inputs, calling, neurons, Interference(output=_Excitation(neurons).in_model))
    recorder = _Recorder(graph, _Excitation(neurons), length)
    try:
        with torch.no_grad():
            outputs = [v for v in recorder.run(inputs) if isinstance(v, Tensor)]
    except Exception as error:
        raise StructureError(f"the graph does not take shape {tuple(inputs.shape)}: {first_line(error)}") from error
    for neuron in neurons:
        expected = run.currents[neuron.name]
        calls = recorder.currents.get(neuron.name, [])
        if not neuron.read().multi_step and len(calls) == 1 and calls[0].dim() > expected[0].dim():
            calls = list(calls[0])  # one call on a folded sequence
        elif neuron.read().multi_step and 0 < len(calls) == length and calls[0].dim() < expected[0].dim():
            calls = [torch.stack(calls)]
        # A call whose spikes nothing reads is not in the graph; it can only be a layer's last.
        for ours, theirs in zip(calls, expected, strict=False):
            compare(ours, theirs, neuron.name)
        if len(calls) > len(expected):
            raise StructureError(f"neuron {neuron.name!r} is called {len(calls)} times instead of {len(expected)}")
    if len(outputs) != len(run.outputs):
        raise StructureError(f"the graph gives {len(outputs)} outputs, the model {len(run.outputs)}")
    for index, (ours, theirs) in enumerate(zip(outputs, run.outputs, strict=True)):
        compare(ours, theirs, f"output {index}")


def _check_neurons(
    graph: fx.GraphModule,
    model: nn.Module,
    inputs: Tensor,
    calling: str,
    neurons: list[NeuronInModel],
    length: int,
) -> None:
    """Compare what the neurons of graph and model give for the same currents, bit for bit."""
    run = run_model(model, inputs, calling, neurons, Interference(currents=_Drive(neurons).in_model))
    driven = _DrivenGraph(graph, _Drive(neurons), length)
    try:
        with torch.no_grad():
            driven.run(inputs)
    except Exception as error:
        raise StructureError(f"the graph does not take shape {tuple(inputs.shape)}: {first_line(error)}") from error
    for neuron in neurons:
        # A recurrent layer that is fed real numbers adds them in an order that is not fixed.
        rounded = neuron.read().spec.feedback in ("linear", "conv")
        calls = zip(driven.given.get(neuron.name, []), run.spikes[neuron.name], run.states[neuron.name], strict=False)
        for call, (ours, spikes, states) in enumerate(calls):
            for name, theirs in (("s", spikes), *states.items()):
                if name not in ours or (rounded and name == "s"):
                    continue
                if not (_close(ours[name], theirs) if rounded else torch.equal(ours[name], theirs)):
                    what = "spikes" if name == "s" else f"state {name!r}"
                    raise StructureError(
                        f"the {what} of neuron {neuron.name!r} after call {call} are not those of its equations, as if"
                        " its state or its options were changed other than through its call"
                    )


def compare(ours: Tensor, theirs: Tensor, where: str) -> None:
    """Raise :class:`StructureError` if two tensors are not the same to rounding."""
    if ours.shape != theirs.shape:
        raise StructureError(f"{where!r} has shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}")
    if not ours.numel():
        return
    close = _closeness(ours, theirs)
    if not bool(close.all()):
        raise StructureError(f"{where!r} differs in {1 - close.double().mean().item():.2%} of its values")


def _closeness(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return where two tensors are the same to rounding."""
    ours, theirs = ours.double(), theirs.double()
    both_nan = ours.isnan() & theirs.isnan()
    scale = theirs[theirs.isfinite()].abs().max() if bool(theirs.isfinite().any()) else torch.zeros(())
    return (ours == theirs) | both_nan | ((ours - theirs).abs() <= _TOLERANCE * scale)


def _close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and bool(_closeness(ours, theirs).all())
