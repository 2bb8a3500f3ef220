"""Weights of a quantised model in a safetensors file, with the precision of each layer.

A quantised model has the ``state_dict`` of the float one: the keys are the same and the values are the latent float
weights (a learned scale adds keys of its own). So ``model.load_state_dict(torch.load("float.pt"))`` works before and
after ``quantize_``, strictly, and the other way round. What a ``state_dict`` does not say is which layers were
quantised and how; the files here do.

Whole modules are not pickled: ``torch.save(model)`` and ``pickle`` fail on the classes that Brevitas makes on the fly.
Build the model in code, quantise it with the file's plan, and load the weights. ``copy.deepcopy`` works as always.

The state of neurons (membrane potentials) is not part of a checkpoint, as the frameworks do not save it either.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.config import PrecisionPlan, WeightConfig, config_from_dict
from snn_extreme_quant.errors import CheckpointError, ConfigError
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.output_files import check_writable, write_whole

__all__ = ["check_finite", "checkpoint_plan", "load_checkpoint", "not_finite", "save_checkpoint", "to_safetensors"]

_KEY = "snn_extreme_quant"
_FORMAT = "snn_extreme_quant.checkpoint"
_VERSION = 1
#: Bytes of a safetensors file that tell the header's length, and what the header is filled up to a multiple of.
_LENGTH, _ALIGNMENT = 8, 8


def save_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Write the weights of ``model`` and the precision of its layers.

    A weight with several names is stored once. The file appears whole or not at all.

    Args:
        model: a model, quantised or not.
        path: the file, usually ``*.safetensors``.

    Raises:
        OutputPathError: the file cannot be written.
        CheckpointError: the model's ``state_dict`` holds something other than tensors.

    Example:
        >>> import tempfile
        >>> from snn_extreme_quant import Ternary, quantize_
        >>> net, twin = (nn.Sequential(nn.Linear(4, 2)) for _ in range(2))
        >>> _ = quantize_(net, Ternary())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_checkpoint(net, f"{folder}/net.safetensors")
        ...     _ = quantize_(twin, checkpoint_plan(f"{folder}/net.safetensors"))
        ...     load_checkpoint(twin, f"{folder}/net.safetensors")
        >>> torch.equal(net[0].weight, twin[0].weight)
        True
    """
    path = Path(path)
    check_writable(path)
    tensors: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    stored: dict[tuple[Any, ...], str] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.is_meta:
            what = "on the meta device" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise CheckpointError(f"{name!r} is {what}; a checkpoint holds tensors with values alone.")
        first = stored.setdefault(_place(name, value), name)
        if first == name:
            tensors[name] = value.detach().cpu().contiguous().clone()
        else:
            same[name] = first
    facts = {
        "format": _FORMAT,
        "version": _VERSION,
        "layers": {name: config.to_dict() for name, config in _precisions(model).items()},
        "same": same,
    }
    # "format" is what other readers of safetensors files look for.
    write_whole(path, to_safetensors(tensors, {"format": "pt", _KEY: json.dumps(facts)}))


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity; None if none does.

    Example:
        >>> not_finite([("weight", torch.ones(2)), ("bias", torch.tensor([0.0, float("nan")]))])
        'bias'
    """
    for name, value in tensors:
        if value.is_floating_point() and value.numel():
            # The ends of the range are found in one pass without a copy, and are NaN if one of the values is.
            least, most = torch.aminmax(value.detach())
            if not bool(torch.isfinite(least) & torch.isfinite(most)):
                return name
    return None


def check_finite(model: nn.Module, source: str | Path) -> None:
    """Raise :class:`CheckpointError` if a parameter that was loaded is NaN or infinite; the message names it.

    A forward pass need not show it: neurons do not fire at a current of NaN, so a network's outputs may stay finite.
    """
    name = not_finite(model.named_parameters())
    if name is not None:
        raise CheckpointError(
            f"{source}: {name!r} holds NaN or infinite values: the training that wrote it had gone wrong, or the file"
            " is damaged. Take an earlier checkpoint."
        )


def to_safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Return the bytes of a safetensors file; those of the same contents are the same in every process.

    Args:
        tensors: contiguous, on the CPU.
        metadata: what safetensors itself would write in an order that changes from call to call.

    Example:
        >>> data = to_safetensors({"x": torch.zeros(1)}, {"b": "2", "a": "1"})
        >>> data[8 : 8 + int.from_bytes(data[:8], "little")].strip()
        b'{"__metadata__":{"a":"1","b":"2"},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    """
    from safetensors.torch import save

    data = save(tensors, metadata)
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    header = json.loads(data[_LENGTH:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join((len(text).to_bytes(_LENGTH, "little"), text, memoryview(data)[end:]))


def _place(name: str, value: Tensor) -> tuple[Any, ...]:
    """Return what two names of one tensor have in common. Tensors without elements all lie at address 0."""
    if not value.numel():
        return (name,)
    return (value.data_ptr(), value.dtype, value.device, tuple(value.shape), value.stride())


def _precisions(model: nn.Module) -> dict[str, WeightConfig]:
    modules = model.named_modules(remove_duplicate=False)
    return {name: module.config for name, module in modules if isinstance(module, IntegerFirst)}


def checkpoint_plan(path: str | Path) -> PrecisionPlan:
    """Return the precisions with which the model in the file was quantised, for :func:`~snn_extreme_quant.quantize_`.

    Args:
        path: a file that :func:`save_checkpoint` wrote.

    Raises:
        CheckpointError: the file cannot be read, or says nothing of precisions.
    """
    _, facts = _read(Path(path))
    if facts is None:
        raise CheckpointError(
            f"{path} was not written by save_checkpoint(): it holds weights, but not the precision of layers. Choose"
            " them yourself: quantize_(model, Ternary()), then load_checkpoint()."
        )
    return PrecisionPlan(_layers(facts))


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load the weights in the file into ``model``, strictly; on an error the model keeps the weights it has.

    A file of float weights, of :func:`save_checkpoint` or of anybody else, loads into a float model and into a
    quantised one. A file of a quantised model loads only into a model that is quantised in the same way.

    Args:
        model: the model; its names and shapes must be those of the file.
        path: a safetensors file.

    Raises:
        CheckpointError: the file cannot be read, or is of another model or other precisions; the message names the
            first layers that differ.
    """
    path = Path(path)
    tensors, facts = _read(path)
    if facts is not None:
        for name, first in facts["same"].items():
            tensors[name] = tensors[first]
        _check_precisions(_layers(facts), _precisions(model), path)
    _check_ties(model, tensors, path)
    before = {name: value.detach().clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        # torch has by then copied what does fit, and a layer may have taken over a fixed scale.
        for name, module in model.named_modules():
            if isinstance(module, IntegerFirst) and f"{name}.weight_quant.tensor_quant.fixed_scale" not in before:
                module.quantizer.fix_scale(None)
        model.load_state_dict(before, strict=False)
        raise CheckpointError(f"{path} is not of this model: {error}") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return the tensors, and what this package wrote beside them, if it did."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is no safetensors file, or is damaged: {error}. A file of torch.save() loads with"
            " model.load_state_dict(torch.load(path))."
        ) from error
    if _KEY not in metadata:
        return tensors, None
    try:
        facts = json.loads(metadata[_KEY])
        whole = (facts["format"], facts["version"]) == (_FORMAT, _VERSION)
        whole = whole and isinstance(facts["layers"], dict) and set(facts["same"].values()) <= set(tensors)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} holds damaged metadata: {error!r}. Save it again.") from error
    if not whole:
        raise CheckpointError(
            f"{path} is of format {facts['format']!r}, version {facts['version']!r}, or damaged; this release reads"
            f" {_FORMAT!r}, version {_VERSION}."
        )
    return tensors, facts


def _layers(facts: Mapping[str, Any]) -> dict[str, WeightConfig]:
    try:
        return {name: config_from_dict(config) for name, config in facts["layers"].items()}
    except ConfigError as error:
        raise CheckpointError(f"The checkpoint names a precision that this release does not know: {error}") from error


def _check_precisions(saved: Mapping[str, WeightConfig], present: Mapping[str, WeightConfig], path: Path) -> None:
    if not saved or saved == present:
        return  # float weights load into anything
    names = [name for name in {**saved, **present} if saved.get(name) != present.get(name)]
    shown = [
        f"{name!r} is {saved.get(name, 'float')!r} in the file and {present.get(name, 'float')!r} in the model"
        for name in names[:3]
    ]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    raise CheckpointError(
        f"{path} is of other precisions: {'; '.join(shown)}{more}. Build the float model and call"
        f" quantize_(model, checkpoint_plan({str(path)!r})) before loading."
    )


def _check_ties(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse two values for one tensor: the later name would win, silently."""
    names: dict[tuple[Any, ...], str] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor) or name not in tensors:
            continue
        first = names.setdefault(_place(name, value), name)
        if not _equal(tensors[first], tensors[name]):
            raise CheckpointError(
                f"{path} holds different values for {first!r} and {name!r}, which are one tensor in the model; untie"
                " them, or load the checkpoint of a model in which they are tied."
            )


def _equal(first: Tensor, second: Tensor) -> bool:
    return first is second or (first.shape == second.shape and torch.equal(first, second))
