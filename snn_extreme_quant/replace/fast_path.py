"""torch's fused transformer encoder, which would run the float weights of swapped layers.

In evaluation without gradients ``nn.TransformerEncoderLayer`` hands ``linear1.weight`` and ``linear2.weight`` to one
fused kernel instead of calling the layers. The kernel knows only ReLU and GELU, and the layer remembers in the
attribute ``activation_relu_or_gelu`` which of the two it has; 0, for any other activation, is the one condition that
can be set for a single layer, travels with ``copy.deepcopy``, and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.replace.sites import Site

__all__ = ["calls_its_layers", "leave_fast_path"]

_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def calls_its_layers(module: nn.Module) -> bool:
    """Whether ``module``, if it is a transformer layer, calls ``linear1`` and ``linear2`` off the fast path."""
    base = next((cls for cls in _LAYERS if isinstance(module, cls)), None)
    if base is None:
        return True
    own = any(getattr(type(module), name, None) is not getattr(base, name) for name in ("forward", "_ff_block"))
    # Without the attribute there is no switch: a torch whose fast path has other conditions.
    known = base is not nn.TransformerEncoderLayer or hasattr(module, "activation_relu_or_gelu")
    return known and not own


def leave_fast_path(sites: Iterable[Site]) -> list[str]:
    """Switch the fast path off where it would miss quantised layers; return a note for each layer or encoder."""
    notes = []
    slow: set[nn.Module] = set()
    sites = list(sites)
    for site in sites:
        layer = site.module
        if not isinstance(layer, nn.TransformerEncoderLayer):
            continue
        if isinstance(layer.linear1, IntegerFirst) or isinstance(layer.linear2, IntegerFirst):
            slow.add(layer)
            if layer.activation_relu_or_gelu:
                layer.activation_relu_or_gelu = 0
                notes.append(
                    f"{site.names[0] or 'the model'}: torch's fast path, which runs float weights, is switched off"
                )
    for site in sites:
        encoder = site.module
        # The encoder packs padded sequences into a nested tensor, which only the fast path takes.
        if isinstance(encoder, nn.TransformerEncoder) and slow.intersection(encoder.layers):
            encoder.use_nested_tensor = False
    return notes
