"""What a search is asked for besides its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

from snn_extreme_quant.config import WeightConfig
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.precision_search.hierarchy import Hierarchy
from snn_extreme_quant.precision_search.levels import LEVELS
from snn_extreme_quant.precision_search.metrics import is_number, room_of
from snn_extreme_quant.precision_search.tiers import check_tiers
from snn_extreme_quant.registry import suggest

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Options of :func:`~snn_extreme_quant.search`; ``docs/search.md`` says what each does.

    Args:
        levels: numbers of bits.
        configs: precisions of levels, in the place of the defaults.
        alpha: what all of the memory is worth, in points or perplexity.
        metric: of a function; an evaluator has its own.
        hierarchy: in the place of the one that the model's tree gives.
        skip: names or shell patterns of layers that stay in float.
        tiers: of ``"global"``, ``"block"``, ``"module"``, ``"matrix"``.
        ties: of ``"blocks"``, ``"modules"``.
        sensitivity: the share of the examples that the sweep looks at.
        survey: the share of the examples after which an estimate decides on the way down; 1: none does.
        confidence: of early decisions; None for none.
        exact: ``"front"`` or ``"chosen"``: what is evaluated in full at the end.
        log: the file that is appended to, and gone on with.
        seed: of the order of the examples.
        cache: bytes of codes that are kept, or text such as ``"2GB"``.
        reuse: bytes of activations that are kept, in each process; 0 or None for none.
        workers: processes of Ray; 0 for this one alone.
        address: of a Ray cluster.
        report: told of the progress.

    Raises:
        ConfigError: a value that means nothing.
    """

    levels: Iterable[float] = LEVELS
    configs: Mapping[float, WeightConfig] | None = None
    alpha: float = 10.0
    metric: str | None = None
    hierarchy: Hierarchy | Mapping[str, Any] | None = None
    skip: Iterable[str] = ()
    tiers: Iterable[str] = ("global", "block", "module")
    ties: Iterable[str] = ()
    sensitivity: float = 0.0625
    survey: float = 0.25
    confidence: float | None = 0.99
    exact: Literal["front", "chosen"] = "chosen"
    log: str | Path | None = None
    seed: int = 0
    cache: float | str = "2GB"
    reuse: float | str | None = "1GB"
    workers: int = 0
    address: str | None = None
    report: Callable[[Any], None] | None = None

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not is_number(self.alpha) or self.alpha < 0:
            self._refuse("alpha", "use a number from 0")
        if not is_number(self.sensitivity) or not 0 <= self.sensitivity <= 1:
            self._refuse("sensitivity", "use a share of the examples, 0 to 1")
        if not is_number(self.survey) or not 0 < self.survey <= 1:
            self._refuse("survey", "use a share of the examples, above 0 and up to 1")
        if self.confidence is not None and not (is_number(self.confidence) and 0 < self.confidence < 1):
            self._refuse("confidence", "use a number between 0 and 1, such as 0.99, or None")
        if self.exact not in ("front", "chosen"):
            self._refuse("exact", "use 'front' or 'chosen'")
        if type(self.seed) is not int or self.seed < 0:
            self._refuse("seed", "use a whole number from 0")
        if type(self.workers) is not int or self.workers < 0:
            self._refuse("workers", "use a whole number from 0")
        self._check_kinds()
        check_tiers(self.tiers, self.ties)

    def _check_kinds(self) -> None:
        self._several("levels", "use numbers of bits, such as [8, 4, 1.58]", text=False)
        for field in ("skip", "tiers", "ties"):
            self._several(field, "use a list of names")
        if self.configs is not None and not isinstance(self.configs, Mapping):
            self._refuse("configs", "use a dictionary of bits to precisions, such as {4: Uniform(4)}")
        if self.report is not None and not callable(self.report):
            self._refuse("report", "use a function of the progress")
        if self.log is not None and not isinstance(self.log, (str, Path)):
            self._refuse("log", "use the path of a file")
        if self.address is not None and not isinstance(self.address, str):
            self._refuse("address", "use that of a Ray cluster, as text")
        room_of(self.cache, "cache")
        room_of(self.reuse or 0, "reuse")

    def _several(self, field: str, remedy: str, *, text: bool = True) -> None:
        """Make a tuple of what is several, once: an iterator gives its values a single time."""
        given = getattr(self, field)
        if text and isinstance(given, str):
            return
        if isinstance(given, str) or not isinstance(given, Iterable):
            self._refuse(field, remedy)
        object.__setattr__(self, field, tuple(given))

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Build settings; raises :class:`ConfigError` for an option that does not exist."""
        known = {field.name for field in fields(cls)}
        unknown = next((name for name in given if name not in known), None)
        if unknown is not None:
            raise ConfigError(f"search() has no option {unknown!r}. {suggest(unknown, known)}")
        return cls(**given)

    @property
    def cache_bytes(self) -> float:
        """How much of codes is kept."""
        return room_of(self.cache, "cache")

    @property
    def reuse_bytes(self) -> float:
        """How much of activations is kept."""
        return room_of(self.reuse or 0, "reuse")

    def _refuse(self, field: str, remedy: str) -> NoReturn:
        raise ConfigError(f"search({field}={getattr(self, field)!r}): {remedy}.")
