"""What a classifier's file says of itself, and the comparison of its graph with the model before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch

from snn_extreme_quant._version import __version__
from snn_extreme_quant.data.text_tokens import TextTokens
from snn_extreme_quant.deploy.language.classifier_graph import CLASSIFIER_INPUTS
from snn_extreme_quant.deploy.lowering.repacking import TernaryPacking
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.errors import ExportError
from snn_extreme_quant.models.gpt.spike_gpt import SpikeGPT

__all__ = ["ClassifierOptions", "check_classifier", "classifier_facts", "compare_classifier"]

#: Tokens of the texts that graph and model are compared on, side by side.
_LENGTHS = (5, 1, 3)


@dataclass(frozen=True)
class ClassifierOptions:
    """What only a classifier's file says.

    Args:
        labels: names of the classes, in the order of their numbers; None: nobody says.
        max_tokens: where texts are cut off, as in training; None: nowhere.
    """

    labels: tuple[str, ...] | None = None
    max_tokens: int | None = None


def check_classifier(model: SpikeGPT, form: str, logits: str, options: ClassifierOptions) -> None:
    """Refuse options of language models, labels that are not one each, and a length that is none."""
    head, classes = model.config.head, model.config.classes
    if form != "sequence":
        raise ExportError(
            f"form={form!r}: this SpikeGPT is a classifier (head={head!r}), which answers when it has read a whole"
            " text; its file has form='sequence'."
        )
    if logits != "last":
        raise ExportError(f"logits={logits!r}: a classifier (head={head!r}) has logits of a text; leave logits out.")
    labels, most = options.labels, options.max_tokens
    if labels is not None and (len(labels) != classes or len(set(labels)) != classes or not all(labels)):
        raise ExportError(f"labels={labels!r}: the model has {classes} classes; give each a name of its own.")
    if most is not None and (type(most) is not int or most < 1):
        raise ExportError(f"max_tokens={most!r}: use a whole number from 1, or None.")


def classifier_facts(
    model: SpikeGPT, options: ClassifierOptions, tokens: TextTokens | None, ternary_packing: TernaryPacking, time: str
) -> dict[str, Any]:
    """Return what a file says of itself, but for its layers."""
    config = model.config
    facts: dict[str, Any] = {
        "format": 1,
        "version": __version__,
        "calling": "sequence",
        "input": "tokens",
        "inputs": list(CLASSIFIER_INPUTS),
        "form": "sequence",
        "neurons": [],
        "batch_norms": {},
        "time": time,
        "limits": {"vocab": config.vocab},
        "classifier": {
            "head": config.head,
            "classes": config.classes,
            "labels": None if options.labels is None else list(options.labels),
            "max_tokens": options.max_tokens,
            "config": config.to_dict(),
            "tokens": None if tokens is None else tokens.to_data(),
        },
    }
    if config.profile == "integer":
        facts["integer"] = True
    if ternary_packing != "2bit":
        facts["ternary_packing"] = ternary_packing
    return facts


def compare_classifier(model: SpikeGPT, proto: onnx.ModelProto) -> None:
    """Refuse a graph that is not the model, on random texts with pads behind them."""
    drawn = torch.Generator().manual_seed(0)
    lengths = torch.tensor(_LENGTHS)
    ids = torch.randint(model.config.vocab, (len(lengths), max(_LENGTHS)), generator=drawn)
    mask = (torch.arange(max(_LENGTHS)) < lengths.unsqueeze(1)).long()
    feed = dict(zip(CLASSIFIER_INPUTS, (ids.numpy(), mask.numpy()), strict=True))
    (ours,) = open_session(proto, native=False).runtime.run(["logits"], feed)
    with torch.no_grad():
        theirs = model(ids, mask).numpy()
    if not np.array_equal(ours, theirs, equal_nan=True):
        raise ExportError(
            f"The graph is not the model: 'logits' differs by up to {float(np.abs(ours - theirs).max()):.3g} on random"
            " texts. No file was written; please report it with the model's configuration."
        )
