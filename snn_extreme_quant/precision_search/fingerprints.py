"""Hashes of a model: is it the one that it was?"""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import SearchError

__all__ = ["Watch", "model_hash"]


def model_hash(model: nn.Module) -> str:
    """Return a hash of a model's saved tensors, and of each module's class and plain attributes.

    Plain are numbers, text, None, and tuples and frozen dataclasses of these. What a model holds of an evaluation
    (states of neurons, caches: tensors that are not saved, and names with an underscore in front), and whether it is
    in training mode, is left out.

    Example:
        >>> model_hash(nn.Softplus(beta=20.0)) == model_hash(nn.Softplus(beta=20.0))
        True
        >>> model_hash(nn.Softplus(beta=20.0)) == model_hash(nn.Softplus(beta=10.0))
        False
    """
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            found.update(_bytes(value))
    for name, module in model.named_modules():
        found.update(f"{name} {type(module).__qualname__} {sorted(_attributes(module))} ".encode())
    return found.hexdigest()


def _attributes(module: nn.Module) -> Iterator[tuple[str, str]]:
    for key, value in vars(module).items():
        name = key.lstrip("_")
        # SpikingJelly and snnTorch keep some settings behind a property: _step_mode, which is step_mode.
        hidden = key != name and not isinstance(getattr(type(module), name, None), property)
        if not hidden and name != "training" and _is_plain(value):
            yield name, repr(value)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    # Classes first: some that Brevitas keeps in its layers raise when they are asked for any attribute.
    if not isinstance(value, type) and dataclasses.is_dataclass(value):
        return all(_is_plain(getattr(value, field.name)) for field in dataclasses.fields(value))
    return value is None or isinstance(value, (bool, int, float, str))


def _bytes(tensor: Tensor) -> Any:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


class Watch:
    """Notices when tensors change.

    Args:
        tensors: by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember what they hold."""
        self.tensors = dict(tensors)
        self._sums = {name: zlib.crc32(_bytes(value)) for name, value in self.tensors.items()}
        self._versions = self._now()

    def _now(self) -> dict[str, tuple[int, int]]:
        return {
            name: (-1 if value.is_inference() else value._version, value.data_ptr())
            for name, value in self.tensors.items()
        }

    def check(self, *, closely: bool) -> None:
        """Raise :class:`SearchError` if one of them changed.

        Args:
            closely: also what was written through ``.data``, which takes the time of reading all of them.
        """
        now = self._now()
        suspects = [name for name, version in now.items() if closely or version != self._versions[name]]
        for name in suspects:
            if zlib.crc32(_bytes(self.tensors[name])) != self._sums[name]:
                raise SearchError(
                    f"The model changed between evaluations: {name!r} holds other numbers than before. evaluate() must"
                    " not train it or write to it (batch norms count in training mode)."
                )
        self._versions = now
