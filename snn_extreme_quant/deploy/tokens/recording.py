"""Records a model of tokens, and checks the record against the model, also for other lengths and masks."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from snn_extreme_quant.deploy.recording.averages import write_out_averages
from snn_extreme_quant.deploy.recording.capture import Capture, capture
from snn_extreme_quant.deploy.recording.constants import with_constants, without_dropout
from snn_extreme_quant.deploy.recording.graphs import SEQUENCE, is_free
from snn_extreme_quant.deploy.recording.running import at_least_two, first_line
from snn_extreme_quant.deploy.recording.structure import StructureError, compare
from snn_extreme_quant.deploy.synchronous.operators import RATES, SPIKES_OF
from snn_extreme_quant.deploy.synchronous.running import OnSpikes
from snn_extreme_quant.deploy.tokens.inputs import TokenInputs
from snn_extreme_quant.deploy.tokens.running import On, run_tokens, spiking
from snn_extreme_quant.errors import SampleError, UnsupportedModelError
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.neurons import spikes_first

__all__ = ["TokenRequest", "doubled", "drawn", "open_axes", "probing", "record_tokens"]


@dataclass(frozen=True)
class TokenRequest:
    """What is to be exported.

    Args:
        model: the model.
        bert: the encoder in it.
        sample: a batch.
        on: what the file is to compute.
    """

    model: nn.Module
    bert: SpikingBert
    sample: TokenInputs
    on: On


def record_tokens(request: TokenRequest) -> tuple[Capture, dict[int, str]]:
    """Return the recorded model and the names of the open axes of its inputs.

    Raises:
        UnsupportedModelError: the model cannot be recorded, or what was recorded is not what it computes.
        SampleError: the model does not accept the sample.
    """
    sample = doubled(request.sample, request.bert.config.positions)
    wrapper = (lambda model: OnSpikes(model, train=False)) if request.on == "spikes" else None
    with spiking(request.model, request.bert, request.on):
        recorded = capture(request.model, sample.tensors, "sequence", wrapper=wrapper)
    recorded = replace(recorded, graph=write_out_averages(with_constants(without_dropout(recorded.graph))))
    axes = open_axes(recorded)
    for batch, length in ((2, 2), (3, 5), (1, 3), (2, 1)):
        inputs = probing(request, batch if 0 in axes else sample.ids.shape[0], length, sample, axes)
        try:
            _check(recorded.graph, request, inputs)
        except StructureError as wrong:
            raise UnsupportedModelError(
                f"What was recorded of {type(request.model).__name__} is not what it computes for token ids of shape"
                f" {tuple(inputs.ids.shape)}: {wrong}. State outside its neurons, or a side effect in forward(),"
                " prevents it."
            ) from wrong
    return recorded, axes


def doubled(sample: TokenInputs, positions: int) -> TokenInputs:
    """Return a sample without axes of length 1, which would stay 1."""
    axes = (0, 1) if positions > 1 else (0,)
    ids, mask, *types = (at_least_two(tensor, axes) for tensor in sample.tensors)
    return TokenInputs(ids, mask, *types)


def open_axes(recorded: Capture) -> dict[int, str]:
    """Return the names of the open axes of a record's inputs."""
    entry = recorded.graph.graph.find_nodes(op="placeholder")[0]
    return {
        axis: name for axis, (name, size) in enumerate(zip("BS", entry.meta["val"].shape, strict=True)) if is_free(size)
    }


def probing(request: TokenRequest, batch: int, length: int, sample: TokenInputs, axes: dict[int, str]) -> TokenInputs:
    """Return random tokens with pads at their ends."""
    config = request.bert.config
    length = min(length, config.positions) if 1 in axes else sample.ids.shape[1]
    generator = torch.Generator().manual_seed(batch * length)
    ids = torch.randint(config.vocab, (batch, length), generator=generator)
    tokens = torch.randint(1, length + 1, (batch, 1), generator=generator)
    mask = (torch.arange(length) < tokens).long()
    types = None if sample.types is None else torch.randint(config.types, (batch, length), generator=generator)
    return TokenInputs(ids, mask, types)


def drawn(name: str, emitted: Tensor, request: TokenRequest) -> Tensor:
    """Return random rates or spikes, the same for graph and model: a layer that is silent would hide what is behind."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    config = request.bert.config
    least = -1 if config.signed else 0
    if request.on == "steps":
        return torch.randint(least, 2, tuple(emitted.shape), generator=generator).float()
    shape = emitted.shape[1:] if request.on == "spikes" else emitted.shape
    counts = torch.randint(least * config.T, config.T + 1, tuple(shape), generator=generator).float()
    return spikes_first(counts, config.T) if request.on == "spikes" else counts / config.T


class _Graph(fx.Interpreter):
    """Runs a graph, keeps what each neuron layer receives, and replaces what it gives."""

    def __init__(self, module: fx.GraphModule, request: TokenRequest) -> None:
        super().__init__(module)
        self.request = request
        self.currents: dict[str, Tensor] = {}

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().call_function(target, args, kwargs)
        if target not in (RATES, SPIKES_OF, SEQUENCE):
            return value
        name = str(args[-1])
        self.currents[name] = args[0]
        random = drawn(name, value[0] if target is SEQUENCE else value, self.request)
        return [random, *value[1:]] if target is SEQUENCE else random


def _check(graph: fx.GraphModule, request: TokenRequest, inputs: TokenInputs) -> None:
    """Compare what every neuron of graph and model receives, each stretch between neurons by itself."""
    run = run_tokens(
        request.model, request.bert, inputs, request.on, lambda name, emitted: drawn(name, emitted, request)
    )
    driven = _Graph(graph, request)
    try:
        with torch.no_grad():
            outputs = list(driven.run(*inputs.tensors))
    except Exception as error:
        raise StructureError(f"the graph does not run: {first_line(error)}") from error
    for name, calls in run.currents.items():
        if len(calls) > 1:
            raise SampleError(f"Neuron {name!r} is called {len(calls)} times in a pass; files hold one call of each.")
        if name in driven.currents and request.on != "steps":  # a stub measures the current of a step in thresholds
            compare(driven.currents[name], calls[0], name)
    if len(outputs) != len(run.outputs):
        raise StructureError(f"the graph gives {len(outputs)} outputs, the model {len(run.outputs)}")
    for index, (ours, theirs) in enumerate(zip(outputs, run.outputs, strict=True)):
        compare(ours, theirs, f"output {index}")
