"""What a SpikingBERT is made of: one frozen dataclass that goes to JSON and back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, get_args, get_type_hints

from snn_extreme_quant.config import Binary, Float, PrecisionPlan, Ternary, WeightConfig, config_from_dict
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.equilibrium_steps import GRID
from snn_extreme_quant.neurons.fixed_point_solvers import Failure, Method, Solver
from snn_extreme_quant.registry import suggest

__all__ = ["WEIGHTS", "ModelConfig", "SpikingBertConfig", "Weights", "weights_from_data"]

Weights = str | WeightConfig | PrecisionPlan
#: Precisions that go by a word.
WEIGHTS: dict[str, WeightConfig] = {"float": Float(), "ternary": Ternary(), "binary": Binary()}
_MOST_SYNCHRONOUS, _MOST_STEPS = 128, 1024


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


def _is_pair(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(type(layer) is int for layer in value)


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


@dataclass(frozen=True)
class SpikingBertConfig(ModelConfig):
    """Sizes, neurons, weights and profile of a :class:`~snn_extreme_quant.models.SpikingBert`.

    ``docs/spiking_bert.md`` says what each field means.

    Raises:
        ConfigError: a value, or a combination of values, that means nothing; the message names the field.

    Example:
        >>> config = SpikingBertConfig(layers=2, hidden=64, heads=4, ffn=128, weights="ternary")
        >>> SpikingBertConfig.from_dict(config.to_dict()) == config
        True
    """

    vocab: int = 30522
    positions: int = 512
    types: int = 2
    layers: int = 4
    hidden: int = 768
    heads: int = 12
    ffn: int = 3072
    classes: int = 2
    head: Literal["cls", "pooled"] = "cls"
    dropout: float = 0.1
    norm_eps: float = 1e-12
    T: int = 16
    schedule: Literal["synchronous", "step"] = "synchronous"
    signed: bool = True
    threshold: float = 1.0
    threshold_per: Literal["channel", "tensor"] = "channel"
    learn_thresholds: bool = True
    amplitude: Literal["threshold", "unit"] = "threshold"
    offset: bool = False
    leak: float = 1.0
    start: float = 0.0
    neurons: str | None = None
    feedback: tuple[tuple[int, int], ...] = ()
    solver: Method = "iteration"
    solver_tolerance: float = 1e-4
    solver_evaluations: int = 100
    solver_failure: Failure = "error"
    weights: Weights = "float"
    profile: Literal["reference", "integer"] = "reference"

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        self._check_types()
        for name in ("vocab", "positions", "types", "layers", "hidden", "heads", "ffn", "classes", "T"):
            if getattr(self, name) < 1:
                self._refuse(name, "use 1 or more")
        if self.hidden % self.heads:
            self._refuse("heads", f"use a divisor of hidden={self.hidden}")
        if not 0.0 <= self.dropout < 1.0:
            self._refuse("dropout", "use a number from 0 to below 1")
        if self.norm_eps < 0.0:
            self._refuse("norm_eps", "use a number from 0")
        if not 0.0 < self.threshold < float("inf"):
            self._refuse("threshold", "use a positive number")
        if self.offset and (self.signed or self.amplitude == "unit"):
            self._refuse(
                "offset", "it is for {0,1} spikes that carry their threshold: signed=False, amplitude='threshold'"
            )
        weights_from_data(self.weights)
        self._check_schedule()
        self._check_feedback()

    def _check_schedule(self) -> None:
        if self.schedule == "synchronous":
            if self.T > _MOST_SYNCHRONOUS or self.T & (self.T - 1):
                self._refuse("T", "the synchronous schedule takes 1, 2, 4, 8, 16, 32, 64 or 128")
            for name, default in (("leak", 1.0), ("start", 0.0), ("neurons", None)):
                if getattr(self, name) != default:
                    self._refuse(name, f"only schedule='step' has it; leave it {default}, or use schedule='step'")
            if self.feedback:
                self._refuse(
                    "feedback",
                    "use schedule='step'; on the synchronous schedule a layer emits after it has taken in all steps of"
                    " its input, so layers in a cycle would wait for each other",
                )
            return
        if self.T > _MOST_STEPS:
            self._refuse("T", f"use at most {_MOST_STEPS}")
        if not 0.0 < self.leak <= 1.0:
            self._refuse("leak", "use a number above 0 and up to 1; 1 is no leak")
        if not (-1.0 < self.start < 1.0 and self.start * GRID == round(self.start * GRID)):
            self._refuse("start", f"use a multiple of 1/{GRID:.0f} between -1 and 1, such as 0.5")
        if self.neurons is not None and self.leak != 1.0:
            self._refuse("leak", f"the frameworks round leaks differently; use leak=1 with neurons={self.neurons!r}")
        if self.neurons == "snntorch" and self.signed:
            self._refuse("signed", "snnTorch has no signed neuron; use signed=False, or neurons=None or 'spikingjelly'")

    def _check_feedback(self) -> None:
        pairs: object = self.feedback
        if not isinstance(pairs, (tuple, list)) or not all(_is_pair(pair) for pair in pairs):
            self._refuse("feedback", "use pairs (from, to) of layers, such as ((6, 0),)")
        object.__setattr__(self, "feedback", tuple((int(source), int(target)) for source, target in self.feedback))
        for source, target in self.feedback:
            if not 0 <= target < source <= self.layers:
                self._refuse("feedback", f"use pairs (from, to) with from > to, from 0 to layers={self.layers}")
        if len(set(self.feedback)) < len(self.feedback):
            self._refuse("feedback", "name each pair once")
        if not 0.0 < self.solver_tolerance < float("inf"):
            self._refuse("solver_tolerance", "use a positive number")
        if self.solver_evaluations < 1:
            self._refuse("solver_evaluations", "use 1 or more")
        if self.feedback:
            return
        for field in fields(self):
            if field.name.startswith("solver") and getattr(self, field.name) != field.default:
                self._refuse(field.name, f"only feedback needs a solver; leave it {field.default!r}, or give feedback")

    @property
    def implicit_solver(self) -> Solver:
        """How the steady state with feedback is found."""
        tolerance, most = float(self.solver_tolerance), self.solver_evaluations
        return Solver(self.solver, tolerance, most, failure=self.solver_failure)

    @property
    def plan(self) -> PrecisionPlan:
        """The precisions as a plan over the names of layers."""
        weights = weights_from_data(self.weights)
        if isinstance(weights, PrecisionPlan):
            return weights
        config = WEIGHTS[weights] if isinstance(weights, str) else weights
        present = {"encoder.*": True, "pooler": self.head == "pooled", "feedback.*": bool(self.feedback)}
        return PrecisionPlan({name: config for name, there in present.items() if there})
