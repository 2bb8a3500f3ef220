"""``quantize_``: swap a model's layers for quantised ones, in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from snn_extreme_quant.config import Float, PrecisionPlan, WeightConfig, check_patterns, matches
from snn_extreme_quant.errors import (
    ConfigError,
    NonFiniteWeightError,
    NothingToQuantizeError,
    UnsupportedModelError,
)
from snn_extreme_quant.frameworks import frameworks, neurons_of
from snn_extreme_quant.layers import Conv1d, Conv2d, IntegerFirst, Linear

__all__ = ["LeftLayer", "QuantizeReport", "ReplacedLayer", "quantize_"]

#: torch's float layers and what takes their place.
_TORCH_LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: Linear, nn.Conv1d: Conv1d, nn.Conv2d: Conv2d}

#: Modules that read their children's weights themselves: swapping the children would change nothing, or break them.
_READ_CHILDREN = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


@dataclass(frozen=True)
class ReplacedLayer:
    """A layer that was swapped: its names (several if shared), what it was, its precision and its weight's shape."""

    names: tuple[str, ...]
    was: str
    config: WeightConfig
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LeftLayer:
    """A module with weights that stays in float, and why."""

    name: str
    type: str
    reason: str


@dataclass(frozen=True)
class QuantizeReport:
    """What :func:`quantize_` did. Printing it gives a table."""

    replaced: tuple[ReplacedLayer, ...]
    left: tuple[LeftLayer, ...]

    @property
    def quantized_weights(self) -> int:
        """How many weights are now binary or ternary."""
        return sum(torch.Size(layer.shape).numel() for layer in self.replaced)

    def __str__(self) -> str:
        """Render as a plain table."""
        rows = [(" = ".join(r.names), r.was, r.config.kind, "x".join(map(str, r.shape))) for r in self.replaced]
        rows += [(entry.name, entry.type, "float", entry.reason) for entry in self.left]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        lines = ["  ".join((*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3])) for row in rows]
        return "\n".join((f"{len(self.replaced)} layers quantised, {len(self.left)} left in float", *lines))


def _target(module: nn.Module, known: Mapping[type[nn.Module], type[nn.Module]]) -> tuple[type[nn.Module] | None, str]:
    """Return the class that takes ``module``'s place, or None and the reason."""
    cls = type(module)
    if isinstance(module, IntegerFirst):
        return None, "already quantised"
    if parametrize.is_parametrized(module):
        return None, "its weight is parametrised; remove the parametrisation first"
    base = next((c for c in cls.__mro__ if c in known), None)
    if base is None:
        return None, f"no quantised layer for {cls.__name__}"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return None, "lazy and not initialised; run the model once first"
    for method in ("forward", "_conv_forward"):
        if getattr(cls, method, None) is not getattr(base, method, None):
            return None, f"{cls.__name__} overrides {base.__name__}.{method}()"
    if "forward" in vars(module):
        return None, "its forward() was replaced on the instance"
    if "weight" not in module._parameters:
        return None, "its weight is computed (weight_norm or the like); remove that first"
    return known[base], ""


def _has_matrix(module: nn.Module) -> bool:
    return any(p is not None and p.dim() >= 2 for p in module._parameters.values())  # noqa: PLR2004


def _inside(name: str, outer: str) -> bool:
    return outer == "" or name.startswith(f"{outer}.")


