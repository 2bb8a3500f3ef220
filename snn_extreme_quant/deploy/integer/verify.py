"""What an integer file is verified against: the golden model, the integer graph in torch, and the float model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, fx, nn

from snn_extreme_quant.deploy.integer.check import IntegerSpikes
from snn_extreme_quant.deploy.integer.export import rewritten
from snn_extreme_quant.deploy.integer.golden import golden_run
from snn_extreme_quant.deploy.integer.options import IntegerOptions
from snn_extreme_quant.deploy.integer.streaming import spikes_by_step
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, is_integer_neuron
from snn_extreme_quant.deploy.lowering.repacking import with_packing
from snn_extreme_quant.deploy.recording.record import record
from snn_extreme_quant.deploy.recording.running import Run, run_model
from snn_extreme_quant.deploy.runtime.input_shape import axes_of
from snn_extreme_quant.deploy.runtime.stream import chained
from snn_extreme_quant.errors import ModelFileError, SxqError
from snn_extreme_quant.frameworks import NeuronInModel

__all__ = ["IntegerComparison", "IntegerReference", "answers", "relative_difference"]

Array = npt.NDArray[Any]
#: Outputs are decoded in float32: they agree to this part of their largest magnitude.
OUTPUT_TOLERANCE = 1e-5
#: So many steps show what each of them does.
_STEPS = 4


@dataclass
class IntegerComparison:
    """The golden model of an integer file against the integer graph in torch, and against the float model.

    The first two are the same computation and must agree in every spike. What differs from the float model is the cost
    of fixed point: a potential near its threshold may fall on the other side, and all that follows differs too.

    Args:
        torch_compared: values of neuron outputs compared with the integer graph in torch.
        torch_different: how many of them differ.
        compared: values of neuron outputs compared with the float model.
        different: how many of them differ.
        samples: how many samples were run, if the first output is ``(B, classes)`` or ``(T, B, classes)``.
        same_answer: for how many of them that output, summed over time, has its largest value in the same place.
        torch_output_difference: the largest difference of an output, decoded, from the integer graph in torch, in
            relation to that output's largest magnitude; infinite if only one of two values is NaN.
    """

    torch_compared: int = 0
    torch_different: int = 0
    compared: int = 0
    different: int = 0
    samples: int = 0
    same_answer: int = 0
    torch_output_difference: float = 0.0

    @property
    def same_outputs(self) -> bool:
        """Whether the integer graph in torch gives outputs that agree to 1e-5 of the largest.

        Spikes alone do not say that the file is of the model: readouts, amplitudes and units of states stand behind.
        """
        return self.torch_output_difference <= OUTPUT_TOLERANCE

    @property
    def agreement(self) -> float:
        """The share of neuron outputs that are those of the float model."""
        return 1 - self.different / max(1, self.compared)

    def __str__(self) -> str:
        """Say it in a sentence."""
        return (
            f"{self.torch_different} of {self.torch_compared} spikes differ between golden model and torch,"
            f" outputs by {self.torch_output_difference:.3g} of the largest; from the"
            f" float model {self.different} of {self.compared} differ, and the answer of"
            f" {self.samples - self.same_answer} of {self.samples} samples"
        )


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference in relation to the largest magnitude; values that are the same do not differ.

    Example:
        >>> relative_difference(torch.tensor([4.0, float("nan")]), torch.tensor([3.0, float("nan")]))
        0.25
    """
    a, b = ours.double(), theirs.double()
    apart = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs()).nan_to_num(math.inf, math.inf)
    if not bool((apart > 0).any()):
        return 0.0
    finite = torch.cat([a.flatten(), b.flatten()]).abs()
    finite = finite[finite.isfinite()]
    return float(apart.max()) / max(float(finite.max()) if finite.numel() else 0.0, 1e-300)


def answers(outputs: Sequence[Tensor]) -> Tensor:
    """Return the class of each sample, from a first output ``(B, classes)`` or ``(T, B, classes)``; else nothing."""
    output = outputs[0] if outputs else torch.zeros(0)
    output = output.to(torch.uint8) if output.dtype is torch.bool else output
    scores = output.sum(0) if output.dim() == 3 else output
    return scores.argmax(1) if scores.dim() == 2 else torch.zeros(0)


