"""Checks that a recorded graph is the model it was recorded from.

Recording and folding assume things about a model (samples do not mix, steps are alike). This check assumes nothing:
it runs both, also on other numbers of steps and samples than were recorded, and compares what every neuron receives.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from snn_extreme_quant.frameworks import NeuronInModel

from .running import first_line, run_model

__all__ = ["StructureError", "check_structure", "probing_inputs"]

_STEP = torch.ops.snn_xq.neuron_step.default
_SEQUENCE = torch.ops.snn_xq.neuron_sequence.default
#: Float sums may round differently for another batch size and flip a rare spike; a wrong structure changes far more.
_TOLERANCE = 1e-3
_ALLOWED = 0.02


class StructureError(Exception):
    """Graph and model compute different things; the message says where."""


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what each neuron layer receives."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.currents: dict[str, list[Tensor]] = {}

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in (_STEP, _SEQUENCE):
            self.currents.setdefault(args[4], []).append(args[0])
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
    exact: Container[str],
) -> None:
    """Compare graph and model on ``inputs``: to the bit what the neurons named in ``exact`` receive.

    Raises:
        StructureError: they compute different things.
        SampleError: the model does not accept ``inputs``.
    """
    run = run_model(model, inputs, calling, neurons)
    recorder = _Recorder(graph)
    try:
        with torch.no_grad():
            outputs = [v for v in recorder.run(inputs) if isinstance(v, Tensor)]
    except Exception as error:
        raise StructureError(f"the graph does not take shape {tuple(inputs.shape)}: {first_line(error)}") from error
    for neuron in neurons:
        calls = recorder.currents.get(neuron.name, [])
        if not run.currents[neuron.name]:
            continue
        if not calls:
            raise StructureError(f"neuron {neuron.name!r} is missing")
        expected = run.sequence(run.currents, neuron)
        ours = calls[0] if len(calls) == 1 and calls[0].dim() == expected.dim() else torch.stack(calls)
        # A call whose spikes nothing reads is not in the graph; it can only be a layer's last.
        _compare(ours, expected[: len(ours)] if len(calls) > 1 else expected, neuron.name, neuron.name in exact)
    if len(outputs) != len(run.outputs):
        raise StructureError(f"the graph gives {len(outputs)} outputs, the model {len(run.outputs)}")
    for index, (ours, theirs) in enumerate(zip(outputs, run.outputs, strict=True)):
        _compare(ours, theirs, f"output {index}", exact=False)


def _compare(ours: Tensor, theirs: Tensor, where: str, exact: bool) -> None:
    if ours.shape != theirs.shape:
        raise StructureError(f"{where!r} has shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}")
    if not ours.numel():
        return
    difference = ours != theirs
    if not exact:
        difference &= (ours.double() - theirs.double()).abs() > _TOLERANCE * (1 + theirs.double().abs())
    wrong = difference.double().mean().item()
    if wrong > (0 if exact else _ALLOWED):
        raise StructureError(f"{where!r} differs in {wrong:.2%} of its values")
