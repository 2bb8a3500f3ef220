"""Graphs that are the same but for attributes and constants: which constant of one is which of the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import NodeProto, TensorProto

from snn_extreme_quant.errors import ExportError

__all__ = ["align", "unlike"]


def unlike(steps: int) -> ExportError:
    """Return the error for a graph that is another one."""
    return ExportError(f"The graph for T = {steps} has other nodes or constants; a file of its own is needed.")


def align(models: Mapping[int, onnx.ModelProto], own: int, together: onnx.ModelProto) -> dict[int, dict[str, Any]]:
    """Give a graph constants of which each has one value in each of the others.

    An exporter stores equal constants once. Two that are equal at one T, and not at another, become two here.

    Args:
        models: by T.
        own: the T of ``together``.
        together: a copy of that model; its constants may become more.

    Returns:
        By T, the tensor that each constant of ``together`` is there.

    Raises:
        ExportError: the graphs have other nodes, or nodes that read other things.
    """
    alignment = _Alignment(models, own)
    functions = _functions(models[own])
    for steps, model in models.items():
        if len(model.graph.node) != len(together.graph.node) or _functions(model) != functions:
            raise unlike(steps)
    for place, node in enumerate(together.graph.node):
        alignment.node(node, {steps: model.graph.node[place] for steps, model in models.items()})
    for steps, model in models.items():
        if [alignment.called[steps].get(entry.name) for entry in model.graph.output] != [
            entry.name for entry in together.graph.output
        ]:
            raise unlike(steps)
    for name, tensor in alignment.values[own].items():
        if name not in alignment.constants[own]:
            added = together.graph.initializer.add()
            added.CopyFrom(tensor)
            added.name = name
    return alignment.values


def _functions(model: onnx.ModelProto) -> list[bytes]:
    return [function.SerializeToString(deterministic=True) for function in model.functions]


class _Alignment:
    """What is known after some nodes."""

    def __init__(self, models: Mapping[int, onnx.ModelProto], own: int) -> None:
        self.own = own
        self.constants = {
            steps: {tensor.name: tensor for tensor in model.graph.initializer} for steps, model in models.items()
        }
        #: By the name in a model what it is called in ours: of inputs, and of what nodes give.
        self.called = {
            steps: {entry.name: entry.name for entry in model.graph.input} for steps, model in models.items()
        }
        self.values: dict[int, dict[str, Any]] = {steps: {} for steps in models}
        self._names: dict[tuple[Any, ...], str] = {}
        self._taken: dict[str, int] = {}

    def node(self, mine: NodeProto, others: Mapping[int, NodeProto]) -> None:
        """Compare a node with those in its place."""
        for steps, other in others.items():
            if _kind(mine) != _kind(other):
                raise unlike(steps)
        for index, name in enumerate(list(mine.input)):
            theirs = {steps: other.input[index] for steps, other in others.items()}
            if name in self.constants[self.own]:
                mine.input[index] = self._constant(name, theirs)
            else:
                self._computed(name, theirs)
        for steps, other in others.items():
            self.called[steps].update(zip(other.output, mine.output, strict=True))

    def _computed(self, name: str, theirs: Mapping[int, str]) -> None:
        for steps, other in theirs.items():
            if (self.called[steps].get(other) if other else "") != name:
                raise unlike(steps)

    def _constant(self, name: str, theirs: Mapping[int, str]) -> str:
        """Return what a use of a constant is called: the same for the same values at every T."""
        found: dict[int, TensorProto] = {}
        for steps, other in theirs.items():
            if other not in self.constants[steps]:
                raise unlike(steps)
            found[steps] = self.constants[steps][other]
        key = (name, *((t.data_type, tuple(t.dims), t.raw_data) for _, t in sorted(found.items())))
        if key not in self._names:
            number = self._taken[name] = self._taken.get(name, -1) + 1
            self._names[key] = f"{name}@{number}" if number else name
            for steps, tensor in found.items():
                self.values[steps][self._names[key]] = tensor
        return self._names[key]


def _kind(node: NodeProto) -> tuple[Any, ...]:
    return node.op_type, node.domain, len(node.input), len(node.output)
