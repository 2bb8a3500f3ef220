"""Checks that a recorded graph is the model it was recorded from.

Recording and folding assume things about a model (samples do not mix, steps are alike). This check assumes nothing:
it runs both, also on other numbers of steps and samples than were recorded, and compares what every neuron receives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from snn_extreme_quant.frameworks import NeuronInModel

from .running import first_line, run_model

__all__ = ["StructureError", "check_structure", "other_sizes"]

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


def other_sizes(sample: Tensor, axes: list[int]) -> list[Tensor]:
    """Return inputs with the elements of ``sample`` in random order: of its own shape, and one longer in ``axes``."""
    generator = torch.Generator().manual_seed(0)
    shapes = [list(sample.shape)]
    if axes:
        shapes.append([n + (axis in axes) for axis, n in enumerate(sample.shape)])
    flat = sample.flatten()
    result = []
    for shape in shapes:
        count = int(torch.Size(shape).numel())
        result.append(flat[torch.randint(flat.numel(), (count,), generator=generator)].reshape(shape))
    return result


def check_structure(
    graph: fx.GraphModule, model: nn.Module, inputs: Tensor, calling: str, neurons: list[NeuronInModel]
) -> None:
    """Compare graph and model on ``inputs``.

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
        _compare(
            calls[0] if len(calls) == 1 and calls[0].dim() == expected.dim() else torch.stack(calls),
            expected,
            neuron.name,
        )
    if len(outputs) != len(run.outputs):
        raise StructureError(f"the graph gives {len(outputs)} outputs, the model {len(run.outputs)}")
    for index, (ours, theirs) in enumerate(zip(outputs, run.outputs, strict=True)):
        _compare(ours, theirs, f"output {index}")


def _compare(ours: Tensor, theirs: Tensor, where: str) -> None:
    if ours.shape != theirs.shape:
        raise StructureError(f"{where!r} has shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}")
    if not ours.numel():
        return
    difference = (ours.double() - theirs.double()).abs() > _TOLERANCE * (1 + theirs.double().abs())
    if difference.double().mean() > _ALLOWED:
        raise StructureError(f"{where!r} differs in {difference.double().mean():.0%} of its values")
