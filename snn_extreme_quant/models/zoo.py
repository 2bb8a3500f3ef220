"""Models that come with the package, each in a folder; ``docs/spiking_bert.md`` (Shipped models) says what is in one.

Names and paths are had without torch.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from snn_extreme_quant.errors import RegistryError
from snn_extreme_quant.registry import suggest

if TYPE_CHECKING:
    from snn_extreme_quant.models.bert.spiking_bert import SpikingBert
    from snn_extreme_quant.models.gpt.spike_gpt import SpikeGPT

__all__ = ["Kind", "load", "names", "path"]

#: What a model does: label texts (a SpikingBert), or go on with one (a SpikeGPT).
Kind = Literal["classifier", "language"]

_FOLDER = Path(__file__).parent / "shipped"


@cache
def _kinds() -> dict[str, str]:
    """Return what each model does, in alphabetical order of their names."""
    runs = sorted(_FOLDER.glob("*/run.json"))
    return {run.parent.name: json.loads(run.read_text(encoding="utf-8")).get("kind", "classifier") for run in runs}


def names(kind: Kind | None = None) -> tuple[str, ...]:
    """Return the names of the models, in alphabetical order.

    Args:
        kind: of those alone that do this.

    Example:
        >>> "sst2-ternary" in names("classifier")
        True
    """
    return tuple(name for name, does in _kinds().items() if kind in (None, does))


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


def load(name: str) -> SpikingBert | SpikeGPT:
    """Build a model with its weights, ready to run.

    Raises:
        RegistryError: there is no model of that name.
    """
    if name in names("language"):
        from snn_extreme_quant.models.gpt.spike_gpt import SpikeGPT

        return SpikeGPT.from_pretrained(path(name)).eval()
    from snn_extreme_quant.models.bert.spiking_bert import SpikingBert

    return SpikingBert.from_pretrained(path(name))
