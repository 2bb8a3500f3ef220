"""``export_gpt``: one ONNX file of a SpikeGPT, which generates text, or labels it, by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import torch

from snn_extreme_quant._version import __version__
from snn_extreme_quant.data.text_tokens import TextTokens
from snn_extreme_quant.deploy.export import ExportReport, as_path, check_weights, write_file
from snn_extreme_quant.deploy.integer.integers_only import check_integers_only
from snn_extreme_quant.deploy.language.classifier_export import (
    ClassifierOptions,
    check_classifier,
    classifier_facts,
    compare_classifier,
)
from snn_extreme_quant.deploy.language.graph import Form, Logits, write_gpt
from snn_extreme_quant.deploy.lowering.model import lowering_error
from snn_extreme_quant.deploy.lowering.repacking import LAYOUTS, TernaryPacking, check_packing
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.errors import ExportError
from snn_extreme_quant.exported.files import AFTER, METADATA_KEY
from snn_extreme_quant.models.evaluation import evaluating
from snn_extreme_quant.models.gpt.spike_gpt import SpikeGPT
from snn_extreme_quant.models.gpt.state import SpikeGPTState, numpy_type, state_shapes, state_type

__all__ = ["export_gpt", "facts_of"]

#: A protobuf message, so a file, ends at 2 GiB.
_MOST_BYTES = 2**31 - 2**20
_TIME = "free"


def export_gpt(
    model: SpikeGPT,
    path: str | Path,
    *,
    form: Form = "sequence",
    logits: Logits = "last",
    tokens: TextTokens | None = None,
    ternary_packing: TernaryPacking = "2bit",
    labels: Sequence[str] | None = None,
    max_tokens: int | None = None,
) -> ExportReport:
    """Write a SpikeGPT as one ONNX file; ``docs/spike_gpt.md`` (Export).

    A language model's (``head="tokens"``) has its state as inputs and outputs, a classifier's (``"mean"``, ``"last"``)
    takes whole texts with their pads. Spikes, state and logits of the file are those of the model in ``eval()`` mode,
    bit for bit. Before anything is written the graph runs on random tokens, at once and in pieces, and is compared with
    the model.

    Args:
        model: on the CPU; it is left as it was.
        path: where to write.
        form: ``"sequence"``: whole texts, or pieces of any length; ``"streaming"``, of a language model: one token.
        logits: of the ``"last"`` token, or of ``"all"``; a streaming file has one, a classifier's those of a text.
        tokens: what a token is, so that the file alone generates or labels text.
        ternary_packing: as for :func:`~snn_extreme_quant.export_onnx`.
        labels: of a classifier, names of the classes in the order of their numbers.
        max_tokens: of a classifier, behind how many tokens texts are cut off, as they were in training; it is told to
            who runs the file, which itself takes any number.

    Raises:
        ExportError: an option means nothing, or the file would be larger than 2 GiB.
        UnsupportedModelError: the model is not on the CPU in float32.
        NonFiniteWeightError: a weight is NaN or infinite.
        OutputPathError: the file cannot be written.

    Example:
        >>> export_gpt(model, "gpt.onnx", tokens=tokens)  # doctest: +SKIP
    """
    path = as_path(path)
    _check(model, form, logits, tokens)
    classifies = model.config.head != "tokens"
    options = ClassifierOptions(None if labels is None else tuple(labels), max_tokens)
    if classifies:
        check_classifier(model, form, logits, options)
    elif options != ClassifierOptions():
        raise ExportError("labels and max_tokens are of classifiers; this SpikeGPT has head='tokens': leave them out.")
    check_packing(ternary_packing)
    check_weights(model)
    with evaluating(model):
        layouts = {LAYOUTS["2bit"]: LAYOUTS[ternary_packing]}
        writer = write_gpt(model, form, logits, layouts)
        facts = (
            classifier_facts(model, options, tokens, ternary_packing, _TIME)
            if classifies
            else facts_of(model, form, logits, tokens, ternary_packing)
        )
        facts["layers"] = list(writer.layers.values())
        proto = writer.model({METADATA_KEY: json.dumps(facts, separators=(",", ":"))})
        _check_size(proto)
        if model.config.profile == "integer":
            check_integers_only(proto, encodes=False)
        try:
            onnx.checker.check_model(proto, full_check=True)
        except Exception as error:
            raise lowering_error(error) from error
        if classifies:
            compare_classifier(model, proto)
        else:
            _compare(model, proto, form, logits)
    return write_file(proto, path, calling="step" if form == "streaming" else "sequence", time=_TIME, batch_norms={})


def _check(model: object, form: str, logits: str, tokens: TextTokens | None) -> None:
    if not isinstance(model, SpikeGPT):
        raise ExportError(f"export_gpt() takes a SpikeGPT; got a {type(model).__name__}. Use export_onnx().")
    if form not in get_args(Form):
        raise ExportError(f"form={form!r}: a SpikeGPT has the forms 'sequence' and 'streaming'.")
    if logits not in get_args(Logits):
        raise ExportError(f"logits={logits!r}: use 'last' or 'all'.")
    if form == "streaming" and logits == "all":
        raise ExportError("logits='all': a streaming file takes one token at a time; leave logits out.")
    if tokens is not None and tokens.vocab != model.config.vocab:
        raise ExportError(f"The model has {model.config.vocab} tokens, the tokenizer {tokens.vocab}: it is another's.")


def facts_of(
    model: SpikeGPT, form: Form, logits: Logits, tokens: TextTokens | None, ternary_packing: TernaryPacking
) -> dict[str, Any]:
    """Return what a language model's file says of itself, but for its layers."""
    config = model.config
    whole = config.profile == "integer"
    states = [
        {"name": name, "shape": [layers, "B", width], "initial": 0 if whole else 0.0}
        | ({"dtype": str(numpy_type(state_type(config, name)))} if whole else {})
        for name, (layers, width) in state_shapes(config).items()
    ]
    facts: dict[str, Any] = {
        "format": 1,
        "version": __version__,
        "calling": "step" if form == "streaming" else "sequence",
        "input": "ids",
        "form": form,
        "neurons": [],
        "batch_norms": {},
        "time": _TIME,
        "time_axis": 1,
        "steps": None,
        "states": states,
        "outputs": [{"name": "logits", "axis": 1 if form == "streaming" or logits == "all" else None}],
        "language": {
            "vocab": config.vocab,
            "logits": "last" if form == "streaming" else logits,
            "config": config.to_dict(),
            "tokens": None if tokens is None else tokens.to_data(),
        },
    }
    if whole:
        facts["integer"] = True
    if ternary_packing != "2bit":
        facts["ternary_packing"] = ternary_packing
    return facts


