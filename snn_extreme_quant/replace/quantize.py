"""The verb: check everything first, then swap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from snn_extreme_quant.config import Float, PrecisionPlan, WeightConfig, check_patterns, matches
from snn_extreme_quant.errors import (
    ConfigError,
    NonFiniteWeightError,
    NothingToQuantizeError,
    UnsupportedModelError,
)
from snn_extreme_quant.frameworks import Framework, frameworks, frameworks_for
from snn_extreme_quant.replace.fast_path import leave_fast_path
from snn_extreme_quant.replace.regions import fed_back, inner_leaves, regions_of, why_blocked
from snn_extreme_quant.replace.report import LeftLayer, QuantizeReport, ReplacedLayer
from snn_extreme_quant.replace.sites import Site, has_matrix, inside, sites_of
from snn_extreme_quant.replace.targets import TORCH_LAYERS, target_of

__all__ = ["quantize_"]


@dataclass(frozen=True)
class _Choice:
    """A layer to be swapped, by what, and in which precision."""

    site: Site
    target: type[Any]
    config: WeightConfig


def quantize_(
    model: nn.Module,
    config: WeightConfig | PrecisionPlan,
    skip: Iterable[str] = (),
) -> QuantizeReport:
    """Swap the layers of ``model`` for ones of low precision, in place.

    ``nn.Linear``, ``nn.Conv1d`` to ``nn.Conv3d``, ``nn.ConvTranspose1d`` to ``nn.ConvTranspose3d``, ``nn.Embedding``
    and the frameworks' own subclasses of them are swapped, wherever they are in the model; inside neurons if the
    neuron calls them like any layer (``RLeaky.recurrent``). The new layers hold the *same* Parameter objects, hooks,
    training flag and step mode, so that ties, optimisers and handles stay valid. Every other module with weights is
    listed with the reason why it stays in float. All checks come first: on an error nothing has been changed.

    Args:
        model: a model with neurons of snnTorch or SpikingJelly (or none).
        config: one precision for all layers, or a plan that assigns them by name.
        skip: names or shell patterns of layers, or of modules that hold layers, to leave in float.

    Returns:
        What was replaced, what was left, and why.

    Raises:
        ConfigError: a layer cannot have the precision that it would get; the message names the layer.
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
    sites = sites_of(model)
    chosen, left = _choose(model, sites, plan, [skip] if isinstance(skip, str) else list(skip))
    _check_finite(chosen)
    layers = [_build(choice) for choice in chosen]

    for choice, layer in zip(chosen, layers, strict=True):
        for name in choice.site.names:
            parent, _, attribute = name.rpartition(".")
            model.get_submodule(parent)._modules[attribute] = layer
    notes = leave_fast_path(sites)
    added = sum(len(set(new.parameters()) - set(old.site.module.parameters())) for old, new in _pairs(chosen, layers))
    if added:
        notes.append(f"{added} learned scales are new Parameters: make the optimiser after this, or add them to it")
    for framework in frameworks():
        framework.after_swap(model)
    replaced = tuple(
        ReplacedLayer(old.site.names, type(old.site.module).__name__, old.config, tuple(new.weight.shape))
        for old, new in _pairs(chosen, layers)
    )
    return QuantizeReport(replaced, tuple(left), tuple(notes))


def _pairs(chosen: list[_Choice], layers: list[Any]) -> list[tuple[_Choice, Any]]:
    return list(zip(chosen, layers, strict=True))


