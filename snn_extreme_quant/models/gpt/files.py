"""``config.json`` and ``model.safetensors`` of a SpikeGPT, with latent weights or packed codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from torch import nn

from snn_extreme_quant.checkpoints import check_finite, load_checkpoint, save_checkpoint, to_safetensors
from snn_extreme_quant.data.text_tokens import TextTokens
from snn_extreme_quant.errors import CheckpointError, ConfigError, OutputPathError
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.models.gpt.config import SpikeGPTConfig
from snn_extreme_quant.models.gpt.spike_gpt import SpikeGPT
from snn_extreme_quant.models.packed import PACKED_METADATA, load_packed, packed_tensors
from snn_extreme_quant.output_files import write_whole

__all__ = ["load", "load_language_model", "save"]

_FORMAT, _VERSION = "snn_extreme_quant.spike_gpt", 1


def save(model: SpikeGPT, folder: Path, packed: bool) -> None:
    """Write both files; :meth:`SpikeGPT.save_pretrained`."""
    for name, layer in model.named_modules():
        if isinstance(layer, IntegerFirst) and layer.config != model.config.plan.config_for(name):
            raise ConfigError(
                f"Layer {name!r} has {layer.config!r}, but the model's configuration says"
                f" {model.config.plan.config_for(name)!r}; quantise it with model.set_weights(...), so"
                " that the files know."
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputPathError(f"{folder} cannot be made: {error.strerror or error}.") from error
    config = model.config
    if packed:
        tensors = packed_tensors(model)
        if config.tied and any(isinstance(layer, IntegerFirst) for layer in (model.emb, model.head)):
            config = replace(config, tied=False)  # one latent table, but two of codes
        elif config.tied:
            del tensors["head.weight"]
        write_whole(folder / "model.safetensors", to_safetensors(tensors, PACKED_METADATA))
    else:
        save_checkpoint(model, folder / "model.safetensors")
    facts = {"format": _FORMAT, "version": _VERSION, "packed": packed, "config": config.to_dict()}
    write_whole(folder / "config.json", (json.dumps(facts, indent=2) + "\n").encode())


def load(folder: Path) -> SpikeGPT:
    """Read both files; :meth:`SpikeGPT.from_pretrained`."""
    model = _loaded(folder)
    check_finite(model, folder / "model.safetensors")
    return model.eval()


def _loaded(folder: Path) -> SpikeGPT:
    path = folder / "config.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT or facts.get("version") != _VERSION:
        raise CheckpointError(f"{path} is not of a SpikeGPT of this version (save_pretrained()).")
    try:
        config = SpikeGPTConfig.from_dict(facts["config"])
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not facts.get("packed"):
        model = SpikeGPT(config)
        load_checkpoint(model, folder / "model.safetensors")
        return model
    # Packed tables of a tied model are float ones: the head reads the embedding's.
    model = SpikeGPT(replace(config, tied=False))
    if config.tied:
        del model.head
        load_packed(model, folder / "model.safetensors")
        model.head = nn.Linear(config.hidden, config.outputs, bias=False)
        model.head.weight = model.emb.weight
        model.config = config
        return model
    load_packed(model, folder / "model.safetensors")
    return model


def load_language_model(folder: Path) -> tuple[SpikeGPT, TextTokens]:
    """Load a SpikeGPT that goes on with a text, and what its tokens are.

    Raises:
        CheckpointError: a file is missing or damaged, or the tokens are another model's.
        ConfigError: it is a classifier.
        DataError: the folder does not say what a token is.
    """
    model, tokens = SpikeGPT.from_pretrained(folder), TextTokens.load(folder)
    if model.config.head != "tokens":
        raise ConfigError(
            f"{folder} is a classifier (head={model.config.head!r}), not a language model: sxq export writes its file,"
            " and sxq classify --model FILE labels texts with it."
        )
    if model.config.vocab != tokens.vocab:
        raise CheckpointError(f"{folder}: the model has {model.config.vocab} tokens, tokens.json {tokens.vocab}.")
    return model, tokens
