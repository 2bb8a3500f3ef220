"""What precision a weight gets: one small frozen dataclass a scheme, and plans that assign them to layers by name.

A config says *what*, never *how*: the quantiser that carries it out is looked up in
:mod:`snn_extreme_quant.quantizers` by the config's ``kind``. Configs and plans go to JSON and back unchanged.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from snn_extreme_quant.errors import ConfigError, UnmatchedNameError
from snn_extreme_quant.registry import suggest

__all__ = ["Binary", "Float", "PrecisionPlan", "Ternary", "WeightConfig", "config_from_dict"]

Granularity = Literal["tensor", "channel"]


@dataclass(frozen=True)
class WeightConfig:
    """Base of all weight precisions; ``kind`` names the scheme in files and on the command line."""

    kind: ClassVar[str] = ""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; :func:`config_from_dict` is the inverse."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Float(WeightConfig):
    """Leave the weight as it is (32-bit float)."""

    kind: ClassVar[str] = "float"


@dataclass(frozen=True)
class _Scaled(WeightConfig):
    """A scheme with one scale per tensor or per output channel."""

    per: Granularity = "channel"

    def __post_init__(self) -> None:
        if self.per not in ("tensor", "channel"):
            raise ConfigError(f"{type(self).__name__}(per={self.per!r}): use per='tensor' or per='channel'.")


@dataclass(frozen=True)
class Binary(_Scaled):
    r"""Weights in {-1, +1} times a scale (1 bit).

    .. math:: \hat W = \beta\,\mathrm{sign}(W - \alpha), \qquad \beta = \mathrm{mean}\,|W|

    with :math:`\alpha = 0` (binary-weight network, Rastegari et al. 2016, section 3.1; sign(0) = +1) or, with
    ``center=True``, :math:`\alpha = \mathrm{mean}(W)` and ties to -1 (BitNet, Wang et al. 2023, equations 1-3).
    The means run over the whole tensor or over each output channel.

    Args:
        per: ``"channel"`` (one scale an output channel) or ``"tensor"``.
        center: subtract the mean before taking the sign.

    Example:
        >>> Binary(per="tensor", center=True).to_dict()
        {'kind': 'binary', 'per': 'tensor', 'center': True}
    """

    kind: ClassVar[str] = "binary"
    center: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.center, bool):
            raise ConfigError(f"Binary(center={self.center!r}): use True or False.")


@dataclass(frozen=True)
class Ternary(_Scaled):
    r"""Weights in {-1, 0, +1} times a scale (1.58 bit).

    .. math:: \hat W = \gamma\,\mathrm{clamp}(\mathrm{round}(W/\gamma), -1, 1),
              \qquad \gamma = \max(\mathrm{mean}\,|W|, 10^{-5})

    (BitNet b1.58, Ma et al. 2024, equations 1-3). The mean runs over the whole tensor or over each output channel.

    Args:
        per: ``"channel"`` (one scale an output channel) or ``"tensor"`` (as published).

    Example:
        >>> Ternary().per
        'channel'
    """

    kind: ClassVar[str] = "ternary"


_KINDS: dict[str, type[WeightConfig]] = {c.kind: c for c in (Float, Binary, Ternary)}


def config_from_dict(data: Mapping[str, Any]) -> WeightConfig:
    """Build a config from what :meth:`WeightConfig.to_dict` gave.

    Raises:
        ConfigError: ``data`` is no dictionary, or the kind or a field is unknown.

    Example:
        >>> config_from_dict({"kind": "ternary", "per": "tensor"})
        Ternary(per='tensor')
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{data!r} is not a precision; use a dictionary like {Ternary().to_dict()}.")
    data = dict(data)
    kind = data.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigError(f"No weight precision is called {kind!r}. {suggest(str(kind), _KINDS)}")
    cls = _KINDS[kind]
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ConfigError(f"{cls.__name__} has no field {unknown[0]!r}. {suggest(unknown[0], known)}")
    return cls(**data)


