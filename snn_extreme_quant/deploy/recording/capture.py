"""Records what a model computes as a graph of torch operators, with its neurons and quantised layers kept whole.

The model's own ``forward`` runs once under ``torch.export`` while its neurons and quantised layers are replaced, on
the instance and for that time only, by calls of the deployment operators. State left in the neurons from earlier runs
cannot enter: the recorded neurons start from their reset value.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from snn_extreme_quant.deploy.recording.batch_norm import Fold, deployed
from snn_extreme_quant.deploy.recording.graphs import STEP, ancestors
from snn_extreme_quant.deploy.recording.running import StepLoop, evaluating, first_line
from snn_extreme_quant.deploy.recording.substitution import substituted
from snn_extreme_quant.errors import SxqError, UnsupportedModelError
from snn_extreme_quant.frameworks import neurons_of

__all__ = ["Capture", "capture", "quiet_torch"]


@dataclass(frozen=True)
class Capture:
    """A recorded model.

    Args:
        graph: torch operators and operators of ``snn_xq``; one placeholder for each dimension-checked input.
        sample: the input it was recorded with, or the first of several.
        calling: as in :class:`Probe`.
        names: name of each output, from the structure the model returns.
        shortened: it was recorded with fewer steps than the user's sample has.
        guarded: open axes on whose length the model decides what it computes.
    """

    graph: fx.GraphModule
    sample: Tensor
    calling: str
    names: tuple[str, ...]
    shortened: bool = False
    guarded: tuple[int, ...] = ()


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


def _trace(
    module: nn.Module, samples: tuple[Tensor, ...], fixed: Container[int], outputs: Callable[[], int]
) -> tuple[fx.GraphModule, tuple[int, ...]]:
    """Run ``torch.export``; return the graph, free of mutation, and the axes on whose length the model decides.

    The first two axes of each input (time and batch, in either order) are left open where the model leaves them open,
    but for those that are to be fixed. ``outputs`` says, after the run, how many outputs are the model's.
    """
    free = tuple(
        {axis: torch.export.Dim.AUTO for axis in range(min(2, sample.dim())) if axis not in fixed} for sample in samples
    )
    # torch prints the graph it could not finish.
    with (
        quiet_torch(),
        torch.no_grad(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        program = torch.export.export(module, samples, dynamic_shapes=(free,), strict=False)
        if any(_mutates(node) for node in program.graph.nodes):
            program = program.run_decompositions({})
        graph = program.module(check_guards=False)
    _keep_last_calls(graph.graph, outputs())
    graph.recompile()
    entry = next(node for node in graph.graph.nodes if node.op == "placeholder")
    # `if x.shape[0] < 12:` leaves a bound on the symbol, and the record holds one branch only.
    bounded = {str(symbol) for symbol, values in program.range_constraints.items() if _is_bounded(values)}
    guarded = tuple(axis for axis, size in enumerate(entry.meta["val"].shape) if str(size) in bounded)
    return graph, guarded


def _keep_last_calls(graph: fx.Graph, given: int) -> None:
    """Leave the model's outputs, the first ``given``, what they need, and all calls of the neurons among that.

    A neuron's last call may be needed by nothing, but a loop over time steps is one with all of its calls.
    """
    node = graph.output_node()
    outputs = cast("Sequence[fx.Node]", node.args[0])[:given]
    graph.set_codegen(fx.graph.CodeGen())
    node.args = (tuple(outputs),)
    needed = set().union(*(ancestors(n) for n in outputs))
    layers = {n.args[-1] for n in needed if n.target is STEP}
    graph.eliminate_dead_code(lambda n: n.is_impure() or (n.target is STEP and n.args[-1] in layers))


def _is_bounded(values: Any) -> bool:
    """Whether a size may not take every value from 2 on; 0 and 1 are never recorded as open."""
    return bool(values.lower > 2 or values.upper < 2**30)


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


def capture(
    model: nn.Module,
    sample: Tensor | tuple[Tensor, ...],
    calling: str,
    fixed: Container[int] = (),
    folds: Mapping[str, Fold] | None = None,
    wrapper: Callable[[nn.Module], nn.Module] | None = None,
) -> Capture:
    """Record ``model`` on ``sample``.

    Args:
        model: in any mode and state; it is left as it was.
        sample: ``(T, B, ...)`` for a step model, else what the model takes; several inputs as a tuple.
        calling: ``"step"`` or ``"sequence"``.
        fixed: axes of the input to be recorded with the sample's length.
        folds: how batch norms are deployed, by name.
        wrapper: what stands around the model, by default a loop for a step model; it holds the model as ``model``.

    Raises:
        UnsupportedNeuronError: a neuron has no exact spec.
        UnsupportedModelError: the forward pass cannot be recorded.
    """
    neurons = neurons_of(model)
    wrapper = wrapper or (StepLoop if calling == "step" else None)
    wrapped = wrapper(model) if wrapper else model
    samples = tuple(value.detach().cpu() for value in (sample if isinstance(sample, tuple) else (sample,)))
    names: list[tuple[str, ...]] = []
    counts: list[int] = []

    class _Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = wrapped

        def forward(self, *inputs: Tensor) -> Any:
            outputs = self.inner(*inputs)
            for stub in stubs:
                stub.hide()  # torch refuses attributes that a recorded run leaves behind
            names.append(_output_names(outputs))
            given = tuple(v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor))
            counts.append(len(given))
            # torch leaves out what nothing reads: the last step's neurons, where layers read the step before only.
            return given, tuple(stub.memory[stub.spec.outputs[0]] for stub in stubs if stub.memory)

    # Folded scales are packed, so folding comes first.
    with evaluating(model, neurons), deployed(model, folds or {}), substituted(model, neurons) as stubs:
        try:
            graph, guarded = _trace(_Named(), samples, fixed, lambda: counts[-1])
        except SxqError:
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"The forward pass of {type(model).__name__} cannot be recorded: {first_line(error)}. Data-dependent"
                " control flow, printing of values and side effects in forward() or in hooks prevent it."
            ) from error
    if not graph.graph.output_node().args[0]:
        raise UnsupportedModelError(f"{type(model).__name__} returns no tensor.")
    random = next((node for node in graph.graph.nodes if _is_random(node)), None)
    if random is not None:
        raise UnsupportedModelError(
            f"{type(model).__name__} draws random numbers in evaluation mode ({random.name!r}), so no file can give the"
            " same spikes; encode the input before the model (sxq.rate_encode)."
        )
    return Capture(graph, samples[0], calling, names[-1], guarded=guarded)


def _is_random(node: fx.Node) -> bool:
    """Whether a node draws random numbers; dropout does only when training, attention with a dropout of 0 never."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    names = [argument.name for argument in target._schema.arguments]
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if "dropout_p" in names:
        return bool(given.get("dropout_p", 0.0))
    return not ("dropout" in str(target) and given.get("train", given.get("training", True)) is False)
