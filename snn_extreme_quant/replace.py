"""``quantize_``: swap a model's layers for quantised ones, in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy
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
        layers = "1 layer" if len(self.replaced) == 1 else f"{len(self.replaced)} layers"
        return "\n".join((f"{layers} quantised, {len(self.left)} left in float", *lines))


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
    weight = module._parameters.get("weight")
    if weight is not None and (weight.is_meta or not weight.is_floating_point()):
        return None, "its weight is " + ("on the meta device; load it first" if weight.is_meta else str(weight.dtype))
    if "weight" not in module._parameters:
        return None, "its weight is computed (weight_norm or the like); remove that first"
    return known[base], ""


@dataclass(frozen=True)
class _Site:
    """A module of the model, and all the names that it has there."""

    names: tuple[str, ...]
    module: nn.Module


def _sites(model: nn.Module) -> list[_Site]:
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return [_Site(tuple(group), module) for module, group in names.items()]


def _has_matrix(module: nn.Module) -> bool:
    parameters: list[Any] = list(module._parameters.values())
    if parametrize.is_parametrized(module):
        parameters += cast("nn.Module", module.parametrizations).parameters()
    return any(p is not None and (is_lazy(p) or p.dim() >= 2) for p in parameters)


def _inside(name: str, outer: str) -> bool:
    return name != outer and (outer == "" or name.startswith(f"{outer}."))


def _regions(model: nn.Module, sites: Iterable[_Site]) -> list[tuple[str, str]]:
    """Return the names of modules whose children are not swapped, each with the reason ("" to say nothing)."""
    regions = [(n.name, f"inside the neuron {n.name!r}") for n in neurons_of(model)]
    for site in sites:
        if isinstance(site.module, IntegerFirst):
            regions += [(name, "") for name in site.names]
        elif parametrize.is_parametrized(site.module):
            # The layer itself tells why it is left; what computes its weight has nothing to add.
            regions += [(name, "") for name in site.names]
        elif isinstance(site.module, _READ_CHILDREN):
            reason = f"{type(site.module).__name__} reads the weights of its layers itself"
            regions += [(name, reason) for name in site.names]
    return regions


def _skipped(sites: Iterable[_Site], skip: Sequence[object]) -> set[str]:
    """Return the names that ``skip`` matches, and those of all layers inside."""
    patterns = [pattern for pattern in skip if isinstance(pattern, str)]
    if len(patterns) < len(skip):
        raise ConfigError(f"skip takes names of layers, as strings; got {list(skip)!r}.")
    names = [name for site in sites for name in site.names if name]
    check_patterns(patterns, names, "skip")
    matched = [name for name in names if any(matches(name, pattern) for pattern in patterns)]
    return {name for name in names if any(name == outer or _inside(name, outer) for outer in matched)}


def _config_of(site: _Site, plan: PrecisionPlan) -> WeightConfig:
    configs = {plan.config_for(name) for name in site.names}
    if len(configs) > 1:
        raise ConfigError(f"The plan gives the shared layer {' = '.join(site.names)} different precisions.")
    return configs.pop()


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
        1 layer quantised, 1 left in float
        0  Linear  ternary  8x4
        2  Linear  float    skipped by name
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"quantize_() takes a torch.nn.Module; got {type(model).__name__}.")
    plan = config if isinstance(config, PrecisionPlan) else PrecisionPlan(default=_checked(config))
    loaded = frameworks()
    known = dict(_TORCH_LAYERS)
    for framework in loaded:
        known.update(framework.layers())
    if _target(model, known)[0] is not None:
        raise UnsupportedModelError(
            f"The model is itself a {type(model).__name__}; put it into nn.Sequential(...) to have it swapped in place."
        )
    sites = _sites(model)
    skipped = _skipped(sites, [skip] if isinstance(skip, str) else list(skip))
    regions = _regions(model, sites)

    chosen: list[tuple[_Site, type[Any], WeightConfig]] = []
    left: list[LeftLayer] = []
    candidates: list[str] = []
    for site in (site for site in sites if _has_matrix(site.module)):
        region = next((reason for outer, reason in regions if any(_inside(n, outer) for n in site.names)), None)
        target, reason = (None, region) if region is not None else _target(site.module, known)
        if target is not None:
            candidates += site.names
            layer_config = _config_of(site, plan)
            reason = _wish(site, layer_config, skipped)
            if not reason:
                chosen.append((site, target, layer_config))
        if reason:
            left.append(LeftLayer(" = ".join(site.names), type(site.module).__name__, reason))

    plan.check_names(candidates, {name: entry.reason for entry in left for name in entry.name.split(" = ")})
    if not chosen:
        why = "; ".join(f"{entry.name or 'the model'}: {entry.reason}" for entry in left[:5])
        raise NothingToQuantizeError(
            f"Nothing to quantise in {type(model).__name__}: {why or 'it has no weight matrices'}."
        )
    for site, _, _ in chosen:
        if not torch.isfinite(site.module.get_parameter("weight")).all():
            raise NonFiniteWeightError(
                f"The weight of {site.names[0]!r} holds NaN or infinite values; load a good checkpoint or lower the"
                " learning rate."
            )

    replaced = tuple(_swap(model, *choice) for choice in chosen)
    for framework in loaded:
        framework.after_swap(model)
    return QuantizeReport(replaced, tuple(left))


def _wish(site: _Site, config: WeightConfig, skipped: set[str]) -> str:
    """Return why the caller wants the layer left in float, or ""."""
    if skipped.intersection(site.names):
        return "skipped by name"
    return "float by plan" if isinstance(config, Float) else ""


def _swap(model: nn.Module, site: _Site, target: type[Any], config: WeightConfig) -> ReplacedLayer:
    """Put the quantised layer in all places of ``site``."""
    layer = target.from_float(site.module, config)
    for name in site.names:
        parent, _, attribute = name.rpartition(".")
        model.get_submodule(parent)._modules[attribute] = layer
    return ReplacedLayer(site.names, type(site.module).__name__, config, tuple(layer.weight.shape))


def _checked(config: object) -> WeightConfig:
    if isinstance(config, Float):
        raise ConfigError("quantize_(model, Float()) would change nothing; use Binary(), Ternary() or a plan.")
    if not isinstance(config, WeightConfig):
        raise ConfigError(f"quantize_() takes Binary(), Ternary() or a PrecisionPlan; got {config!r}.")
    return config
