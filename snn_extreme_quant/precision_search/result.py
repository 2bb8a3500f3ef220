"""What a search found; goes to JSON and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from snn_extreme_quant.config import PrecisionPlan
from snn_extreme_quant.errors import DataError, SxqError
from snn_extreme_quant.output_files import check_writable, write_whole
from snn_extreme_quant.precision_search.levels import level_name
from snn_extreme_quant.precision_search.metrics import METRICS

__all__ = ["Baseline", "Candidate", "PathStep", "SearchResult", "megabytes"]

_FORMAT, _VERSION = "snn_extreme_quant.search", 1


@dataclass(frozen=True)
class Candidate:
    """A plan, and what is known of it.

    Args:
        levels: of each matrix.
        plan: what the matrices get.
        quality: the metric; an estimate unless ``exact``, NaN if the candidate failed.
        drop: by how much the quality is worse than the baseline's.
        memory: bytes of the exported file's weights.
        saved: the part of the memory of float32 that is saved.
        score: of equation 1.
        exact: whether all examples were evaluated.
        examples: how many were.
        status: ``"ok"``, ``"violated"`` (beyond ``max_drop``), ``"failed"``, ``"open"`` (its quality is an estimate,
            and whether the drop is within the limit is not certain).
        reason: why it failed.
    """

    levels: Mapping[str, float]
    plan: PrecisionPlan
    quality: float
    drop: float
    memory: int
    saved: float
    score: float
    exact: bool
    examples: int
    status: str
    reason: str = ""

    def __eq__(self, other: object) -> bool:
        """Whether all is the same; what could not be measured, which is NaN, is the same too."""
        return isinstance(other, Candidate) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; numbers that are none become null."""
        plain = {key: value for key, value in vars(self).items() if key != "plan"}
        plain["levels"] = {name: float(level) for name, level in self.levels.items()}
        for key in ("quality", "drop", "score"):
            plain[key] = plain[key] if math.isfinite(plain[key]) else None
        return {**plain, "plan": json.loads(self.plan.to_json())}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build it from what :meth:`to_dict` gave."""
        given = dict(data)
        for key in ("quality", "drop", "score"):
            given[key] = math.nan if given[key] is None else given[key]
        return cls(**{**given, "plan": PrecisionPlan.from_json(json.dumps(given["plan"]))})


@dataclass(frozen=True)
class Baseline:
    """The model as it was given.

    Args:
        quality: its metric.
        memory: bytes of its weights in float32.
    """

    quality: float
    memory: int


@dataclass(frozen=True)
class PathStep:
    """A candidate of the tiers.

    Args:
        tier: where it was tried.
        group: what was lowered.
        level: to which level.
        kept: whether the search went on from it.
        candidate: its number in :attr:`SearchResult.candidates`.
    """

    tier: str
    group: str
    level: float
    kept: bool
    candidate: int


@dataclass(frozen=True)
class SearchResult:
    """What a search found. Printing it gives a report.

    Args:
        chosen: the feasible candidate of the best score; None if there is none.
        baseline: what drops and savings are relative to.
        candidates: all, in their order.
        front: those that no other beats in memory and quality, by memory.
        sensitivity: by block and level the drop where the block alone is quantised; by default of a part of the
            levels, on a part of the examples (``sensitivity=1`` looks at all of both).
        path: what was tried in the tiers.
        roles: by block ``"input"``, ``"body"`` or ``"output"``.
        settings: what was asked for: metric, limits, alpha, levels and the rest.
        least_memory: where nothing is feasible, the candidate of the least memory at the allowed drop.
        least_drop: where nothing is feasible, that of the least drop at the allowed memory.
        least_possible: bytes of the smallest candidate that there is.
        notes: levels that matrices did not take, and why.
        cost: ``examples_evaluated``, ``evaluations`` (in whole sets of examples), ``decided_early``,
            ``seconds``; ``docs/search.md`` (Result) has the rest.
    """

    chosen: Candidate | None
    baseline: Baseline
    candidates: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    sensitivity: Mapping[str, Mapping[float, float]]
    path: tuple[PathStep, ...]
    roles: Mapping[str, str]
    settings: Mapping[str, Any]
    least_memory: Candidate | None = None
    least_drop: Candidate | None = None
    least_possible: int = 0
    notes: tuple[str, ...] = ()
    cost: Mapping[str, float] | None = None

    @property
    def feasible(self) -> bool:
        """Whether the limits can be met, as far as was looked."""
        return self.chosen is not None

    @property
    def plan(self) -> PrecisionPlan | None:
        """The plan that was chosen."""
        return None if self.chosen is None else self.chosen.plan

    @property
    def evaluations(self) -> float:
        """What was evaluated, in whole sets of examples."""
        return (self.cost or {}).get("evaluations", math.nan)

    @property
    def examples_evaluated(self) -> int:
        """How many examples were evaluated, of all candidates together."""
        return int((self.cost or {}).get("examples_evaluated", 0))

    @property
    def decided_early(self) -> int:
        """How many candidates were decided by the sequential test."""
        return int((self.cost or {}).get("decided_early", 0))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        sensitivity = {
            name: {level_name(level): drop if math.isfinite(drop) else None for level, drop in drops.items()}
            for name, drops in self.sensitivity.items()
        }
        places = {id(candidate): number for number, candidate in enumerate(self.candidates)}

        def place(candidate: Candidate | None) -> int | None:
            return None if candidate is None else places[id(candidate)]

        return {
            "format": _FORMAT, "version": _VERSION, "feasible": self.feasible, "chosen": place(self.chosen),
            "least_memory": place(self.least_memory), "least_drop": place(self.least_drop),
            "least_possible": self.least_possible, "baseline": vars(self.baseline),
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "front": [place(candidate) for candidate in self.front], "sensitivity": sensitivity,
            "path": [vars(step) for step in self.path], "roles": dict(self.roles), "settings": dict(self.settings),
            "notes": list(self.notes), "cost": dict(self.cost or {}),
        }  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write the result as JSON; raises :class:`OutputPathError`."""
        check_writable(Path(path))
        write_whole(Path(path), json.dumps(self.to_dict(), indent=1, allow_nan=False).encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; raises :class:`DataError` for anything else."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"The result {path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise DataError(f"The result {path} is no JSON; name what `sxq search --result` wrote.") from error
        try:
            if (data["format"], data["version"]) != (_FORMAT, _VERSION):
                raise DataError(f"{path} is no result of a search that this release reads.")
            candidates = tuple(Candidate.from_dict(entry) for entry in data["candidates"])

            def at(number: int | None) -> Candidate | None:
                return None if number is None else candidates[number]

            return cls(
                chosen=at(data["chosen"]),
                baseline=Baseline(**data["baseline"]),
                candidates=candidates,
                front=tuple(candidates[number] for number in data["front"]),
                sensitivity={
                    name: {float(level): math.inf if drop is None else drop for level, drop in drops.items()}
                    for name, drops in data["sensitivity"].items()
                },
                path=tuple(PathStep(**step) for step in data["path"]),
                roles=data["roles"],
                settings=data["settings"],
                least_memory=at(data["least_memory"]),
                least_drop=at(data["least_drop"]),
                least_possible=data["least_possible"],
                notes=tuple(data["notes"]),
                cost=data["cost"],
            )
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            if isinstance(error, SxqError):
                raise
            raise DataError(f"{path} is no result of a search, or is damaged: {error!r}.") from error

    def __str__(self) -> str:
        """Render as a report."""
        lines = [self._summary()]
        if self.chosen is not None:
            lines += _by_level(self.chosen)
        else:
            lines += self._nearest()
        if self.front:
            lines.append(f"Pareto front ({len(self.front)} of {len(self.candidates)} candidates):")
            lines += [f"  {self._figures(candidate)}" for candidate in self.front]
        lines += list(self.notes)
        if self.cost:
            lines.append(
                f"{self.evaluations:.1f} evaluations of all examples ({self.examples_evaluated} examples),"
                f" {self.decided_early} candidates decided early, {self.cost['seconds']:.1f} s"
            )
        return "\n".join(lines)

    def _limits(self) -> str:
        drop, memory = self.settings["max_drop"], self.settings["max_memory"]
        said = [] if drop is None else [f"a drop of at most {drop:g} {METRICS[self.settings['metric']].unit}"]
        said += [] if memory is None else [f"{megabytes(memory)} of memory"]
        return " and ".join(said)

    def _summary(self) -> str:
        metric = self.settings["metric"]
        base = f"{metric} {self.baseline.quality:.4g} in {megabytes(self.baseline.memory)} of float32"
        if self.chosen is None:
            return f"No plan meets {self._limits()}; the model has {base}."
        return f"{self._figures(self.chosen)}; the model has {base}. Limits: {self._limits()}."

    def _figures(self, candidate: Candidate) -> str:
        about = "" if candidate.exact else f" (estimate of {candidate.examples} examples)"
        return (
            f"{self.settings['metric']} {candidate.quality:.4g} (drop {candidate.drop:+.3g}) in"
            f" {megabytes(candidate.memory)}, {candidate.saved:.1%} saved, score {candidate.score:.5g}{about}"
        )

    def _nearest(self) -> Iterable[str]:
        sides = (
            ("least memory at the allowed drop", self.least_memory),
            ("least drop at the allowed memory", self.least_drop),
        )
        for what, candidate in sides:
            if candidate is not None:
                yield f"{what}: {self._figures(candidate)}"
                yield from _by_level(candidate)
        if self.least_memory is None:
            yield "No candidate that was tried, nor float32, is within the allowed drop."
        if self.least_drop is None:
            limit = self.settings["max_memory"]
            if limit is not None and limit < self.least_possible:
                yield f"The lowest levels everywhere take {megabytes(self.least_possible)}, more than is allowed."
            else:
                yield "No candidate within the allowed memory could be evaluated."


def _by_level(candidate: Candidate) -> list[str]:
    """Return the matrices of each level; many of one level are counted."""
    found: dict[float, list[str]] = {}
    for name, level in candidate.levels.items():
        found.setdefault(level, []).append(name)
    lines = []
    for level, names in sorted(found.items(), reverse=True):
        shown = ", ".join(names[:6]) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")
        lines.append(f"  {level_name(level):>5}  {shown}")
    return lines


def megabytes(size: float) -> str:
    """Return bytes as text with a unit.

    Example:
        >>> megabytes(431_000_000), megabytes(2500)
        ('431 MB', '2.5 kB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.4g} {unit}"
    return f"{size:.0f} B"
