"""Records what a model computes as a graph of torch operators, with its neurons and quantised layers kept whole.

The model's own ``forward`` runs once under ``torch.export`` while its neurons and quantised layers are replaced, on
the instance and for that time only, by calls of the deployment operators. State left in the neurons from earlier runs
cannot enter: the recorded neurons start from their reset value.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from snn_extreme_quant.errors import ExportError, SxqError, UnsupportedModelError
from snn_extreme_quant.frameworks import neurons_of

from .running import StepLoop, evaluating, first_line
from .substitution import substituted

__all__ = ["Capture", "capture", "quiet_torch"]


@dataclass(frozen=True)
class Capture:
    """A recorded model.

    Args:
        graph: torch operators and operators of ``snn_xq``; one placeholder for each dimension-checked input.
        sample: the input it was recorded with.
        calling: as in :class:`Probe`.
        names: name of each output, from the structure the model returns.
        shortened: it was recorded with fewer steps than the user's sample has.
    """

    graph: fx.GraphModule
    sample: Tensor
    calling: str
    names: tuple[str, ...]
    shortened: bool = False


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Keep torch's exporter from logging what a user cannot act on; our own errors say what matters."""
    loggers = [
        logging.getLogger(name)
        for name in (
            "torch.export",
            "torch._export",
            "torch._dynamo",
            "torch.fx",
            "torch.onnx",
            "onnxscript",
        )
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _trace(module: nn.Module, sample: Tensor) -> fx.GraphModule:
    """Run ``torch.export``; return the graph, free of mutation.

    The first two axes (time and batch, in either order) are left open where the model leaves them open.
    """
    free = dict.fromkeys(range(min(2, sample.dim())), torch.export.Dim.AUTO)
    with quiet_torch(), torch.no_grad():
        program = torch.export.export(module, (sample,), dynamic_shapes=(free,), strict=False)
        if any(_mutates(node) for node in program.graph.nodes):
            program = program.run_decompositions({})
        graph = program.module(check_guards=False)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _output_names(outputs: Any) -> tuple[str, ...]:
    leaves = pytree.tree_flatten_with_path(outputs)[0]
    if len(leaves) == 1:
        return ("output",)
    names = []
    for path, _ in leaves:
        text = "_".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)
        names.append(f"output_{text}")
    return tuple(names)


def capture(model: nn.Module, sample: Tensor, calling: str) -> Capture:
    """Record ``model`` on ``sample``.

    Args:
        model: in any mode and state; it is left as it was.
        sample: ``(T, B, ...)`` for a step model, else what the model takes.
        calling: ``"step"`` or ``"sequence"``.

    Raises:
        UnsupportedNeuronError: a neuron has no exact spec.
        UnsupportedModelError: the forward pass cannot be recorded.
    """
    neurons = neurons_of(model)
    wrapped = StepLoop(model) if calling == "step" else model
    names: list[tuple[str, ...]] = []

    class _Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = wrapped

        def forward(self, x: Tensor) -> Any:
            outputs = self.inner(x)
            names.append(_output_names(outputs))
            return tuple(v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor))

    with evaluating(model, neurons), substituted(model, neurons):
        try:
            graph = _trace(_Named(), sample.detach().cpu())
        except SxqError:
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"The forward pass of {type(model).__name__} cannot be recorded: {first_line(error)}. Data-dependent"
                " control flow, printing of values and side effects in forward() or in hooks prevent it."
            ) from error
    if not graph.graph.output_node().args[0]:
        raise ExportError(f"{type(model).__name__} returns no tensor.")
    return Capture(graph, sample, calling, names[-1])
