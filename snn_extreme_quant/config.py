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
from typing import Any, ClassVar, Literal, NoReturn

from snn_extreme_quant.errors import ConfigError, UnmatchedNameError
from snn_extreme_quant.registry import Registry, suggest

__all__ = ["CONFIGS", "Binary", "Float", "PrecisionPlan", "Ternary", "Uniform", "WeightConfig", "config_from_dict"]

Granularity = Literal["tensor", "channel", "group"]


@dataclass(frozen=True)
class WeightConfig:
    """Base of all weight precisions; ``kind`` names the scheme in files and on the command line.

    A third party's precision is a frozen dataclass derived from this class and registered in :data:`CONFIGS`; what
    carries it out goes into :data:`snn_extreme_quant.quantizers.injectors.INJECTORS`.
    """

    kind: ClassVar[str] = ""

    @property
    def bits(self) -> int:
        """Bits a stored weight takes (32 for float; a ternary weight of 1.58 bit is stored in 2, or packed in 1.6)."""
        return 32

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; :func:`config_from_dict` is the inverse."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Float(WeightConfig):
    """Leave the weight as it is (32-bit float)."""

    kind: ClassVar[str] = "float"


class _Scaled(WeightConfig):
    """A scheme with scales, by tensor, output channel or group.

    No dataclass itself, so that each scheme lists its fields in the order in which one writes them.
    """

    per: Granularity
    scale: str
    group_size: int | None
    _SCALES: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        if self.per not in ("tensor", "channel", "group"):
            self._refuse("per", "use per='tensor', per='channel' or per='group'")
        if self.scale not in self._SCALES:
            self._refuse("scale", "use " + " or ".join(f"scale={name!r}" for name in self._SCALES))
        if self.per != "group":
            if self.group_size is not None:
                self._refuse("group_size", "leave group_size out, or use per='group'")
        elif type(self.group_size) is not int or self.group_size < 1:
            self._refuse("group_size", "per='group' needs group_size=..., the inputs that share a scale (64, say)")

    def _refuse(self, field: str, remedy: str) -> NoReturn:
        raise ConfigError(f"{type(self).__name__}({field}={getattr(self, field)!r}): {remedy}.")

    def __repr__(self) -> str:
        """Show ``per`` and what differs from the defaults."""
        shown = [f for f in fields(self) if f.name == "per" or getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"


@dataclass(frozen=True, repr=False)
class Binary(_Scaled):
    r"""Weights in {-1, +1} times a scale (1 bit).

    .. math:: \hat W = \beta\,\mathrm{sign}(W - \alpha), \qquad \beta = \mathrm{mean}\,|W|

    with :math:`\alpha = 0` (binary-weight network, Rastegari et al. 2016, section 3.1; the sign is the sign bit) or,
    with ``center=True``, :math:`\alpha = \mathrm{mean}(W)` and ties to -1 (BitNet, Wang et al. 2023,
    equations 1-3). The means run over the tensor, the output channel or the group.

    Args:
        per: ``"channel"`` (one scale an output channel), ``"tensor"``, or ``"group"`` (one for every ``group_size``
            inputs of an output channel).
        center: subtract the mean before taking the sign.
        scale: ``"mean"``, or ``"learned"``: :math:`\beta` is a parameter that starts at the mean and is trained by
            the rule of LSQ (Esser et al. 2020).
        group_size: with ``per="group"``: inputs of a linear layer, or input channels of a convolution, that share a
            scale. The last group takes what is left.

    Raises:
        ConfigError: a value, or a combination of values, that means nothing.

    Example:
        >>> Binary(per="tensor", center=True)
        Binary(per='tensor', center=True)
        >>> Binary(per="group", group_size=64).to_dict()
        {'kind': 'binary', 'per': 'group', 'center': False, 'scale': 'mean', 'group_size': 64}
    """

    kind: ClassVar[str] = "binary"
    _SCALES: ClassVar[tuple[str, ...]] = ("mean", "learned")

    per: Granularity = "channel"
    center: bool = False
    scale: Literal["mean", "learned"] = "mean"
    group_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.center, bool):
            self._refuse("center", "use True or False")

    @property
    def bits(self) -> int:
        """1."""
        return 1


@dataclass(frozen=True, repr=False)
class Ternary(_Scaled):
    r"""Weights in {-1, 0, +1} times a scale (1.58 bit).

    .. math:: \hat W = \gamma\,\mathrm{clamp}(\mathrm{round}(W/\gamma), -1, 1)

    The scale :math:`\gamma` is, over the tensor, the output channel or the group,

    - ``"absmean"``: :math:`\mathrm{mean}\,|W|` (BitNet b1.58, Ma et al. 2024, equations 1-3);
    - ``"twn"``: codes are :math:`\mathrm{sign}(W)` where :math:`|W| > 0.7\,\mathrm{mean}\,|W|`, else 0, and the
      scale is the mean of those :math:`|W|` (ternary weight networks, Li et al. 2016);
    - ``"mse"``: the :math:`\gamma` of the least :math:`\lVert W - \hat W\rVert^2`, found exactly by sorting;
    - ``"learned"``: a parameter that starts at ``"mse"``'s value and is trained by the rule of LSQ (Esser et
      al. 2020).

    No scale is below :math:`10^{-5}`.

    Args:
        per: ``"channel"`` (one scale an output channel), ``"tensor"`` (as b1.58 was published), or ``"group"``.
        scale: how the scale is found.
        group_size: as for :class:`Binary`.

    Raises:
        ConfigError: a value, or a combination of values, that means nothing.

    Example:
        >>> Ternary(), Ternary(scale="twn")
        (Ternary(per='channel'), Ternary(per='channel', scale='twn'))
    """

    kind: ClassVar[str] = "ternary"
    _SCALES: ClassVar[tuple[str, ...]] = ("absmean", "twn", "mse", "learned")

    per: Granularity = "channel"
    scale: Literal["absmean", "twn", "mse", "learned"] = "absmean"
    group_size: int | None = None

    @property
    def bits(self) -> int:
        """2: what a code takes in a file; 1.6 with ``ternary_packing="1.6bit"``."""
        return 2


