"""A copy of the model whose matrices change precision between evaluations, without being quantised again."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.accounting import WeightShape
from snn_extreme_quant.config import Float, PrecisionPlan, WeightConfig
from snn_extreme_quant.errors import ConfigError, UnsupportedModelError
from snn_extreme_quant.frameworks import frameworks, frameworks_for, reset
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.offsets import keep_zeros, outputs_at_zero
from snn_extreme_quant.models.latent import latent
from snn_extreme_quant.precision_search.levels import FLOAT, level_name
from snn_extreme_quant.replace import quantize_

__all__ = ["WorkingModel"]

#: What a matrix gets: its precision, and why it is not the level's.
Given = tuple[WeightConfig, str]


class WorkingModel:
    """A copy of a model in which matrices are swapped.

    Weight matrices are the same Parameters as the model's; what else there is has been copied.

    Args:
        model: it is not changed.
        shapes: its matrices.
        configs: precisions by level, the most bits first.
        cache: bytes that codes of layers which are not in use may take.

    Raises:
        UnsupportedModelError: the model cannot be copied.
    """

    def __init__(
        self, model: nn.Module, shapes: Iterable[WeightShape], configs: Mapping[float, WeightConfig], cache: float
    ) -> None:
        """Copy the model, and take out what is quantised already."""
        #: What another process makes its copy of.
        self.parts = (model, tuple(shapes), dict(configs), cache)
        self.model = _copied(model)
        self.shapes = {shape.name: shape for shape in self.parts[1]}
        self.configs, self.cache = dict(configs), cache
        self._frameworks = frameworks_for(self.model)  # looking for plugins takes longer than many an evaluation
        self.fixed: Mapping[str, Given] = getattr(getattr(model, "config", None), "fixed_precisions", {})
        self._original = {name: self.model.get_submodule(name) for name in self.shapes}
        self.was_float = not any(isinstance(layer, IntegerFirst) for layer in self._original.values())
        self._zeros = _Zeros.of(self.model)
        self._float = {name: _latent(layer) for name, layer in self._original.items()}
        for name, layer in self._float.items():
            self._put(name, layer)
        self._layers: OrderedDict[tuple[str, WeightConfig], nn.Module] = OrderedDict()
        self._given: dict[tuple[str, float], Given] = {}

    def precision(self, name: str, level: float) -> Given:
        """Return what a matrix gets at a level, and why that is not the level's precision; "" if it is."""
        if level == FLOAT:
            return Float(), ""
        if (name, level) not in self._given:
            self._given[name, level] = self._settle(name, level)
        return self._given[name, level]

    def _settle(self, name: str, level: float) -> Given:
        if name in self.fixed:
            config, why = self.fixed[name]
            return config, "" if config == self.configs[level] else why
        config = self.configs[level]
        try:
            self._layer(name, config)
        except ConfigError as error:
            above = [higher for higher in self.configs if higher > level]
            kept = self.precision(name, above[-1])[0] if above else Float()
            return kept, f"level {level_name(level)} is refused, {kept!r} is kept: {error}"
        return config, ""

    def give(self, precisions: Mapping[str, WeightConfig]) -> None:
        """Give matrices these precisions; all others are float."""
        for name, layer in self._float.items():
            config = precisions.get(name, Float())
            self._put(name, layer if isinstance(config, Float) else self._layer(name, config))
        self._zeros.keep()
        self._forget({(name, config) for name, config in precisions.items()})

    def give_original(self) -> None:
        """Make the model as it was given."""
        for name, layer in self._original.items():
            self._put(name, layer)
        self._zeros.restore()

    def reset(self) -> None:
        """Put neurons into their initial state, so that no evaluation depends on the one before."""
        for framework in self._frameworks:
            framework.reset(self.model)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that evaluations must leave alone: Parameters, and buffers that are saved."""
        swapped = {f"{name}.{key}": value for name, layer in self._float.items() for key, value in _own(layer)}
        prefixes = tuple(f"{name}." for name in self._float)
        state = {k: v for k, v in self.model.state_dict(keep_vars=True).items() if not k.startswith(prefixes)}
        return {
            name: value
            for name, value in {**state, **swapped}.items()
            if isinstance(value, Tensor) and name not in self._zeros.biases
        }

    def _layer(self, name: str, config: WeightConfig) -> nn.Module:
        """Return the layer of a precision; it is made when it is first asked for."""
        key = (name, config)
        if key not in self._layers:
            others = [each for each in self._float if each not in self.fixed and (each, config) not in self._layers]
            try:  # all matrices at once: their codes are made when they are used
                self._make({*others, name}, config)
            except ConfigError:
                self._make({name}, config)
        self._layers.move_to_end(key)
        return self._layers[key]

    def _make(self, names: set[str], config: WeightConfig) -> None:
        """Make the layers of a precision; on an error the model is as it was."""
        now = {each: self.model.get_submodule(each) for each in self._float}
        try:
            for each, layer in self._float.items():
                self._put(each, layer)
            paths = [path for each in self._float if each in names for path in (each, *self.shapes[each].aliases)]
            quantize_(self.model, PrecisionPlan(dict.fromkeys(paths, config)))
            self._layers.update({(each, config): self.model.get_submodule(each).eval() for each in names})
        finally:
            for each, layer in now.items():
                self._put(each, layer)

    def _put(self, name: str, layer: nn.Module) -> None:
        for path in (name, *self.shapes[name].aliases):
            parent, _, attribute = path.rpartition(".")
            self.model.get_submodule(parent)._modules[attribute] = layer

    def _forget(self, used: set[tuple[str, WeightConfig]]) -> None:
        """Drop the codes that were not used for the longest time, where they take too much."""
        room = self.cache
        for key in reversed(self._layers):
            layer: Any = self._layers[key]
            if layer._cache.value is None:
                continue
            # Codes in float32; products of more than 2 bit keep them in float64 too.
            room -= layer.weight.numel() * (4 if key[1].bits <= 2 else 12)
            if room < 0 and key not in used:
                layer.forget_codes()


def _own(layer: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return ((key, value) for key, value in layer._parameters.items() if value is not None)


def _latent(layer: nn.Module) -> nn.Module:
    return latent(layer) if isinstance(layer, IntegerFirst) else layer


def _copied(model: nn.Module) -> nn.Module:
    """Copy a model; weight matrices stay the same Parameters, without gradients here."""
    shared: dict[int, Any] = {id(value): value for value in model.parameters() if value.dim() > 1}
    try:
        try:
            found = copy.deepcopy(model, shared)
        except RuntimeError:  # neurons hold the potentials, with their history, of the last training step
            reset(model)
            found = copy.deepcopy(model, {id(value): value for value in model.parameters() if value.dim() > 1})
    except Exception as error:
        raise UnsupportedModelError(
            f"The {type(model).__name__} cannot be copied (copy.deepcopy: {error}); the search works on a copy."
        ) from error
    for framework in frameworks():
        framework.after_swap(found)
    return found.eval()


class _Zeros:
    """Biases of a SpikingBert whose spikes stand for offsets: they follow the weights."""

    def __init__(self, model: Any, biases: Mapping[str, Tensor], zeros: Mapping[str, Tensor]) -> None:
        self.model, self.biases, self.zeros = model, biases, zeros

    @classmethod
    def of(cls, model: nn.Module) -> _Zeros:
        """Remember biases and what activations of zero give; nothing of models without offsets."""
        if not (isinstance(model, SpikingBert) and model.config.offset):
            return cls(model, {}, {})
        zeros = outputs_at_zero(model)
        biases = {f"{name}.bias": model.get_submodule(name).get_parameter("bias").detach().clone() for name in zeros}
        return cls(model, biases, zeros)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the biases back."""
        for name, value in self.biases.items():
            self.model.get_parameter(name).copy_(value)

    def keep(self) -> None:
        """Make activations of zero give what they gave before."""
        if self.zeros:
            self.restore()
            keep_zeros(self.model, self.zeros)