def quantize_(
    model: nn.Module,
    config: WeightConfig | PrecisionPlan,
    skip: Iterable[str] = (),
) -> QuantizeReport:
    """Swap the layers of ``model`` for binary or ternary ones, in place.

    ``nn.Linear``, ``nn.Conv1d``, ``nn.Conv2d`` and the frameworks' own subclasses of them are swapped, wherever they
    are in the model. The new layers hold the *same* Parameter objects, hooks, training flag and step mode, so that
    ties, optimisers and handles stay valid. All checks come first: on an error nothing has been changed.

    Args:
        model: a model with neurons of snnTorch or SpikingJelly (or none).
        config: one precision for all layers, or a plan that assigns them by name.
        skip: names or shell patterns of layers, or of modules that hold layers, to leave in float.

    Returns:
        What was replaced, what was left, and why.

    Raises:
        UnmatchedNameError: a name in ``skip`` or in the plan matches nothing.
        NonFiniteWeightError: a weight that would be quantised is NaN or infinite.
        NothingToQuantizeError: no layer is left to quantise.
        UnsupportedModelError: ``model`` is itself the layer; it cannot be swapped in place.

    Example:
        >>> from snn_extreme_quant import Ternary
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> print(quantize_(net, Ternary(), skip=["2"]))
        1 layers quantised, 1 left in float
        0  Linear  ternary  8x4
        2  Linear  float    skipped by name
    """
    plan = config if isinstance(config, PrecisionPlan) else PrecisionPlan(default=_checked(config))
    skip = [skip] if isinstance(skip, str) else list(skip)
    loaded = frameworks()
    known = dict(_TORCH_LAYERS)
    for framework in loaded:
        known.update(framework.layers())
    if type(model) in known:
        raise UnsupportedModelError(
            f"The model is itself a {type(model).__name__}; put it into nn.Sequential(...) to have it swapped in place."
        )

    names: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
        modules[id(module)] = module
    all_names = [name for group in names.values() for name in group if name]
    check_patterns(skip, all_names, "skip")

    # A region is a module whose children are not swapped, with the reason.
    regions = [(n.name, f"inside the neuron {n.name!r}") for n in neurons_of(model)]
    for key, module in modules.items():
        if isinstance(module, IntegerFirst):
            regions += [(name, "") for name in names[key]]
        elif isinstance(module, _READ_CHILDREN):
            reason = f"{type(module).__name__} reads the weights of its layers itself"
            regions += [(name, reason) for name in names[key]]

    chosen: list[tuple[int, type[Any], WeightConfig]] = []
    left: list[LeftLayer] = []
    candidates: list[str] = []
    for key, module in modules.items():
        if not _has_matrix(module):
            continue
        name = names[key][0]
        region = next((reason for outer, reason in regions if outer != name and _inside(name, outer)), None)
        target, reason = (None, region) if region is not None else _target(module, known)
        if target is not None:
            candidates += names[key]
            configs = {plan.config_for(n) for n in names[key]}
            if len(configs) > 1:
                raise ConfigError(f"The plan gives the shared layer {' = '.join(names[key])} different precisions.")
            chosen_config = configs.pop()
            if any(matches(n, p) or _inside(n, m) for p in skip for n in names[key] for m in all_names if matches(m, p)):
                reason = "skipped by name"
            elif isinstance(chosen_config, Float):
                reason = "float by plan"
            else:
                chosen.append((key, target, chosen_config))
                continue
        if reason:
            left.append(LeftLayer(" = ".join(names[key]), type(module).__name__, reason))

    plan.check_names(candidates)
    if not chosen:
        why = "; ".join(f"{entry.name or 'the model'}: {entry.reason}" for entry in left[:5]) or "it has no weight matrices"
        raise NothingToQuantizeError(f"Nothing to quantise in {type(model).__name__}: {why}.")
    for key, _, _ in chosen:
        weight: Any = modules[key].weight
        if not torch.isfinite(weight).all():
            raise NonFiniteWeightError(
                f"The weight of {names[key][0]!r} holds NaN or infinite values; load a good checkpoint or lower the"
                " learning rate."
            )

    replaced = []
    for key, target, layer_config in chosen:
        layer = target.from_float(modules[key], layer_config)
        for name in names[key]:
            parent, _, attribute = name.rpartition(".")
            model.get_submodule(parent)._modules[attribute] = layer
        replaced.append(
            ReplacedLayer(tuple(names[key]), type(modules[key]).__name__, layer_config, tuple(layer.weight.shape))
        )
    for framework in loaded:
        framework.after_swap(model)
    return QuantizeReport(tuple(replaced), tuple(left))


def _checked(config: object) -> WeightConfig:
    if isinstance(config, Float):
        raise ConfigError("quantize_(model, Float()) would change nothing; use Binary(), Ternary() or a plan.")
    if not isinstance(config, WeightConfig):
        raise ConfigError(f"quantize_() takes Binary(), Ternary() or a PrecisionPlan; got {config!r}.")
    return config
