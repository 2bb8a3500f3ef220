"""What the configurations of models share: the precisions of weights, checks of types, the way to JSON and back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn, Self, get_args, get_type_hints

from snn_extreme_quant.config import Binary, Float, PrecisionPlan, Ternary, WeightConfig, config_from_dict
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.registry import suggest

__all__ = ["WEIGHTS", "ModelConfig", "Weights", "weights_from_data"]

Weights = str | WeightConfig | PrecisionPlan
#: Precisions that go by a word.
WEIGHTS: dict[str, WeightConfig] = {"float": Float(), "ternary": Ternary(), "binary": Binary()}


def weights_from_data(data: Any) -> Weights:
    """Return what ``weights`` means: a word, a precision's dictionary, or a plan's.

    A plan is ``{"default": ..., "rules": [{"name": ..., "config": ...}]}``.

    Raises:
        ConfigError: none of these.

    Example:
        >>> weights_from_data("binary"), weights_from_data({"kind": "ternary", "per": "tensor"})
        ('binary', Ternary(per='tensor'))
    """
    if isinstance(data, (WeightConfig, PrecisionPlan)):
        return data
    if isinstance(data, str):
        if data not in WEIGHTS:
            raise ConfigError(f"weights={data!r}: {suggest(data, WEIGHTS)}")
        return data
    if isinstance(data, Mapping) and "default" in data:
        return _plan(data)
    if not isinstance(data, Mapping):
        raise ConfigError(f"weights={data!r}: use {', '.join(map(repr, WEIGHTS))}, a precision, or a plan.")
    return config_from_dict(data)


def _plan(data: Mapping[str, Any]) -> PrecisionPlan:
    """Read a plan's dictionary, which files of other programs may have written too."""
    given: Any = data.get("rules", ())
    if not isinstance(given, (list, tuple)):
        raise ConfigError(f"weights: the plan's rules are {given!r}; use a list of objects with 'name' and 'config'.")
    rules = []
    for number, rule in enumerate(given):
        if not isinstance(rule, Mapping) or not {"name", "config"} <= set(rule) or not isinstance(rule["name"], str):
            raise ConfigError(
                f"weights: rule {number} of the plan is {rule!r}; use an object with 'name' and 'config'."
            )
        rules.append((rule["name"], config_from_dict(rule["config"])))
    if unknown := set(data) - {"default", "rules", "format", "version"}:
        raise ConfigError(f"weights: a plan has 'default' and 'rules', not {min(map(str, unknown))!r}.")
    return PrecisionPlan(rules, config_from_dict(data["default"]))


@dataclass(frozen=True)
class ModelConfig:
    """What configurations of models share: fields checked by their types, and the way to JSON and back.

    Each has a field ``weights``, at the place of its own.
    """

    if TYPE_CHECKING:

        @property
        def weights(self) -> Weights:
            """The precisions; a field of each configuration."""

    def _check_types(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value, hint = getattr(self, field.name), hints[field.name]
            if hint in (int, bool) and type(value) is not hint:
                self._refuse(field.name, "use True or False" if hint is bool else "use a whole number")
            if hint is float and not (
                isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
            ):
                self._refuse(field.name, "use a number that is finite")
            if hint == str | None and not (value is None or isinstance(value, str)):
                self._refuse(field.name, "use None or a name")
            if isinstance(field.default, str) and field.name != "weights" and value not in get_args(hint):
                self._refuse(field.name, "use " + " or ".join(repr(choice) for choice in get_args(hint)))

    def _refuse(self, field: str, remedy: str) -> NoReturn:
        raise ConfigError(f"{type(self).__name__}({field}={getattr(self, field)!r}): {remedy}.")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; :meth:`from_dict` is the inverse."""
        weights: Any = self.weights
        if isinstance(weights, PrecisionPlan):
            rules = [{"name": name, "config": config.to_dict()} for name, config in weights.rules]
            weights = {"default": weights.default.to_dict(), "rules": rules}
        elif isinstance(weights, WeightConfig):
            weights = weights.to_dict()
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**plain, "weights": weights}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build a config; raises :class:`ConfigError` for what is no dictionary, or a field that does not exist."""
        given: object = data
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise ConfigError(f"{cls.__name__}.from_dict() takes a dictionary of its fields by name; got {given!r}.")
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ConfigError(f"{cls.__name__} has no field {unknown[0]!r}. {suggest(unknown[0], known)}")
        values = dict(data)
        if "weights" in values:
            values["weights"] = weights_from_data(values["weights"])
        return cls(**values)

    @classmethod
    def expect(cls, config: object, model: str) -> None:
        """Raise :class:`ConfigError` if a model is made with what is no configuration of its kind."""
        if not isinstance(config, cls):
            raise ConfigError(f"{model} is made with a {cls.__name__}; got {type(config).__name__}.")
