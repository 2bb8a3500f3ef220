"""What a candidate has in common with those before it is not computed again: ``docs/search.md`` (Saved work)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.config import Float, WeightConfig
from snn_extreme_quant.precision_search.activations import Call, Calls, Store
from snn_extreme_quant.precision_search.units import Unit, attached, calls_of, units_of
from snn_extreme_quant.precision_search.working_model import WorkingModel

__all__ = ["Reuse"]

Numbers = npt.NDArray[np.float64]
Run = Callable[[], Numbers]
#: Full sets of a round's activations that there has to be room for: the current candidate's, and what is tried.
_SETS = 3


class _DivergedError(BaseException):
    """A module is given something else than was kept; no Exception, which an evaluation might pass over."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Session:
    """One evaluation: calls of some modules are given back, those of the others kept while there is room."""

    def __init__(self, known: Mapping[str, Calls], precisions: tuple[int, ...], room: float) -> None:
        self.known, self.precisions, self.room = known, precisions, room
        self.used = 0
        self._counted: set[int] = set()
        self.made: dict[str, Calls] = {}
        self.unfit: dict[str, str] = {}
        self.diverged: str | None = None
        self.given, self.computed = 0, 0
        self._places: dict[str, int] = {}

    def call(self, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do what a module's forward does."""
        known = self.known.get(name)
        if known is not None:
            place = self._places.get(name, 0)
            self._places[name] = place + 1
            if place >= len(known.calls) or not known.calls[place].fits(args, kwargs):
                self.diverged = name
                raise _DivergedError(name)
            self.given += 1
            return known.calls[place].again(args, kwargs)
        self.computed += 1
        if name in self.unfit or self.full:
            return function(*args, **kwargs)
        call, result, why = Call.made(function, args, kwargs)
        if call is None:
            self.unfit[name] = why
        else:
            self.made.setdefault(name, Calls(self.precisions)).calls.append(call)
            new = {address: size for address, size in call.storages().items() if address not in self._counted}
            self._counted.update(new)
            self.used += sum(new.values())
            if self.used > self.room:  # half of a module's calls are of no use
                self.made.clear()
        return result

    @property
    def full(self) -> bool:
        """Whether there was too little room."""
        return self.used > self.room


class Reuse:
    """Keeps activations, and gives them back where that changes nothing.

    Args:
        model: whose modules are called.
        blocks: names of its blocks.
        room: bytes.
        rounds: how many there are.
    """

    def __init__(self, model: WorkingModel, blocks: Iterable[str], room: float, rounds: int) -> None:
        """Know nothing yet."""
        self.model, self.blocks, self.room, self.rounds = model, tuple(blocks), room, rounds
        #: Why nothing is reused; "" as long as it is.
        self.why_not = ""
        self.proved = False
        #: What shows that something was given back which should not have been; "" as long as nothing does.
        self.refuted = ""
        self.given, self.computed = 0, 0
        self._names = tuple(model.shapes)
        self._numbers: dict[WeightConfig, int] = {Float(): 0}
        self._units: list[Unit] = []
        self._before: dict[str, tuple[int, ...]] = {}
        self._stores: list[Store] = []

    def scores(self, run: Run, precisions: Mapping[str, WeightConfig] | None, number: int) -> Numbers:
        """Return the scores of a round, the same as ``run()`` gives."""
        if self.why_not:
            return run()
        if not self._units:
            return self._look(run)
        if precisions is None or number >= len(self._stores):
            return run()
        now = self._described(precisions)
        known = self._known(now, number)
        try:
            return self._run(run, known, now, number)
        except _DivergedError as error:
            self._learn(error.name, known[error.name].precisions, now)
        except Exception:
            if not known:
                raise
        return self._run(run, {}, now, number)

    def again(self, run: Run, precisions: Mapping[str, WeightConfig] | None, number: int) -> Numbers:
        """Return the scores of a full pass; :attr:`refuted` says whether a module gave something else than is kept."""
        if self.why_not or precisions is None or number >= len(self._stores):
            return run()
        now = self._described(precisions)
        known = self._known(now, number)
        session, scores = self._listen(run, {}, now, self._stores[number].room)
        for name, calls in known.items():
            pairs = zip(calls.calls, session.made.get(name, Calls(now)).calls, strict=False)
            if any(one.was_given(other) and not one.gave(other) for one, other in pairs):
                self.refuted = f"a full pass of {name} gave something else than what was kept"
        return scores

    def _look(self, run: Run) -> Numbers:
        """Evaluate, and see which modules run, in which order."""
        with calls_of(self.model.model, self._names) as called:
            scores = run()
        self._units = units_of(self.model.model, self._names, self.blocks, called)
        place = {name: number for number, name in enumerate(self._names)}
        self._before = {unit.name: tuple(sorted(place[name] for name in unit.before)) for unit in self._units}
        if not self._units:
            self._stop("no module is called that could be given back")
        return scores

    # Is it sound?

    def prove(self, run: Callable[[int], Numbers]) -> None:
        """Compute each module while what the others gave is given back; where one gives something else, stop.

        Args:
            run: evaluates the model as it is on a round.
        """
        self.proved = True
        if self.why_not:
            return
        try:
            self._prove(run)
        except _DivergedError as error:
            self._stop(f"{error.name} is given other numbers each time")
        except Exception as error:  # of the evaluation, or of what it makes of a model that is listened to
            self._stop(f"{type(error).__name__}: {error}")

    def _prove(self, run: Callable[[int], Numbers]) -> None:
        if not self._units:
            self._look(lambda: run(0))
        model = self.model
        model.give({})
        now = self._described({})
        session, scores = self._listen(lambda: run(0), {}, now, self.room)
        if session.full:
            self._stop(f"activations of one round take more than reuse, which is {self.room / 1e6:.3g} MB")
            return
        self._leave_out(session)
        if not self._make_room(session.used):
            return
        # Other numbers everywhere, so that what is read past the modules' results is not what it has to be.
        lowest = min(model.configs)
        model.give({name: model.precision(name, lowest)[0] for name in self._names})
        with contextlib.suppress(Exception):  # a candidate may fail; it has left its traces
            run(1 % self.rounds)
        model.give({})
        # The last one first: what a module reads of those before it past their results is still of the other numbers.
        for unit in reversed(self._units):
            known = {name: calls for name, calls in session.made.items() if name != unit.name}
            alone, again = self._listen(lambda: run(0), known, now, self.room)
            ours, first = alone.made.get(unit.name), session.made[unit.name]
            if ours is None or len(ours.calls) != len(first.calls):
                self._stop(f"{unit.name} is called another number of times")
                return
            same = all(one.gave(other) for one, other in zip(first.calls, ours.calls, strict=True))
            if not same or not np.array_equal(scores, again, equal_nan=True):
                self._stop(f"{unit.name} reads more of other modules than what they return")
                return
        for unit in self._units:
            self._stores[0].put(self._key(unit, now), session.made[unit.name])

    def _leave_out(self, session: _Session) -> None:
        """Always compute modules whose calls cannot be given back."""
        written = {name: "what it returns is written to" for name, calls in session.made.items() if not calls.intact}
        wrong = {**written, **session.unfit}
        absent = {unit.name: "it is not always called" for unit in self._units if unit.name not in session.made}
        wrong = {**absent, **wrong}
        self._units = [unit for unit in self._units if unit.name not in wrong]
        for name in wrong:
            session.made.pop(name, None)
        if not self._units:
            name, why = next(iter(wrong.items()))
            self._stop(f"{name}: {why}")

    def _make_room(self, size: int) -> bool:
        """Share the room among the first rounds, on which most candidates are looked at; whether there is enough."""
        if self.why_not:
            return False
        kept = min(self.rounds, int(self.room // (_SETS * max(1, size))))
        if not kept:
            self._stop(
                f"activations of one round take {size / 1e6:.3g} MB, more than a third of reuse, which is"
                f" {self.room / 1e6:.3g} MB"
            )
            return False
        self._stores = [Store(self.room / kept) for _ in range(kept)]
        return True

    def _stop(self, why: str) -> None:
        self.why_not, self._stores, self._units = why, [], []

    # Running.

    def _described(self, precisions: Mapping[str, WeightConfig]) -> tuple[int, ...]:
        """Return a number for the precision of each matrix."""
        numbers, as_float = self._numbers, Float()
        return tuple(numbers.setdefault(precisions.get(name, as_float), len(numbers)) for name in self._names)

    def _key(self, unit: Unit, now: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        return unit.name, tuple(now[place] for place in self._before[unit.name])

    def _known(self, now: tuple[int, ...], number: int) -> dict[str, Calls]:
        found = {unit.name: self._stores[number].get(self._key(unit, now)) for unit in self._units}
        return {name: calls for name, calls in found.items() if calls is not None and calls.intact}

    def _run(self, run: Run, known: Mapping[str, Calls], now: tuple[int, ...], number: int) -> Numbers:
        """Evaluate, with what is known given back, and keep the rest."""
        session, scores = self._listen(run, known, now, self._stores[number].room)
        self.given, self.computed = self.given + session.given, self.computed + session.computed
        for unit in self._units:
            made = session.made.get(unit.name)
            if made is not None and unit.name not in session.unfit and made.intact:
                self._stores[number].put(self._key(unit, now), made)
        return scores

    def _listen(
        self, run: Run, known: Mapping[str, Calls], now: tuple[int, ...], room: float
    ) -> tuple[_Session, Numbers]:
        session = _Session(known, now, room)
        with attached(self.model.model, [unit.name for unit in self._units], session.call):
            scores = run()
        if session.diverged is not None:  # the evaluation passed over it
            raise _DivergedError(session.diverged)
        return session, scores

    def _learn(self, name: str, then: tuple[int, ...], now: tuple[int, ...]) -> None:
        """A module was given something else, though all before it is the same: it follows other matrices too."""
        others = {place for place, (old, new) in enumerate(zip(then, now, strict=True)) if old != new}
        if not others:
            self._stop(f"{name} is given other numbers each time")
            if self.given:  # by an evaluation that is random, or because something was wrongly given back before
                self.refuted = self.why_not
            return
        names = [unit.name for unit in self._units]
        for later in names[names.index(name) :]:
            self._before[later] = tuple(sorted({*self._before[later], *others}))