def _check_size(proto: onnx.ModelProto) -> None:
    size = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    if size > _MOST_BYTES:
        raise ExportError(
            f"The file would have {size / 2**30:.1f} GiB, more than the 2 that ONNX allows; give the matrices fewer"
            " bits."
        )


def _compare(model: SpikeGPT, proto: onnx.ModelProto, form: Form, logits: Logits) -> None:
    """Refuse a graph that is not the model: tokens of two texts, in pieces, with the state handed on."""
    runtime = open_session(proto, native=False).runtime
    names = [f"{name}{AFTER}" for name in state_shapes(model.config)]
    drawn = torch.Generator().manual_seed(0)
    state = SpikeGPTState.initial(model.config, 2)
    for count in (1, 1, 1) if form == "streaming" else (3, 1, 2):
        ids = torch.randint(model.config.vocab, (2, count), generator=drawn)
        feed = {name: value.numpy() for name, value in state.tensors.items()}
        feed["ids"] = (ids[:, 0] if form == "streaming" else ids).numpy()
        with torch.no_grad():
            wanted, state = model.run(ids, state)
        found = runtime.run(["logits", *names], feed)
        whole = wanted if logits == "all" and form == "sequence" else wanted[:, -1]
        for name, ours, theirs in zip(("logits", *names), found, (whole, *state.tensors.values()), strict=True):
            if not np.array_equal(ours, theirs.numpy(), equal_nan=True):
                raise ExportError(
                    f"The graph is not the model: {name!r} differs by up to"
                    f" {float(np.abs(ours - theirs.numpy()).max()):.3g} on random tokens. No file was written; please"
                    " report it with the model's configuration."
                )
