"""Checkpoints in the layout of SpikeGPT's released training code, read and written."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_extreme_quant.checkpoints import check_finite
from snn_extreme_quant.errors import CheckpointError, ConfigError
from snn_extreme_quant.models.gpt.config import SpikeGPTConfig
from snn_extreme_quant.models.gpt.spike_gpt import SpikeGPT
from snn_extreme_quant.output_files import check_writable, write_whole
from snn_extreme_quant.registry import suggest

__all__ = ["load_released", "released_config", "save_released"]

#: Tensors of older variants, which compute something else.
_OTHER = {"pos_emb": "position embeddings", "head_q": "a copying head", "head_k": "a copying head", "ffnPre": "an FFN"}
_DECIDED = ("vocab", "layers", "hidden", "ffn", "head", "tied", "weights")


def load_released(path: str | Path, **config: Any) -> SpikeGPT:
    """Load a checkpoint of the released layout; nothing in it is executed.

    Args:
        path: a ``.pth`` of ``torch.save`` or a ``.safetensors``.
        **config: fields of :class:`SpikeGPTConfig` that the file does not decide, as ``binary_embedding``, ``inputs``.

    Returns:
        A model with float weights in evaluation mode; quantise it with ``set_weights``.

    Raises:
        CheckpointError: the file cannot be read, or a tensor is missing, surplus, of another shape, or holds NaN or
            infinity; the message names it.
        ConfigError: a field that the file decides, or that does not exist.
    """
    path = Path(path)
    tensors = _read(path)
    found = released_config({name: tuple(value.shape) for name, value in tensors.items()}, str(path), **config)
    with torch.device("meta"):
        model = SpikeGPT(found)
    expected = model.state_dict()
    for name, value in expected.items():
        if tensors[name].shape != value.shape:
            raise CheckpointError(
                f"{path}: {name!r} has shape {tuple(tensors[name].shape)}; a SpikeGPT of width {found.hidden} and"
                f" vocabulary {found.vocab} needs {tuple(value.shape)}."
            )
        _check_kind(path, name, tensors[name])
    values = {name: tensors[name].float() for name in expected}
    # The released code compares with >= 0, the unit step here reads the sign bit.
    values["emb.weight"] = values["emb.weight"] + 0.0
    model.load_state_dict(values, assign=True)
    check_finite(model, path)
    return model.requires_grad_(True).eval()


def _check_kind(path: Path, name: str, value: Tensor) -> None:
    """Refuse a tensor that is no plain array of floating-point numbers."""
    if value.is_meta:
        raise CheckpointError(f"{path}: {name!r} has a shape but no values (it is on the meta device); save them too.")
    if value.layout is not torch.strided or value.is_quantized:
        raise CheckpointError(f"{path}: {name!r} is sparse or quantised; save it as a plain tensor, .to_dense().")
    if not value.is_floating_point():
        raise CheckpointError(f"{path}: {name!r} is of {value.dtype}; weights are floating point.")


def released_config(
    shapes: Mapping[str, tuple[int, ...]], where: str = "The checkpoint", **config: Any
) -> SpikeGPTConfig:
    """Return the configuration of a checkpoint from the names and shapes of its tensors.

    Args:
        shapes: by name.
        where: what errors call it.
        **config: fields that the shapes do not decide.

    Raises:
        CheckpointError: a tensor is missing or surplus.
        ConfigError: a field that the shapes decide, or that does not exist.
    """
    known = {field.name for field in fields(SpikeGPTConfig)} - set(_DECIDED)
    for name in config:
        if name in _DECIDED:
            raise ConfigError(f"load_released({name}=...): the file decides it; leave it out.")
        if name not in known:
            raise ConfigError(f"load_released({name}=...): SpikeGPTConfig has no such field. {suggest(name, known)}")
    for name in shapes:
        for part, what in _OTHER.items():
            if part in name:
                raise CheckpointError(f"{where} holds {name!r}: {what} of another variant, which is not SpikeGPT.")
    numbers = {int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))}
    for name in ("emb.weight", "blocks.0.ffn.key.weight"):
        if len(shapes.get(name, ())) != 2:
            raise CheckpointError(f"{where} has no matrix {name!r}: it is no checkpoint of SpikeGPT.")
    gap = next(number for number in itertools.count() if number not in numbers)
    if gap < max(numbers):
        raise CheckpointError(
            f"{where} has no 'blocks.{gap}.ln1.weight', but a 'blocks.{max(numbers)}': it is no SpikeGPT."
        )
    (vocab, hidden), wide = shapes["emb.weight"], shapes["blocks.0.ffn.key.weight"][0]
    layers, ffn = 1 + max(numbers), 0 if wide == 4 * hidden else wide
    found = SpikeGPTConfig(vocab=vocab, hidden=hidden, layers=layers, ffn=ffn, **config)
    with torch.device("meta"):
        expected = SpikeGPT(found).state_dict()
    for names, what in ((expected.keys() - shapes.keys(), "has no"), (shapes.keys() - expected.keys(), "also has")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{where} {what} {min(names)!r}{more}: it is no SpikeGPT of {found.layers} layers.")
    return found


def save_released(model: SpikeGPT, path: str | Path) -> None:
    """Write a model's float weights in the released layout, to ``.pth`` or ``.safetensors``.

    Of a quantised model they are the latent weights that it is trained with; one that was loaded from a packed file has
    codes times scales in their place, and its file holds these.

    Raises:
        ConfigError: it is no SpikeGPT.
        CheckpointError: a classifier, which the layout does not have.
        OutputPathError: the file cannot be written.
    """
    path = Path(path)
    given: object = model
    if not isinstance(given, SpikeGPT):
        what = type(given).__name__
        raise ConfigError(f"save_released() writes a SpikeGPT; got {what}, which has no released layout.")
    if model.config.head != "tokens":
        raise CheckpointError(
            f"The released layout has a row of the head for each token; this is {model.config.head!r}."
        )
    check_writable(path)
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
        if ".weight_quant." not in name
    }
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        write_whole(path, save(tensors, {"format": "pt"}))
        return
    import io

    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    write_whole(path, buffer.getvalue())


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}.") from error
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # what a damaged pickle raises is of any type
        raise CheckpointError(
            f"{path} is damaged, or holds other objects than tensors, which are not loaded: such a file could run any"
            " code. Save tensors alone where it was made: torch.save(model.state_dict(), path)."
        ) from error
    if not isinstance(data, dict) or not all(isinstance(value, Tensor) for value in data.values()):
        raise CheckpointError(f"{path} holds no dictionary of tensors.")
    return {str(name): value for name, value in data.items()}