class IntegerReference:
    """Runs the golden model of an integer file, and compares it with torch.

    Args:
        proto: the file.
        facts: what it says of itself.
    """

    def __init__(self, proto: onnx.ModelProto, facts: Mapping[str, Any]) -> None:
        """Keep the file; the model is recorded with the first input."""
        self.proto = proto
        self.facts = facts
        self.streaming = facts.get("form") == "streaming"
        self.nodes: dict[str, list[onnx.NodeProto]] = {}
        for node in proto.graph.node:
            if node.domain == DOMAIN and is_integer_neuron(node.op_type):
                self.nodes.setdefault(node.name.rpartition("@")[0] or node.name, []).append(node)
        self.graphs: dict[int | None, fx.GraphModule] = {}

    def run(
        self, report: IntegerComparison, model: nn.Module, batch: Tensor, neurons: list[NeuronInModel]
    ) -> tuple[Run, dict[str, list[Tensor]]]:
        """Return what the golden model gives, in the form of a run of the model, and the spikes of the integer graph.

        Args:
            report: the comparison with torch is added to it.
            model: the trained model.
            batch: an input.
            neurons: those that the file has.
        """
        given, golden = self._streamed(batch) if self.streaming else self._golden(batch)
        outputs = [torch.from_numpy(np.array(o)) for o in given]
        trained = self._compare_with_torch(report, model, batch, neurons, golden, outputs)
        calls = {n.name: self._calls(n, golden[n.name]) for n in neurons}
        run = Run(outputs, {}, calls, {})
        self._compare_with_float(report, run_model(model, batch, self.facts["calling"], neurons), run, neurons)
        return run, {n.name: self._calls(n, trained[n.name]) for n in neurons}

    def _golden(self, batch: Tensor) -> tuple[list[Array], dict[str, list[Array]]]:
        """Return the outputs, and by layer the spikes of each of its nodes."""
        found = golden_run(self.proto, batch.numpy())
        spikes = {layer: [found.spikes[node.name] for node in group] for layer, group in self.nodes.items()}
        return list(found.outputs.values()), spikes

    def _streamed(self, batch: Tensor) -> tuple[list[Array], dict[str, list[Array]]]:
        """Return the same of all steps of a streaming file: a layer's spikes in the order of its calls, in one."""
        entry = self.proto.graph.input[0]
        axes = [size.dim_param for size in entry.type.tensor_type.shape.dim]
        nodes = [node.name for group in self.nodes.values() for node in group]

        def step(names: list[str], x: Array, state: dict[str, Array]) -> list[Array]:
            found = golden_run(self.proto, {entry.name: x, **state})
            return [found.spikes[n] if n in found.spikes else found.outputs[n] for n in names]

        outputs, steps = chained(step, self.facts, batch.numpy(), axes.index("B") if "B" in axes else None, nodes)
        by_node = dict(zip(nodes, steps, strict=True))
        rows = {layer: zip(*(by_node[n.name] for n in group), strict=True) for layer, group in self.nodes.items()}
        return outputs, {layer: [np.stack([value for row in each for value in row])] for layer, each in rows.items()}

    def _calls(self, neuron: NeuronInModel, given: list[Array]) -> list[Tensor]:
        """Return a layer's spikes by call of the model's neuron."""
        tensors = [torch.from_numpy(np.array(value)) for value in given]
        steps = self.nodes[neuron.name][0].op_type.startswith("Step") and not self.streaming
        single = len(tensors) == 1 and not steps
        return list(tensors[0]) if single and not neuron.read().multi_step else tensors

    def _compare_with_torch(
        self,
        report: IntegerComparison,
        model: nn.Module,
        batch: Tensor,
        neurons: list[NeuronInModel],
        golden: Mapping[str, list[Array]],
        outputs: Sequence[Tensor],
    ) -> dict[str, list[Array]]:
        """Compare, and return the spikes of the integer graph in torch, by layer as the golden model's."""
        trained: dict[str, list[Array]] = {}
        interpreter = IntegerSpikes(self._graph(model, batch))
        with torch.no_grad():
            decoded = interpreter.run(batch)
        for neuron in neurons:
            ours, theirs = interpreter.given.get(neuron.name, []), golden[neuron.name]
            if self.streaming and ours:
                # What chained steps must give. An unrolled graph leaves out a last call whose spikes nothing reads.
                ours = [torch.stack(spikes_by_step(ours, theirs[0].ndim - 1))]
                theirs = [theirs[0][: len(ours[0])]]
            if [tuple(a.shape) for a in ours] != [b.shape for b in theirs]:
                raise ModelFileError(
                    f"The file is of another model: layer {neuron.name!r} gives {[b.shape for b in theirs]}, the model"
                    f" {[tuple(a.shape) for a in ours]}."
                )
            trained[neuron.name] = [a.numpy() for a in ours]
            for a, b in zip(trained[neuron.name], theirs, strict=True):
                report.torch_compared += b.size
                report.torch_different += int((a != b).sum())
        self._compare_outputs(report, decoded, outputs)
        return trained

    @staticmethod
    def _compare_outputs(report: IntegerComparison, decoded: Any, outputs: Sequence[Tensor]) -> None:
        """Compare what the file decodes with what the model's own integer graph decodes."""
        theirs = [decoded] if isinstance(decoded, Tensor) else [value for value in decoded if value is not None]
        if [tuple(a.shape) for a in theirs] != [tuple(b.shape) for b in outputs]:
            raise ModelFileError(
                f"The file is of another model: its outputs have the shapes {[tuple(b.shape) for b in outputs]}, the"
                f" model's {[tuple(a.shape) for a in theirs]}."
            )
        for a, b in zip(theirs, outputs, strict=True):
            report.torch_output_difference = max(report.torch_output_difference, relative_difference(a, b))

    def _graph(self, model: nn.Module, batch: Tensor) -> fx.GraphModule:
        """Return the integer graph of the model for so many steps, made as the exporter makes it."""
        axis = self.facts["time_axis"] if self.streaming else None
        steps = None if axis is None else batch.shape[axis]
        known = self.graphs.get(None) or self.graphs.get(steps)
        if known is None:
            longer = self._longer(batch)
            recorded, free = self._recorded(model, longer)
            if not free and longer is not batch:
                recorded, free = self._recorded(model, batch)
            known = self.graphs[None if free or axis is None else steps] = recorded
        return known

    def _longer(self, batch: Tensor) -> Tensor:
        """Return an input with steps enough to record a loop that reads earlier steps, where steps are free."""
        axes = axes_of(self.proto.graph.input[0], self.facts)
        times = [_STEPS if a == "T" and n < _STEPS else 1 for a, n in zip(axes, batch.shape, strict=True)]
        return batch.repeat(times) if max(times) > 1 else batch

    def _recorded(self, model: nn.Module, batch: Tensor) -> tuple[fx.GraphModule, bool]:
        """Return an integer graph, and whether it takes any number of steps."""
        from snn_extreme_quant.deploy.export import check_model

        facts = self.facts
        try:
            request, recording, _ = record(
                model, batch, facts["calling"], check_model(model), spikes=facts["input"] == "spikes"
            )
            graph = with_packing(recording.graph, facts.get("ternary_packing", "2bit"))
            options = IntegerOptions(facts["decay_bits"], facts["max_steps"])
            return rewritten(graph, recording, request, options).graph, "T" in recording.axes.values()
        except SxqError as error:
            raise ModelFileError(
                f"The model has no integer form any more, so the file is not of it: {error}"
            ) from error

    def _compare_with_float(
        self, report: IntegerComparison, own: Run, golden: Run, neurons: list[NeuronInModel]
    ) -> None:
        for neuron in neurons:
            reading = neuron.read()
            amplitude = float(reading.parameters["amplitude"].flatten()[0]) if reading.spec.graded else 1.0
            # An unrolled file leaves out a last call whose spikes nothing reads.
            for theirs, ours in zip(own.spikes[neuron.name], golden.spikes[neuron.name], strict=False):
                report.compared += theirs.numel()
                report.different += int((theirs != ours.to(theirs.dtype) * amplitude).sum())
        before, after = answers(own.outputs), answers(golden.outputs)
        report.samples += before.numel()
        report.same_answer += int((before == after).sum())
