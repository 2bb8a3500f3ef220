"""The optional package ``nir``, imported on first use."""

from __future__ import annotations

import importlib
from typing import Any

from snn_extreme_quant.errors import MissingDependencyError

__all__ = ["require_nir"]


def require_nir() -> Any:
    """Return the module ``nir``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module("nir")
    except ImportError as error:
        raise MissingDependencyError(
            f'NIR graphs need the package nir ({error}). Install it: pip install "snn-extreme-quant[nir]"'
        ) from error
