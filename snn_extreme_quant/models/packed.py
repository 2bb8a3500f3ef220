"""Codes and scales of a model's quantised layers in place of their latent weights, in a safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import CheckpointError, ConfigError
from snn_extreme_quant.layers import Embedding, IntegerFirst
from snn_extreme_quant.quantizers.packing import LAYOUT_VERSION, LAYOUTS, pack, unpack

__all__ = ["PACKED_METADATA", "load_packed", "packed_tensors"]

#: Of each quantised layer, named and laid out as in an exported file, which can then read them from here.
_CODES, _SCALE = ".packed", ".scale"
_VERSION_KEY = "snn_extreme_quant.layouts"
#: What a file says beside its tensors; files of the first set of layouts say nothing.
PACKED_METADATA = {"format": "pt", _VERSION_KEY: str(LAYOUT_VERSION)}


def packed_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return codes and scales of quantised layers, and all other tensors as they are, by name."""
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


def _quantised(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, IntegerFirst)}


def _first_layout(layout: str) -> str:
    """Return where the first set of layouts, which had none in sections, kept the codes of a layout."""
    kind = LAYOUTS[layout]
    if not kind.sections:
        return layout
    return next(name for name in ("int4", "int8", "int16") if LAYOUTS[name].largest >= kind.largest)


def load_packed(model: nn.Module, path: Path) -> None:
    """Load what :func:`packed_tensors` gave; the latent weights become codes times scales.

    Raises:
        CheckpointError: the file cannot be read, or is of another model or other precisions.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
            first = _VERSION_KEY not in (file.metadata() or {})
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
            layout = layer.quantizer.layout
            layout = _first_layout(layout) if first else layout
            codes = unpack(packed, weight.shape[1] if table else weight.shape[0], layout)
            if (abs(codes) > layer.quantizer.largest).any():
                raise ConfigError(f"its codes are larger than {layer.config!r} has")
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