@dataclass(frozen=True)
class PrecisionPlan:
    """Which layer gets which precision: patterns over layer names, in order of priority.

    A pattern is a layer's full name (``"features.0"``) or a shell pattern (``"features.*"``). The first rule that
    matches a layer decides; a layer that no rule matches gets ``default``.

    Args:
        rules: pairs of pattern and config, or a mapping.
        default: the config of layers without a rule.

    Raises:
        ConfigError: a rule is not a name with a config.

    Example:
        >>> plan = PrecisionPlan({"head": Float(), "features.*": Binary()}, default=Ternary())
        >>> plan.config_for("features.0"), PrecisionPlan.from_json(plan.to_json()) == plan
        (Binary(per='channel', center=False), True)
    """

    rules: tuple[tuple[str, WeightConfig], ...] = ()
    default: WeightConfig = Float()

    FORMAT: ClassVar[str] = "snn_extreme_quant.plan"
    VERSION: ClassVar[int] = 1

    def __init__(
        self,
        rules: Mapping[str, WeightConfig] | Iterable[tuple[str, WeightConfig]] = (),
        default: WeightConfig | None = None,
    ) -> None:
        """Check and freeze the rules."""
        default = Float() if default is None else default
        try:
            pairs = tuple((p, c) for p, c in (rules.items() if isinstance(rules, Mapping) else rules))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"A plan maps layer names to Binary(), Ternary() or Float(); got {rules!r}.") from error
        for pattern, config in (*pairs, ("default", default)):
            if not isinstance(pattern, str) or not isinstance(config, WeightConfig):
                raise ConfigError(
                    f"A plan maps layer names to Binary(), Ternary() or Float(); got {pattern!r}: {config!r}."
                )
        object.__setattr__(self, "rules", pairs)
        object.__setattr__(self, "default", default)

    def config_for(self, name: str) -> WeightConfig:
        """Return the config of the layer called ``name``."""
        return next((config for pattern, config in self.rules if matches(name, pattern)), self.default)

    def check_names(self, names: Iterable[str], unfit: Mapping[str, str] | None = None) -> None:
        """Raise :class:`UnmatchedNameError` for the first pattern that matches none of ``names``.

        Args:
            names: layers that can be quantised.
            unfit: layers that cannot, with the reason; naming one of them is an error that says so.
        """
        names = list(names)
        for pattern, _ in self.rules:
            reasons = [
                f"{name!r} cannot be quantised: {why}" for name, why in (unfit or {}).items() if matches(name, pattern)
            ]
            if reasons and not any(matches(name, pattern) for name in names):
                raise UnmatchedNameError(f"{pattern!r} in the plan: {reasons[0]}. Take the rule out.")
        check_patterns([pattern for pattern, _ in self.rules], names, "the plan")

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps(
            {
                "format": self.FORMAT,
                "version": self.VERSION,
                "rules": [{"name": pattern, "config": config.to_dict()} for pattern, config in self.rules],
                "default": self.default.to_dict(),
            },
            indent=2,
        )

    @classmethod
    def from_json(cls, text: str) -> PrecisionPlan:
        """Build a plan from :meth:`to_json`'s text; raises :class:`ConfigError` if it is not a plan."""
        try:
            data = json.loads(text)
            if data["format"] != cls.FORMAT or data["version"] != cls.VERSION:
                raise ConfigError(
                    f"Not a plan of this version: format {data['format']!r}, version {data['version']!r};"
                    f" this release reads {cls.FORMAT!r}, version {cls.VERSION}."
                )
            rules = [(rule["name"], config_from_dict(rule["config"])) for rule in data["rules"]]
            return cls(rules, config_from_dict(data["default"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ConfigError(
                f"Not a precision plan: {error!r}. Write one with PrecisionPlan(...).to_json()."
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> PrecisionPlan:
        """Read a plan from a JSON file; raises :class:`ConfigError` if there is none."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The plan {path} cannot be read: {error}.") from error
        return cls.from_json(text)


def matches(name: str, pattern: str) -> bool:
    """Whether a layer's name is, or fits, the pattern (``*``, ``?``, ``[...]``; case counts)."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def check_patterns(patterns: Iterable[str], names: Iterable[str], where: str) -> None:
    """Raise :class:`UnmatchedNameError` for the first pattern that matches none of ``names``; ``where`` holds it."""
    names = list(names)
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            raise UnmatchedNameError(f"{pattern!r} in {where} matches no layer. {suggest(pattern, names)}")