@dataclass(frozen=True, repr=False)
class Uniform(_Scaled):
    r"""Integer weights of ``bits`` bit, symmetric around 0, times a scale; meant for post-training quantisation.

    .. math:: \hat W = s\,\mathrm{clamp}(\mathrm{round}(W/s), -q, q), \qquad q = 2^{b-1} - 1

    with :math:`s = \max|W| / q` or, with ``scale="mse"``, the :math:`s` of the least
    :math:`\lVert W - \hat W\rVert^2` that a search finds. The code :math:`-2^{b-1}` is not used (narrow range), as in
    Jacob et al. 2018, section 3.

    Args:
        bits: b, 2 to 16; a file stores exactly so many (2 as ternary codes, which they are).
        per: ``"channel"`` (one scale an output channel), ``"tensor"`` or ``"group"``.
        scale: ``"max"`` or ``"mse"``.
        group_size: as for :class:`Binary`.

    Raises:
        ConfigError: a value, or a combination of values, that means nothing.

    Example:
        >>> Uniform(4, scale="mse")
        Uniform(bits=4, per='channel', scale='mse')
    """

    kind: ClassVar[str] = "uniform"
    _SCALES: ClassVar[tuple[str, ...]] = ("max", "mse")

    bits: int = 8
    per: Granularity = "channel"
    scale: Literal["max", "mse"] = "max"
    group_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.bits) is not int or not 2 <= self.bits <= 16:
            self._refuse("bits", "use 2 to 16; for 1 bit use Binary()")


#: The precisions by ``kind``; third parties may add theirs.
CONFIGS: Registry[type[WeightConfig]] = Registry("weight precision")
for _config in (Float, Binary, Ternary, Uniform):
    CONFIGS.register(_config.kind, _config, origin="snn_extreme_quant")


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
    if not isinstance(kind, str) or kind not in CONFIGS:
        raise ConfigError(f"No weight precision is called {kind!r}. {suggest(str(kind), CONFIGS)}")
    cls = CONFIGS.get(kind)
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
        (Binary(per='channel'), True)
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
            raise ConfigError(
                f"A plan maps layer names to Binary(), Ternary(), Uniform() or Float(); got {rules!r}."
            ) from error
        for pattern, config in (*pairs, ("default", default)):
            if not isinstance(pattern, str) or not isinstance(config, WeightConfig):
                raise ConfigError(
                    "A plan maps layer names to Binary(), Ternary(), Uniform() or Float();"
                    f" got {pattern!r}: {config!r}."
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
        except (ValueError, TypeError, RecursionError) as error:
            place = f" in line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise _no_plan(f"the text is no JSON{place}") from error
        if not isinstance(data, dict):
            raise _no_plan(f"the text is a {type(data).__name__}, not an object")
        missing = next((key for key in ("format", "version", "rules", "default") if key not in data), None)
        if missing is not None:
            raise _no_plan(f"it has no {missing!r}")
        if data["format"] != cls.FORMAT or data["version"] != cls.VERSION:
            raise ConfigError(
                f"Not a plan of this version: format {data['format']!r}, version {data['version']!r};"
                f" this release reads {cls.FORMAT!r}, version {cls.VERSION}."
            )
        if not isinstance(data["rules"], list):
            raise _no_plan("its 'rules' are no list")
        rules = []
        for number, rule in enumerate(data["rules"]):
            if not isinstance(rule, dict) or not {"name", "config"} <= set(rule) or not isinstance(rule["name"], str):
                raise _no_plan(f"rule {number} is no object with a 'name' and a 'config'")
            rules.append((rule["name"], _config_in_plan(rule["config"], f"rule {number}")))
        return cls(rules, _config_in_plan(data["default"], "'default'"))

    @classmethod
    def load(cls, path: str | Path) -> PrecisionPlan:
        """Read a plan from a JSON file; raises :class:`ConfigError` if there is none."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"The plan {path} cannot be read: {error.strerror or 'the system gives no reason'}."
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"The plan {path} is no text in UTF-8; write PrecisionPlan(...).to_json() to it."
            ) from error
        try:
            return cls.from_json(text)
        except ConfigError as error:
            raise ConfigError(f"The plan {path}: {error}") from error


def _no_plan(why: str) -> ConfigError:
    return ConfigError(f"Not a precision plan: {why}. Write one with PrecisionPlan(...).to_json().")


def _config_in_plan(data: object, where: str) -> WeightConfig:
    if not isinstance(data, dict):
        raise _no_plan(f"the config of {where} is a {type(data).__name__}, not an object with a 'kind'")
    try:
        return config_from_dict(data)
    except (TypeError, ConfigError) as error:
        raise ConfigError(f"The config of {where} in the plan: {error}") from error


def matches(name: str, pattern: str) -> bool:
    """Whether a layer's name is, or fits, the pattern (``*``, ``?``, ``[...]``; case counts)."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def check_patterns(patterns: Iterable[str], names: Iterable[str], where: str) -> None:
    """Raise :class:`UnmatchedNameError` for the first pattern that matches none of ``names``; ``where`` holds it."""
    names = list(names)
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            raise UnmatchedNameError(f"{pattern!r} in {where} matches no layer. {suggest(pattern, names)}")
