"""What NIR has no fields for, carried in the ``metadata`` of its nodes.

Everything lies under the key :data:`KEY`: one JSON text ``about``, and arrays beside it. HDF5, in which NIR is stored,
keeps both as they are; lists, booleans and arrays without axes it would change or refuse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_extreme_quant.config import WeightConfig, config_from_dict
from snn_extreme_quant.errors import ConfigError, ModelEditedError, ModelFileError
from snn_extreme_quant.frameworks import NeuronReading
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.quantizers.packing import pack, unpack

__all__ = ["KEY", "VERSION", "about", "codes_of", "pack_about", "pack_codes", "pack_neuron", "reading_of"]

KEY = "snn_extreme_quant"
VERSION = 1


def pack_about(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
    """Return metadata of JSON-ready values and arrays."""
    return {KEY: {"about": json.dumps({"version": VERSION, **about}), **(arrays or {})}}


def about(node: Any) -> dict[str, Any] | None:
    """Return what :func:`pack_about` put into a node, or None if another program wrote it.

    Raises:
        ModelFileError: the metadata is damaged, or of a later version.
    """
    found = (getattr(node, "metadata", None) or {}).get(KEY)
    if found is None:
        return None
    try:
        data = json.loads(found["about"])
        version = data["version"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"The metadata {KEY!r} of a {type(node).__name__} node is damaged: {error!r}.") from error
    if version != VERSION:
        raise ModelFileError(f"The NIR metadata is of version {version}; this release reads {VERSION}. Update sxq.")
    arrays: dict[str, Any] = {name: value for name, value in found.items() if name != "about"}
    return {**data, **arrays}


def pack_codes(layer: IntegerFirst, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return a quantised layer's codes, scale, bit width and config as metadata."""
    codes, scale = (value.detach().cpu() for value in layer.integer_weight())
    matrix = np.ascontiguousarray(codes.flatten(1).T.to(torch.int32).numpy())
    layout = layer.quantizer.layout
    about = {
        "config": layer.config.to_dict(),
        "layout": layout,
        "bits": layer.quantizer.bits,
        "shape": list(codes.shape),
    }
    return pack_about({**about, **more}, {"codes": pack(matrix, layout), "scale": scale.float().numpy()})


def codes_of(name: str, data: Mapping[str, Any]) -> tuple[Tensor, Tensor, WeightConfig]:
    """Return codes (float32, shape of the weight), scale and config from a node's metadata.

    Raises:
        ModelFileError: they are damaged.
    """
    try:
        shape, layout = tuple(data["shape"]), data["layout"]
        matrix = unpack(np.asarray(data["codes"]), shape[0], layout)
        codes = torch.from_numpy(np.ascontiguousarray(matrix.T, np.float32)).reshape(shape)
        scale = torch.from_numpy(np.array(data["scale"], np.float32))
        config = config_from_dict(data["config"])
    except (KeyError, TypeError, RuntimeError, ValueError, ConfigError) as error:
        raise ModelFileError(f"The codes of node {name!r} are damaged: {error}") from error
    if scale.dim() not in (1, 2) or scale.shape[0] != shape[0] or not bool((torch.isfinite(scale)).all()):
        raise ModelFileError(f"The scale of node {name!r} is damaged: shape {tuple(scale.shape)} for {shape[0]} rows.")
    return codes, scale, config


def check_weight(name: str, weight: Tensor, baked: Tensor) -> None:
    """Refuse a node whose weight is no longer that of its codes.

    Raises:
        ModelEditedError: the weight was changed.
    """
    if weight.shape != baked.shape or not torch.equal(weight, baked):
        raise ModelEditedError(
            f"The weight of node {name!r} is not that of its codes and scale: it was changed after to_nir()."
            f" Delete node.metadata[{KEY!r}] to load it as a float layer."
        )


def pack_neuron(reading: NeuronReading, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return a neuron's spec, parameters and initial state as metadata."""
    values = {name: value.cpu().numpy() for name, value in reading.parameters.items()}
    about = {
        "spec": reading.spec.to_dict(),
        "shapes": {name: list(value.shape) for name, value in values.items()},
        "initial": dict(reading.initial),
        "multi_step": reading.multi_step,
    }
    return pack_about({**about, **more}, {f"parameter_{name}": value.reshape(-1) for name, value in values.items()})


def reading_of(name: str, data: Mapping[str, Any]) -> NeuronReading:
    """Return the neuron that :func:`pack_neuron` packed.

    Raises:
        ModelFileError: the metadata is damaged.
    """
    try:
        parameters = {
            key: torch.from_numpy(np.array(data[f"parameter_{key}"], np.float32)).reshape(tuple(shape))
            for key, shape in data["shapes"].items()
        }
        return NeuronReading(
            NeuronSpec.from_dict(data["spec"]),
            parameters,
            initial=data["initial"],
            multi_step=bool(data["multi_step"]),
            returns_state=bool(data["returns_state"]),
        )
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ModelFileError(f"The neuron of node {name!r} is damaged: {error}") from error
