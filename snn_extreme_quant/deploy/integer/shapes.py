"""Shapes of a recorded graph's values, and which of their axes are open: those that are as long as the input says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from snn_extreme_quant.deploy.streaming.graph import State

__all__ = ["Shapes", "shapes_of"]

#: Lengths that no product of a model's own numbers is likely to be told apart by.
_LENGTHS = {"closed": {"T": 1, "B": 1}, "whole": {"T": 3, "B": 2}, "T": {"T": 5, "B": 2}, "B": {"T": 3, "B": 7}}


@dataclass(frozen=True)
class Shapes:
    """The shapes of each value.

    Args:
        closed: where the open axes of the input have length 1.
        whole: with 3 steps of 2 samples.
        open_axes: by axis, what its length depends on: ``"T"``, ``"B"`` or ``"TB"``.
    """

    closed: Mapping[fx.Node, tuple[int, ...]]
    whole: Mapping[fx.Node, tuple[int, ...]]
    open_axes: Mapping[fx.Node, dict[int, str]]


class _Sizes(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.sizes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.sizes[n] = tuple(int(size) for size in result.shape)
        return result


def shapes_of(module: fx.GraphModule, sample: Tensor, axes: Mapping[int, str], states: Sequence[State] = ()) -> Shapes:
    """Return the shapes of all values of a graph, computed without computing the values.

    Args:
        module: a recorded graph.
        sample: the input it was recorded with.
        axes: names of the input's open axes.
        states: what a graph of one step takes besides.
    """
    found = {}
    for name, lengths in _LENGTHS.items():
        shape = [lengths[axes[axis]] if axis in axes else size for axis, size in enumerate(sample.shape)]
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            sizes = _Sizes(module)
            sizes.run(torch.zeros(shape, dtype=sample.dtype), *(state.start(lengths["B"]) for state in states))
        found[name] = sizes.sizes
    open_axes = {}
    for node, whole in found["whole"].items():
        names = {
            axis: "".join(name for name in ("T", "B") if found[name][node][axis] != size)
            for axis, size in enumerate(whole)
        }
        open_axes[node] = {axis: name for axis, name in names.items() if name}
    return Shapes(found["closed"], found["whole"], open_axes)
