"""``config.json`` and ``model.safetensors`` of a SpikingBERT, with latent weights or packed codes."""

from __future__ import annotations

import json
from pathlib import Path

from snn_extreme_quant.checkpoints import check_finite, load_checkpoint, save_checkpoint, to_safetensors
from snn_extreme_quant.errors import CheckpointError, ConfigError, OutputPathError
from snn_extreme_quant.models.bert.config import SpikingBertConfig
from snn_extreme_quant.models.bert.spiking_bert import SpikingBert
from snn_extreme_quant.models.packed import PACKED_METADATA, load_packed, packed_tensors
from snn_extreme_quant.output_files import write_whole

__all__ = ["load", "save"]

_FORMAT, _VERSION = "snn_extreme_quant.spiking_bert", 1


def save(model: SpikingBert, folder: Path, packed: bool) -> None:
    """Write both files; :meth:`SpikingBert.save_pretrained`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputPathError(f"{folder} cannot be made: {error.strerror or error}.") from error
    if packed:
        write_whole(folder / "model.safetensors", to_safetensors(packed_tensors(model), PACKED_METADATA))
    else:
        save_checkpoint(model, folder / "model.safetensors")
    facts = {"format": _FORMAT, "version": _VERSION, "packed": packed, "config": model.config.to_dict()}
    write_whole(folder / "config.json", (json.dumps(facts, indent=2) + "\n").encode())


def load(folder: Path) -> SpikingBert:
    """Read both files; :meth:`SpikingBert.from_pretrained`."""
    try:
        facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} cannot be read: {error}.") from error
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT or facts.get("version") != _VERSION:
        raise CheckpointError(f"{folder / 'config.json'} is not of a SpikingBert of this version (save_pretrained()).")
    try:
        config = SpikingBertConfig.from_dict(facts["config"])
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    model = SpikingBert(config)
    if facts.get("packed"):
        load_packed(model, folder / "model.safetensors")
    else:
        load_checkpoint(model, folder / "model.safetensors")
    check_finite(model, folder / "model.safetensors")
    return model.eval()
