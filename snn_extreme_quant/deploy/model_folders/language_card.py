"""The card of a language model's folder, written from what its ``run.json`` says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snn_extreme_quant.deploy.model_folders.card import files_table, licence_lines, training_lines
from snn_extreme_quant.models import SpikeGPTConfig

__all__ = ["language_card"]

_FILES = ("model.safetensors", "model.onnx", "tokens.json", "tokenizer.json", "config.json", "run.json")


def language_card(run: Mapping[str, Any], config: SpikeGPTConfig, folder: Path) -> str:
    """Return the card as Markdown; what nobody measured or told is left out, not made up.

    Args:
        run: the contents of ``run.json``.
        config: of the model.
        folder: the folder, for the sizes of its files.
    """
    kind = "A SpikeGPT" if config.spiking else "An RWKV-4"
    about = (
        f"{kind} ({config.layers} layers, width {config.hidden}) that goes on with a text;"
        f" {run['tokens']['vocab']} tokens, {_units(run)}. Weights: {_weights(config)}."
    )
    command = f'```\nsxq generate {run["name"]} --prompt "The"\n```'
    table, total = files_table(folder, _FILES)
    limits = (
        "It has learned from its training text alone, goes on in its manner, and knows no facts. What it writes may"
        " repeat that text's biases."
    )
    training: Mapping[str, Any] = run["training"]
    parts = [
        f"# {run['name']}", about, command, "## Figures", _figures(run), "## Files", table, f"In all {total:,} bytes.",
        "## Training", training_lines(training), "## Licences", licence_lines(training), "## Limits", limits,
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _units(run: Mapping[str, Any]) -> str:
    return {"characters": "characters", "bytes": "bytes", "bpe": "byte-level BPE"}[run["tokens"]["kind"]]


def _weights(config: SpikeGPTConfig) -> str:
    kinds = sorted({type(rule).__name__.lower() for name, rule in config.plan.rules if not name.startswith("emb")})
    embedding = "; the embedding's signs, one bit an entry" if config.binarised else ""
    return f"{', '.join(kinds) or 'float'}{embedding}"


def _figures(run: Mapping[str, Any]) -> str:
    told = []
    if (dev := run.get("dev")) is not None:
        unit = "byte" if run["tokens"]["kind"] == "bytes" else "character"
        told.append(
            f"{dev['bits_per_character']:.3f} bits per {unit} (perplexity of a token {dev['perplexity']:.2f}) on a dev"
            f" text of {dev['characters']:,} characters that it was not trained on, by this `model.onnx` on stock"
            f" onnxruntime ({dev['streams']} parts side by side)."
        )
    checked = run["verified"]
    told.append(
        f"Compared with the packed model in torch while both generated {checked['tokens']:,} tokens:"
        f" {checked['different_spikes']} of {checked['spikes']:,} spikes differ, and {checked['different_values']} of"
        f" {checked['values']:,} logits and values of the state ({checked['runtime']})."
    )
    return " ".join(told)