def _choose(
    model: nn.Module, sites: list[Site], plan: PrecisionPlan, skip: list[str]
) -> tuple[list[_Choice], list[LeftLayer]]:
    """Decide about every module with weights, without touching the model."""
    loaded = frameworks_for(model)
    known = dict(TORCH_LAYERS)
    for framework in loaded:
        known.update(framework.layers())
    if target_of(model, known)[0] is not None:
        raise UnsupportedModelError(
            f"The model is itself a {type(model).__name__}; put it into nn.Sequential(...) to have it swapped in place."
        )
    skipped = _skipped(sites, skip)
    regions = regions_of(sites, loaded)
    leaves = {site.module for site in inner_leaves(sites, regions)}

    chosen: list[_Choice] = []
    left: list[LeftLayer] = []
    candidates: list[str] = []
    for site in (site for site in sites if has_matrix(site.module) or site.module in leaves):
        target, reason = target_of(site.module, known)
        blocked = why_blocked(site, regions)
        if any(framework.is_neuron(site.module) for framework in loaded):
            reason = f"{type(site.module).__name__} keeps state and multiplies by its parameters itself"
        if blocked is not None and (target is not None or not blocked):
            target, reason = None, blocked
        if target is not None:
            candidates += site.names
            layer_config = _config_of(site, plan)
            reason = _wish(site, layer_config, skipped)
            if not reason:
                chosen.append(_Choice(site, target, layer_config))
        if reason:
            left.append(LeftLayer(" = ".join(site.names), type(site.module).__name__, reason))

    plan.check_names(candidates, {name: entry.reason for entry in left for name in entry.name.split(" = ")})
    if not chosen:
        why = "; ".join(f"{entry.name or 'the model'}: {entry.reason}" for entry in left[:5])
        raise NothingToQuantizeError(
            f"Nothing to quantise in {type(model).__name__}: {why or 'it has no weight matrices'}."
        )
    _check_feedback(chosen, sites, loaded)
    return chosen, left


def _check_feedback(chosen: Iterable[_Choice], sites: Iterable[Site], loaded: Sequence[Framework]) -> None:
    """Refuse scales by group where spikes are fed back: operators of neurons take one scale for each output."""
    grouped = [choice for choice in chosen if getattr(choice.config, "per", None) == "group"]
    if not grouped:
        return
    inner = fed_back(sites, loaded)
    for choice in grouped:
        name = choice.site.names[0]
        if choice.site.module in inner:
            raise ConfigError(
                f"Layer {name!r} carries a neuron's spikes back, which takes one scale for each output, not"
                f" {choice.config!r}. Give it per='channel' in a plan, PrecisionPlan({{{name!r}: ...}}, default=...),"
                f" or leave it in float with skip=[{name!r}]."
            )


def _skipped(sites: Iterable[Site], skip: Sequence[object]) -> set[str]:
    """Return the names that ``skip`` matches, and those of all layers inside."""
    patterns = [pattern for pattern in skip if isinstance(pattern, str)]
    if len(patterns) < len(skip):
        raise ConfigError(f"skip takes names of layers, as strings; got {list(skip)!r}.")
    names = [name for site in sites for name in site.names if name]
    check_patterns(patterns, names, "skip")
    matched = [name for name in names if any(matches(name, pattern) for pattern in patterns)]
    return {name for name in names if any(name == outer or inside(name, outer) for outer in matched)}


def _config_of(site: Site, plan: PrecisionPlan) -> WeightConfig:
    configs = {plan.config_for(name) for name in site.names}
    if len(configs) > 1:
        raise ConfigError(f"The plan gives the shared layer {' = '.join(site.names)} different precisions.")
    return configs.pop()


def _wish(site: Site, config: WeightConfig, skipped: set[str]) -> str:
    """Return why the caller wants the layer left in float, or ""."""
    if skipped.intersection(site.names):
        return "skipped by name"
    return "float by plan" if isinstance(config, Float) else ""


def _check_finite(chosen: Iterable[_Choice]) -> None:
    for choice in chosen:
        if not torch.isfinite(choice.site.module.get_parameter("weight")).all():
            raise NonFiniteWeightError(
                f"The weight of {choice.site.names[0]!r} holds NaN or infinite values; load a good checkpoint or lower"
                " the learning rate."
            )


def _build(choice: _Choice) -> Any:
    """Make the quantised layer; the float one stays where it is."""
    try:
        return choice.target.from_float(choice.site.module, choice.config)
    except ConfigError as error:
        raise ConfigError(f"Layer {choice.site.names[0]!r}: {error}") from error


def _checked(config: object) -> WeightConfig:
    if isinstance(config, Float):
        raise ConfigError("quantize_(model, Float()) would change nothing; use Binary(), Ternary() or a plan.")
    if not isinstance(config, WeightConfig):
        raise ConfigError(f"quantize_() takes Binary(), Ternary(), Uniform() or a PrecisionPlan; got {config!r}.")
    return config
