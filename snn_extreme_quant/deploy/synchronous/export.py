"""Exports models of synchronous neurons, over counts or spike by spike; ``docs/synchronous.md`` is the contract."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from torch import Tensor, nn

from snn_extreme_quant._version import __version__
from snn_extreme_quant.deploy.export import ExportReport, as_tensor, check_weights, write_file
from snn_extreme_quant.deploy.lowering.model import lower, lowering_error
from snn_extreme_quant.deploy.lowering.repacking import TernaryPacking, with_packing
from snn_extreme_quant.deploy.recording.exactness import SPIKES, Grid, analyse
from snn_extreme_quant.deploy.synchronous.count_graph import to_counts
from snn_extreme_quant.deploy.synchronous.recording import SynchronousRequest, record_synchronous
from snn_extreme_quant.deploy.synchronous.running import synchronous_neurons
from snn_extreme_quant.errors import ExportError, SampleError
from snn_extreme_quant.neurons import Schedule

__all__ = ["Options", "check_train", "export_synchronous"]


def check_train(inputs: Tensor, steps: int, what: str) -> Tensor:
    """Return the rates of a spike train ``(T, B, ...)``; raises :class:`SampleError` if it is none."""
    if inputs.dim() < 2 or inputs.shape[0] != steps:
        raise SampleError(f"{what} has shape {tuple(inputs.shape)}; input='spikes' means a train ({steps}, B, ...).")
    if not bool(((inputs == 0) | (inputs == 1)).all()):
        raise SampleError(f"{what} is not spikes (0 and 1), which input='spikes' promises.")
    return inputs.sum(0) * (1.0 / steps)


@dataclass(frozen=True)
class Options:
    """What is asked of a file.

    Args:
        form: ``"counts"``, one pass; ``"sequence"``, spike by spike.
        input: ``"real"`` or ``"spikes"``.
        calling: how the model is called; a synchronous one is not called step by step.
        ternary_packing: how ternary codes are stored.
    """

    form: str
    input: str
    calling: str
    ternary_packing: TernaryPacking


def export_synchronous(model: nn.Module, sample: Tensor | npt.ArrayLike, path: Path, options: Options) -> ExportReport:
    """Write a model of synchronous neurons as one ONNX file; see :func:`~snn_extreme_quant.export_onnx`.

    Args:
        model: a model with :class:`~snn_extreme_quant.SynchronousIF` neurons alone.
        sample: what it takes; with ``input="spikes"`` a train ``(T, B, ...)``.
        path: where to write.
        options: what is asked of the file.
    """
    on: Schedule = "counts" if options.form == "counts" else "spikes"
    input = options.input
    if options.form == "streaming":
        raise ExportError(
            "form='streaming': synchronous neurons take in all steps before they fire, so there is no single step; use"
            " 'sequence' or 'counts'."
        )
    if options.calling == "step":
        raise ExportError(
            "calling='step': synchronous neurons take in all steps before they fire, so a model of them is not called"
            " step by step; leave calling out."
        )
    neurons = synchronous_neurons(model)
    check_weights(model)
    steps = next(iter(neurons.values())).T
    given = as_tensor(sample, "The sample")
    rates = check_train(given, steps, "The sample") if input == "spikes" else given
    recorded, folds, axes = record_synchronous(SynchronousRequest(model, rates, on, steps, input == "spikes"))
    facts: dict[str, Any] = {
        "format": 1,
        "version": __version__,
        "calling": "sequence",
        "input": input,
        "form": options.form,
        "schedule": {"name": "synchronous", "steps": steps},
        "neurons": sorted(neurons),
        "batch_norms": {name: fold.layer for name, fold in folds.items()},
        "time": f"fixed by the model: {steps} steps",
    }
    if options.ternary_packing != "2bit":
        facts["ternary_packing"] = options.ternary_packing
    promised = None
    if input == "spikes":
        promised = SPIKES if on == "spikes" else Grid(steps.bit_length() - 1, 0.0, 1.0)
    try:
        graph = with_packing(recorded.graph, options.ternary_packing)
        exactness = analyse(graph, promised)
        if on == "counts":
            graph = to_counts(graph, exactness, steps if input == "spikes" else None)
            exactness = replace(exactness, products={})  # found of the graph that spikes run through
        proto = lower(graph, recorded.sample, exactness, recorded.names, axes, facts)
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        raise lowering_error(error) from error
    return write_file(proto, path, calling="sequence", time=facts["time"], batch_norms=facts["batch_norms"])
