"""Which layers snnTorch's neurons hold, and call like any layer.

Read in snnTorch 1.0: these attributes are called, and their ``weight`` is not read. What is not named here either reads
its weights itself (``SLSTM.lstm_cell``, ``LeakyParallel.rnn``) or holds no layer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch import nn

__all__ = ["INNER_LAYERS", "inner_layers"]

#: Class names of snnTorch, each with the attributes that are layers.
INNER_LAYERS: dict[str, tuple[str, ...]] = {
    "RLeaky": ("recurrent",),
    "RSynaptic": ("recurrent",),
    "LinearLeaky": ("linear",),
    "SConv2dLSTM": ("conv",),
    "AssociativeLeaky": ("to_v", "to_k", "to_alpha", "to_q"),
}


def inner_layers(module: nn.Module) -> Sequence[str]:
    """Return the attributes of a neuron that hold layers which it calls, and which may therefore be swapped.

    A subclass that overrides a method of the class that is known may use them in another way: it gets none.

    Args:
        module: any module.

    Example:
        >>> import snntorch
        >>> inner_layers(snntorch.RLeaky(0.9, linear_features=4))
        ('recurrent',)
    """
    snntorch = sys.modules.get("snntorch")
    if snntorch is None:  # no module of a framework that was never imported exists
        return ()
    known = {getattr(snntorch, name): attributes for name, attributes in INNER_LAYERS.items()}
    cls = type(module)
    base = next((c for c in cls.__mro__ if c in known), None)
    if base is None:
        return ()
    methods = {name for c in base.__mro__[:-1] if c is not nn.Module for name in vars(c)} - {"__init__"}
    methods = {name for name in methods if callable(getattr(base, name, None)) and not name.startswith("__")}
    overridden = any(methods & set(vars(c)) for c in cls.__mro__[: cls.__mro__.index(base)])
    replaced = methods & set(vars(module))
    if overridden or replaced:
        return ()
    return tuple(name for name in known[base] if isinstance(getattr(module, name, None), nn.Module))
