"""Which quantised class takes the place of a module, or why none does."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.utils import parametrize

from snn_extreme_quant import layers
from snn_extreme_quant.layers import IntegerFirst

__all__ = ["TORCH_LAYERS", "target_of"]

#: torch's float layers and what takes their place.
TORCH_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, name): getattr(layers, name)
    for name in (
        "Linear",
        "Conv1d",
        "Conv2d",
        "Conv3d",
        "ConvTranspose1d",
        "ConvTranspose2d",
        "ConvTranspose3d",
        "Embedding",
    )
}

#: Modules that multiply by Parameters of their own.
_OWN_WEIGHTS = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


def target_of(
    module: nn.Module, known: Mapping[type[nn.Module], type[nn.Module]], loaded: bool = True
) -> tuple[type | None, str]:
    """Return the class that takes ``module``'s place, or None and the reason.

    Args:
        module: any module.
        known: float classes with the quantised class of each; a subclass counts if it computes what its base does.
        loaded: whether its weight must hold numbers; on the meta device it has only a shape.
    """
    cls = type(module)
    if isinstance(module, IntegerFirst):
        return None, "already quantised"
    if parametrize.is_parametrized(module):
        return None, "its weight is parametrised; remove the parametrisation first"
    base = next((c for c in cls.__mro__ if c in known), None)
    if base is None:
        if isinstance(module, _OWN_WEIGHTS):
            return None, f"{cls.__name__} multiplies by its weights itself, not through layers that could be swapped"
        return None, f"no quantised layer for {cls.__name__}"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return None, "lazy and not initialised; run the model once first"
    target = known[base]
    reason = _unlike_its_base(module, base) or _weight_trouble(module, loaded) or _unfit(module, target)
    return (None, reason) if reason else (target, "")


def _unlike_its_base(module: nn.Module, base: type[nn.Module]) -> str:
    cls = type(module)
    for method in ("forward", "_conv_forward"):
        if getattr(cls, method, None) is not getattr(base, method, None):
            return f"{cls.__name__} overrides {base.__name__}.{method}()"
    return "its forward() was replaced on the instance" if "forward" in vars(module) else ""


def _weight_trouble(module: nn.Module, loaded: bool) -> str:
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is computed (weight_norm or the like); remove that first"
    if weight.is_meta and loaded:
        return "its weight is on the meta device; load it first"
    return "" if weight.is_floating_point() else f"its weight is {weight.dtype}"


def _unfit(module: nn.Module, target: type) -> str:
    """Ask the quantised class, if it has conditions of its own."""
    unfit = getattr(target, "unfit", None)
    return "" if unfit is None else str(unfit(module))
