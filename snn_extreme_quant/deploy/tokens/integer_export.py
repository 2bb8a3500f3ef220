"""From a SpikingBERT in whole numbers to its integer file; ``docs/spiking_bert.md``, *In integers*."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snn_extreme_quant.deploy.integer.integers_only import check_integers_only
from snn_extreme_quant.deploy.lowering.model import lower
from snn_extreme_quant.deploy.lowering.repacking import TernaryPacking
from snn_extreme_quant.deploy.recording.capture import capture
from snn_extreme_quant.deploy.recording.constants import with_constants, without_dropout
from snn_extreme_quant.deploy.recording.exactness import Exactness, LayerExactness, analyse
from snn_extreme_quant.deploy.recording.running import first_line
from snn_extreme_quant.deploy.tokens.inputs import TokenInputs
from snn_extreme_quant.deploy.tokens.integer_parts import IntegerNeurons
from snn_extreme_quant.deploy.tokens.recording import TokenRequest, doubled, drawn, open_axes, probing
from snn_extreme_quant.deploy.tokens.running import run_tokens
from snn_extreme_quant.deploy.tokens.whole_bert import IntegerBert, in_integers
from snn_extreme_quant.errors import UnsupportedModelError

__all__ = ["WholeRun", "lower_integer_tokens", "run_whole"]

#: Of the counts of a layer, at most so many may be one off where both models read the same.
_MOST_DIFFERENT = 0.01


@dataclass(frozen=True)
class WholeRun:
    """What a model in whole numbers gives: outputs, and by layer counts or spikes."""

    outputs: list[Tensor]
    emitted: dict[str, Tensor]


@contextmanager
def _watched(whole: IntegerBert, see: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Call ``see`` with what each layer of neurons gives; what it returns goes on instead."""

    def hook(module: nn.Module, _inputs: object, given: Tensor) -> Tensor | None:
        return see(cast("IntegerNeurons", module).name, given)

    with ExitStack() as stack:
        for _, neurons in whole.named_neurons():
            stack.callback(neurons.register_forward_hook(hook).remove)
        yield


def run_whole(
    model: nn.Module,
    whole: IntegerBert,
    inputs: TokenInputs,
    replace: Callable[[str, Tensor], Tensor] | None = None,
) -> WholeRun:
    """Run a model in whole numbers.

    Args:
        model: of :func:`~.whole_bert.in_integers`.
        whole: the encoder in it.
        inputs: a batch.
        replace: called with a neuron's name and what it gives; what it returns goes on instead.
    """
    emitted: dict[str, Tensor] = {}

    def see(name: str, given: Tensor) -> Tensor | None:
        emitted[name] = given.clone()
        return None if replace is None else replace(name, given)

    with torch.no_grad(), _watched(whole, see):
        outputs = model(*inputs.tensors)
    return WholeRun([value for value in pytree.tree_leaves(outputs) if isinstance(value, Tensor)], emitted)


def lower_integer_tokens(request: TokenRequest, packing: TernaryPacking, facts: dict[str, Any]) -> onnx.ModelProto:
    """Return the integer file of a model of tokens.

    Args:
        request: what is to be exported.
        packing: how ternary codes are stored.
        facts: of the file.

    Raises:
        UnsupportedModelError: it has no integer form, or what was recorded is not what it computes.
        ExportError: the file would compute in float between integers.
    """
    model, whole = in_integers(request.model, request.bert, request.on, packing)
    sample = doubled(request.sample, request.bert.config.positions)
    recorded = capture(model, sample.tensors, "sequence")
    graph = with_constants(without_dropout(recorded.graph))
    axes = open_axes(recorded)
    if 1 not in axes:
        raise UnsupportedModelError(
            f"{type(request.model).__name__} computes something else for each length of a text; its file could take"
            f" {sample.ids.shape[1]} tokens only."
        )
    for batch, length in ((2, 2), (3, 5), (1, 3), (2, 1)):
        inputs = probing(request, batch if 0 in axes else sample.ids.shape[0], length, sample, axes)
        _check_record(graph, request, model, inputs)
        _check_layers(request, model, whole, inputs)
    facts = {**facts, "integer": True, "scales": [asdict(scale) for scale in whole.scales]}
    exactness = _exactness(graph, whole)
    named = request.sample.named
    proto = lower(graph, named, exactness, recorded.names, axes, facts, magnitudes=whole.magnitudes)
    check_integers_only(proto, encodes=False)
    return proto


def _check_record(graph: torch.fx.GraphModule, request: TokenRequest, model: nn.Module, inputs: TokenInputs) -> None:
    """Compare the record with the model in whole numbers: both are exact."""
    try:
        with torch.no_grad():
            outputs = list(graph(*inputs.tensors))
            wanted = model(*inputs.tensors)
    except Exception as error:
        raise UnsupportedModelError(
            f"What was recorded of {type(request.model).__name__} does not run on token ids of shape"
            f" {tuple(inputs.ids.shape)}: {first_line(error)}"
        ) from error
    tensors = [value for value in pytree.tree_leaves(wanted) if isinstance(value, Tensor)]
    same = len(outputs) == len(tensors) and all(
        a.shape == b.shape and torch.allclose(a, b, equal_nan=True) for a, b in zip(outputs, tensors, strict=True)
    )
    if not same:
        raise UnsupportedModelError(
            f"What was recorded of {type(request.model).__name__} is not what it computes for token ids of shape"
            f" {tuple(inputs.ids.shape)}. State outside its neurons, or a side effect in forward(), prevents it."
        )


def _check_layers(request: TokenRequest, model: nn.Module, whole: IntegerBert, inputs: TokenInputs) -> None:
    """Hold each layer of neurons against the float model's, on the same random spikes."""
    steps = request.bert.config.T if request.on == "counts" else 1
    run = run_tokens(
        request.model, request.bert, inputs, request.on, lambda name, emitted: drawn(name, emitted, request)
    )

    def replaced(name: str, given: Tensor) -> Tensor:
        return (drawn(name, given, request) * steps).round().to(given.dtype)

    found = run_whole(model, whole, inputs, replaced)
    for name, calls in run.emitted.items():
        if len(calls) != 1 or name not in found.emitted:
            raise UnsupportedModelError(f"Neuron {name!r} is called {len(calls)} times in a pass; files hold one call.")
        ours, theirs = found.emitted[name].float(), calls[0] * steps
        apart = (ours - theirs if request.on == "counts" else ours.sum(0) - theirs.sum(0)).abs()
        if ours.shape != theirs.shape or float(apart.max()) > 1 or float((apart > 0).float().mean()) > _MOST_DIFFERENT:
            raise UnsupportedModelError(
                f"Neurons {name!r} in whole numbers do not give what the model's give of the same spikes (up to"
                f" {float(apart.max()):g} spikes apart): their constants are beyond what 64 bits tell apart, or a"
                " module of this model computes something else than SpikingBert's. Export without integer=True."
            )


def _exactness(graph: torch.fx.GraphModule, whole: IntegerBert) -> Exactness:
    """All that is computed in whole numbers is exact; what is left is decoding."""
    why = "decoding: sums real numbers, in an order that a runtime may choose"
    left = {
        name: LayerExactness(verdict.exact, verdict.reason if verdict.exact else why)
        for name, verdict in analyse(graph).layers.items()
        if name not in whole.magnitudes
    }
    layers = {name: LayerExactness(True, "integer sums") for name in (*whole.magnitudes, *whole.tables)}
    neurons = {name: LayerExactness(True, "whole numbers") for name, _ in whole.named_neurons()}
    return Exactness({**left, **layers}, neurons)
