"""Models that come with the package, each in a folder; ``docs/spiking_bert.md`` says what is in one.

Names and paths are had without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from snn_extreme_quant.errors import RegistryError
from snn_extreme_quant.registry import suggest

if TYPE_CHECKING:
    from snn_extreme_quant.models.spiking_bert import SpikingBert

__all__ = ["load", "names", "path"]

_FOLDER = Path(__file__).parent / "shipped"


def names() -> tuple[str, ...]:
    """Return the names of the models, in alphabetical order.

    Example:
        >>> "sst2-ternary" in names()
        True
    """
    return tuple(sorted(entry.parent.name for entry in _FOLDER.glob("*/run.json")))


def path(name: str) -> Path:
    """Return the folder of a model.

    Raises:
        RegistryError: there is no model of that name.

    Example:
        >>> (path("sst2-ternary") / "model.onnx").is_file()
        True
    """
    if name not in names():
        raise RegistryError(f"No model {name!r} comes with the package. {suggest(name, names())}")
    return _FOLDER / name


def load(name: str) -> SpikingBert:
    """Build a model with its weights, ready to run.

    Raises:
        RegistryError: there is no model of that name.
    """
    from snn_extreme_quant.models.spiking_bert import SpikingBert

    return SpikingBert.from_pretrained(path(name))
