"""Candidates: a level for each matrix, what the matrix gets at it, and what all of them take."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from snn_extreme_quant.accounting import WeightShape, weight_memory
from snn_extreme_quant.accounting.memory import stored_as
from snn_extreme_quant.config import Float, PrecisionPlan, WeightConfig
from snn_extreme_quant.precision_search.hierarchy import Hierarchy
from snn_extreme_quant.precision_search.levels import FLOAT
from snn_extreme_quant.precision_search.working_model import WorkingModel

__all__ = ["Assignment", "Space"]

#: The level of each matrix, in the order of :attr:`Space.names`.
Assignment = tuple[float, ...]


class Space:
    """All candidates.

    Args:
        shapes: of all weights of the model.
        hierarchy: the matrices that are searched.
        model: which knows what a matrix gets at a level.
    """

    def __init__(self, shapes: Sequence[WeightShape], hierarchy: Hierarchy, model: WorkingModel) -> None:
        """Count what no candidate changes."""
        self.names = hierarchy.matrices
        self.levels = tuple(model.configs)
        self.model = model
        self._shapes = {shape.name: shape for shape in shapes}
        self._place = {name: number for number, name in enumerate(self.names)}
        self.as_float = weight_memory(shapes, PrecisionPlan()).as_float
        others = [shape for shape in shapes if shape.name not in self._place]
        self._rest = weight_memory(others, PrecisionPlan()).total
        tied = {shape.tied for shape in shapes if shape.tied}
        #: Of tied weights files hold one copy, where precisions are the same.
        self._tied = {shape.name for shape in shapes if shape.tied or shape.name in tied}
        self._held = {stored_as(shape, Float()) for shape in others if shape.name in self._tied}
        self._bytes: dict[tuple[str, WeightConfig], int] = {}

    @property
    def start(self) -> Assignment:
        """Everything in float."""
        return (FLOAT,) * len(self.names)

    def changed(self, assignment: Assignment, names: Iterable[str], level: float) -> Assignment:
        """Return the candidate with these matrices at another level."""
        levels = list(assignment)
        for name in names:
            levels[self._place[name]] = level
        return tuple(levels)

    def level_of(self, assignment: Assignment, names: Sequence[str]) -> float:
        """Return the highest level that one of these matrices has."""
        return max(assignment[self._place[name]] for name in names)

    def lowered(self, assignment: Assignment, names: Sequence[str], level: float) -> Assignment:
        """Return the candidate with these matrices at a level, but for those that are below it."""
        places = {self._place[name] for name in names}
        return tuple(min(old, level) if place in places else old for place, old in enumerate(assignment))

    def precisions(self, assignment: Assignment) -> dict[str, WeightConfig]:
        """Return what each matrix gets; float ones are left out."""
        given = {name: self.model.precision(name, level)[0] for name, level in zip(self.names, assignment, strict=True)}
        return {name: config for name, config in given.items() if not isinstance(config, Float)}

    def notes(self, assignments: Iterable[Assignment]) -> tuple[str, ...]:
        """Return what matrices did not get at a level that was asked for, and why."""
        asked = {pair for each in assignments for pair in zip(self.names, each, strict=True)}
        found: dict[str, None] = {}
        for name, level in sorted(asked, key=lambda pair: (self._place[pair[0]], -pair[1])):
            _, why = self.model.precision(name, level)
            if why:
                found[f"{name}: {why}"] = None
        return tuple(found)

    def key(self, precisions: Mapping[str, WeightConfig]) -> str:
        """Return a short text that is the same for the same precisions, in whatever order of levels."""
        text = json.dumps({name: config.to_dict() for name, config in sorted(precisions.items())})
        return hashlib.blake2s(text.encode(), digest_size=12).hexdigest()

    def memory(self, precisions: Mapping[str, WeightConfig]) -> int:
        """Return the bytes of all weights."""
        total, held = self._rest, set(self._held)
        for name in self.names:
            config = precisions.get(name, Float())
            if name in self._tied:
                place = stored_as(self._shapes[name], config)
                if place in held:
                    continue
                held.add(place)
            total += self._of(name, config)
        return total

    def least(self) -> int:
        """Return the bytes with each matrix at its cheapest level."""
        cheapest = {
            name: min(
                (self.model.precision(name, level)[0] for level in self.levels),
                key=lambda config: self._of(name, config),
            )
            for name in self.names
        }
        return self.memory(cheapest)

    def plan(self, precisions: Mapping[str, WeightConfig]) -> PrecisionPlan:
        """Return a plan of exact names."""
        return PrecisionPlan([
            (alias, config)
            for name, config in precisions.items()
            for alias in (name, *self._shapes[name].aliases)
        ])  # fmt: skip

    def size(self, names: Iterable[str]) -> int:
        """Return the bytes of matrices in float."""
        return sum(weight_memory([self._shapes[name]._replace(tied="")]).as_float for name in names)

    def _of(self, name: str, config: WeightConfig) -> int:
        if (name, config) not in self._bytes:
            shape = self._shapes[name]
            alone = shape._replace(config=config)
            self._bytes[name, config] = weight_memory([alone]).total
        return self._bytes[name, config]
