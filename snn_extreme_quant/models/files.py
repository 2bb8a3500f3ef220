"""``config.json`` and ``model.safetensors`` of a SpikingBERT, with latent weights or packed codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_extreme_quant.checkpoints import load_checkpoint, save_checkpoint
from snn_extreme_quant.errors import CheckpointError, ConfigError, OutputPathError
from snn_extreme_quant.layers import Embedding, IntegerFirst
from snn_extreme_quant.models.config import SpikingBertConfig
from snn_extreme_quant.models.spiking_bert import SpikingBert
from snn_extreme_quant.output_files import write_whole
from snn_extreme_quant.quantizers.packing import pack, unpack

__all__ = ["load", "save"]

_FORMAT, _VERSION = "snn_extreme_quant.spiking_bert", 1
#: Of each quantised layer, named and laid out as in an exported file, which can then read them from here.
_CODES, _SCALE = ".packed", ".scale"


def save(model: SpikingBert, folder: Path, packed: bool) -> None:
    """Write both files; :meth:`SpikingBert.save_pretrained`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputPathError(f"{folder} cannot be made: {error.strerror or error}.") from error
    if packed:
        from safetensors.torch import save as to_bytes

        write_whole(folder / "model.safetensors", to_bytes(_packed(model), {"format": "pt"}))
    else:
        save_checkpoint(model, folder / "model.safetensors")
    facts = {"format": _FORMAT, "version": _VERSION, "packed": packed, "config": model.config.to_dict()}
    write_whole(folder / "config.json", (json.dumps(facts, indent=2) + "\n").encode())


def _packed(model: SpikingBert) -> dict[str, Tensor]:
    layers = _quantised(model)
    quantiser_state = tuple(f"{name}.weight_quant." for name in layers)
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
        if name.removesuffix(".weight") not in layers and not name.startswith(quantiser_state)
    }
    for name, layer in layers.items():
        codes, scale = layer.integer_weight()
        flat = codes.detach().cpu().flatten(1).to(torch.int32).numpy()
        matrix = flat if isinstance(layer, Embedding) else flat.T
        tensors[name + _CODES] = torch.from_numpy(np.ascontiguousarray(pack(matrix, layer.quantizer.layout)))
        tensors[name + _SCALE] = scale.detach().cpu().float().contiguous().clone()
    return tensors


def _quantised(model: SpikingBert) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, IntegerFirst)}


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
        _unpack(model, folder / "model.safetensors")
    else:
        load_checkpoint(model, folder / "model.safetensors")
    return model


def _unpack(model: SpikingBert, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    scales = {}
    for name, layer in _quantised(model).items():
        missing = [part for part in (_CODES, _SCALE) if name + part not in tensors]
        if missing:
            raise CheckpointError(f"{path} has no {name + missing[0]!r}: it is of another model or precision.")
        weight = layer.weight
        packed = tensors.pop(name + _CODES).numpy()
        try:
            table = isinstance(layer, Embedding)
            codes = unpack(packed, weight.shape[1] if table else weight.shape[0], layer.quantizer.layout)
            codes = codes if table else np.ascontiguousarray(codes.T)
            scale = tensors.pop(name + _SCALE)
            layer.quantizer.fix_scale(scale)
            value = torch.from_numpy(codes.astype(np.float32)).reshape(weight.shape)
        except (ConfigError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path}: {name!r} does not fit the model: {error}") from error
        spread = layer.quantizer.granularity.spread(scale if scale.dim() == 2 else scale.unsqueeze(1), value)
        tensors[f"{name}.weight"], scales[name] = value * spread, scale
    try:
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{path} is not of this model: {error}") from error
    wrong = [*unexpected, *(name for name in missing if ".weight_quant." not in name)]
    if wrong:
        raise CheckpointError(f"{path} is not of this model: {wrong[0]!r} is in one of them alone.")
    for name, scale in scales.items():
        model.get_submodule(name).quantizer.fix_scale(scale)  # type: ignore[union-attr, operator]
