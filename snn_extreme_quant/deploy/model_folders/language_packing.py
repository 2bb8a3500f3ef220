"""Makes a model folder of a trained SpikeGPT: packed weights, a graph that reads them, tokens, figures, card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from snn_extreme_quant._version import __version__
from snn_extreme_quant.data.text_tokens import TextTokens
from snn_extreme_quant.deploy.language.export import export_gpt
from snn_extreme_quant.deploy.language.measuring import file_figures
from snn_extreme_quant.deploy.language.running import GptFile
from snn_extreme_quant.deploy.model_folders.folder import RUN_FORMAT
from snn_extreme_quant.deploy.model_folders.language_card import language_card
from snn_extreme_quant.deploy.model_folders.writing import unsealed, whole_folder, write_run
from snn_extreme_quant.deploy.verification.verify import verify
from snn_extreme_quant.errors import ExportError
from snn_extreme_quant.exported.external import point_into, remember
from snn_extreme_quant.exported.files import seal
from snn_extreme_quant.models import SpikeGPT
from snn_extreme_quant.models.gpt.files import load_language_model
from snn_extreme_quant.output_files import write_whole

__all__ = ["LanguagePacking", "pack_language"]

#: Tokens that the file and the model in torch generate side by side.
_VERIFIED = 1000
_PROMPT = "\n"


@dataclass(frozen=True)
class LanguagePacking:
    """What a language model's folder is made with.

    Args:
        name: of the model.
        facts: how the model was trained, for ``run.json`` and the card.
        text: the dev text that figures are taken on; None: no figures.
        streams: parts of it that run side by side.
        verified: tokens that file and model generate side by side.
    """

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    text: str | None = None
    streams: int = 16
    verified: int = _VERIFIED


def pack_language(source: str | Path, folder: str | Path, packing: LanguagePacking) -> dict[str, Any]:
    """Write a folder for ``sxq generate``; one that is there is replaced when the new one is whole.

    The file is compared with the model, token by token and spike by spike, before the folder is there.

    Args:
        source: a folder of ``SpikeGPT.save_pretrained`` with a ``tokens.json``.
        folder: the folder to make.
        packing: how.

    Returns:
        What is in its ``run.json``.

    Raises:
        CheckpointError: ``source`` holds no SpikeGPT, or another model's tokens.
        ConfigError: it is a classifier.
        DataError: ``source`` does not say what a token is.
        ExportError: a spike, a logit or the state of the file differs from the model's.
        OutputPathError: the folder cannot be written.
    """
    model, tokens = load_language_model(Path(source))
    with whole_folder(Path(folder)) as place:
        return _make(model, tokens, place, packing)


def _make(model: SpikeGPT, tokens: TextTokens, folder: Path, packing: LanguagePacking) -> dict[str, Any]:
    """Write all files into an empty folder; return what is in ``run.json``."""
    model.save_pretrained(folder, packed=True)
    tokens.save(folder)
    model = SpikeGPT.from_pretrained(folder)
    graph = folder / "model.onnx"
    export_gpt(model, graph, tokens=tokens)
    proto = unsealed(onnx.load(graph))
    point_into(proto, folder / "model.safetensors")
    beside = (folder / name for name in ("config.json", "tokens.json", "tokenizer.json"))
    remember(proto, [path for path in beside if path.is_file()])
    write_whole(graph, seal(proto))
    run: dict[str, Any] = {
        "format": RUN_FORMAT,
        "kind": "language",
        "name": packing.name,
        "version": __version__,
        "tokens": {"kind": tokens.kind, "vocab": tokens.vocab},
        "training": dict(packing.facts),
        "verified": _verified(model, tokens, graph, packing.verified),
    }
    if packing.text is not None:
        figures = file_figures(GptFile(graph, native=False), packing.text, packing.streams)
        run["dev"] = {"characters": len(packing.text), "streams": packing.streams, **figures}
    write_run(folder, run)
    write_whole(folder / "README.md", language_card(run, model.config, folder).encode())
    return run


def _verified(model: SpikeGPT, tokens: TextTokens, graph: Path, count: int) -> dict[str, Any]:
    """Compare the file with the model; return how much was compared."""
    prompt = tokens.encode(_PROMPT).astype(np.int64)[None]
    report = verify(model, graph, prompt, native=False, tokens=count)
    if not report.ok or report.text is None:
        raise ExportError(f"The file is not the model: {report.verdict}. No folder was made; please report it.")
    return {
        "tokens": report.text.tokens,
        "spikes": report.spikes_compared,
        "different_spikes": report.spikes_different,
        "values": report.text.values + report.text.whole_values,
        "different_values": report.text.different_values + report.text.different_whole_values,
        "runtime": report.runtime,
    }
