"""Exports :class:`~snn_extreme_quant.models.SpikingBert`; ``docs/spiking_bert.md`` is the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from snn_extreme_quant._version import __version__
from snn_extreme_quant.deploy.export import ExportReport, check_weights, write_file
from snn_extreme_quant.deploy.lowering.model import lower, lowering_error
from snn_extreme_quant.deploy.lowering.repacking import TernaryPacking, with_packing
from snn_extreme_quant.deploy.recording.exactness import analyse
from snn_extreme_quant.deploy.synchronous.count_graph import to_counts
from snn_extreme_quant.deploy.synchronous.running import synchronous_neurons
from snn_extreme_quant.deploy.tokens.inputs import token_inputs
from snn_extreme_quant.deploy.tokens.integer_export import lower_integer_tokens
from snn_extreme_quant.deploy.tokens.recording import TokenRequest, record_tokens
from snn_extreme_quant.deploy.tokens.running import On, token_neurons
from snn_extreme_quant.errors import ExportError, SxqError, UnsupportedModelError
from snn_extreme_quant.models import SpikingBert

__all__ = ["TokenOptions", "export_tokens"]


@dataclass(frozen=True)
class TokenOptions:
    """What is asked of a file.

    Args:
        form: ``"counts"``, one pass; ``"sequence"``, spike by spike.
        input: ``"real"``; there are no other inputs than tokens.
        calling: how the model is called: never step by step.
        ternary_packing: how ternary codes are stored.
        integer: whether the file is to compute with integers only.
        unfolded: layers of neurons that stay as they are on counts: graphs of several T fold what all of them can.
    """

    form: str
    input: str
    calling: str
    ternary_packing: TernaryPacking
    integer: bool
    unfolded: frozenset[str] = frozenset()


def export_tokens(model: nn.Module, bert: SpikingBert, sample: Any, path: Path, options: TokenOptions) -> ExportReport:
    """Write a model of tokens as one ONNX file; see :func:`~snn_extreme_quant.export_onnx`.

    Args:
        model: a SpikingBert, or a model around one that takes what it takes.
        bert: the SpikingBert.
        sample: token ids ``(B, S)``, or a tuple or mapping of ids, mask and perhaps types.
        path: where to write.
        options: what is asked of the file.
    """
    on = _checked(model, bert, options)
    check_weights(model)
    request = TokenRequest(model, bert, token_inputs(sample, bert, "The sample"), on)
    steps = bert.config.T
    facts: dict[str, Any] = {
        "format": 1,
        "version": __version__,
        "calling": "sequence",
        "input": "tokens",
        "inputs": list(request.sample.named),
        "form": options.form,
        "schedule": {"name": bert.config.schedule, "steps": steps},
        "profile": bert.config.profile,
        "neurons": sorted(token_neurons(model, on)),
        "batch_norms": {},
        "time": f"fixed by the model: {steps} steps",
        "limits": {"vocab": bert.config.vocab, "positions": bert.config.positions, "types": bert.config.types},
    }
    if options.ternary_packing != "2bit":
        facts["ternary_packing"] = options.ternary_packing
    try:
        proto = _lowered(request, options, facts)
        onnx.checker.check_model(proto, full_check=True)
    except SxqError:
        raise
    except Exception as error:
        raise lowering_error(error) from error
    return write_file(proto, path, calling="sequence", time=facts["time"], batch_norms={})


def _lowered(request: TokenRequest, options: TokenOptions, facts: dict[str, Any]) -> onnx.ModelProto:
    if options.integer:
        return lower_integer_tokens(request, options.ternary_packing, facts)
    recorded, axes = record_tokens(request)
    if 1 not in axes:
        raise UnsupportedModelError(
            f"{type(request.model).__name__} computes something else for each length of a text; its file could take"
            f" {recorded.sample.shape[1]} tokens only."
        )
    graph = with_packing(recorded.graph, options.ternary_packing)
    exactness = analyse(graph)
    if request.on == "counts":
        freely = request.bert.config.profile == "reference"
        graph = to_counts(graph, exactness, None, round_freely=freely, unfolded=options.unfolded)
        exactness = replace(exactness, products={})  # found of the graph that spikes run through
    return lower(graph, request.sample.named, exactness, recorded.names, axes, facts)


def _checked(model: nn.Module, bert: SpikingBert, options: TokenOptions) -> On:
    """Return what the file is to compute; refuse what is not possible."""
    schedule = bert.config.schedule
    refusals: Sequence[tuple[bool, str]] = (
        (options.input != "real", f"input={options.input!r}: a SpikingBert takes token ids; leave input out."),
        (options.calling == "step", "calling='step': a SpikingBert takes whole texts; leave calling out."),
        (
            options.form == "streaming",
            "form='streaming': a SpikingBert makes all its steps on a whole text; use 'sequence' or 'counts'.",
        ),
        (
            options.form == "counts" and schedule == "step",
            "form='counts' is for schedule='synchronous'; this one has schedule='step': use form='sequence'.",
        ),
        (
            bool(bert.config.feedback),
            "This SpikingBert has feedback, whose layers read spikes of the step before; files have none so far.",
        ),
    )
    for refused, why in refusals:
        if refused:
            raise ExportError(why)
    if schedule == "synchronous":
        with_mode = bert.mode
        bert.mode = "simulated"
        try:
            synchronous_neurons(model)
        finally:
            bert.mode = with_mode
    if schedule == "step":
        return "steps"
    return "counts" if options.form == "counts" else "spikes"
